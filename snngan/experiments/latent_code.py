"""The embedding picture of pt-snnl: an autoencoder's latent code with the loss and without, and its clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from snngan.data.datasets import load_dataset
from snngan.evaluation.clusters import cluster_accuracy, k_means
from snngan.evaluation.plots import plot_scatter_panels, tsne
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.autoencoders import SIDES, Autoencoders
from snngan.experiments.points import relative_loss
from snngan.experiments.running import shown
from snngan.stats import summarize
from snngan.training.classifier import reading_order
from snngan.training.classifier_plan import check_labels

READ = 1000
"""Held-out images whose codes are drawn, and whose entanglement is read."""


@EXPERIMENTS.register("latent-code")
@dataclass(frozen=True, kw_only=True)
class LatentCode(Autoencoders, Experiment):
    """Trains the same autoencoder with the loss of the code, of its first units, of all encoder layers, and without."""

    source: ClassVar[str] = "pt-snnl, figure of its README"
    summary: ClassVar[str] = "An autoencoder's latent code with the loss and without: pictures, and k-means' accuracy"
    presets: ClassVar[Mapping[str, Experiment]]

    seeds: int = count()

    def run(self, setting: Setting) -> Finding:
        dataset = load_dataset(self.dataset, data_dir=setting.data_dir, notify=setting.notify)
        check_labels(dataset)
        labels = dataset.test_labels
        assert labels is not None
        read = reading_order(dataset.test_images)[:READ]
        rows: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
        drawn: dict[str, Tensor] = {}
        for side, row in rows.items():
            for seed in range(self.seeds):
                codes, error = self.codes(side, seed, dataset, setting)
                found = k_means(codes, dataset.num_classes)
                for name, each in (
                    ("k-means accuracy", cluster_accuracy(labels, found, dataset.num_classes)),
                    ("squared error", error),
                    ("entanglement", relative_loss(codes[read], labels[read])),
                ):
                    row.setdefault(name, []).append(each)
                if seed == 0:
                    drawn[side] = codes[read]
        numbers: dict[str, Any] = {
            side: {name: summarize(values) for name, values in row.items()} for side, row in rows.items()
        }
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, a code of {self.code} values. "
            "k-means (10 starts) of the held-out images' codes, accuracy under the best matching of clusters and "
            "classes. The loss has the training images' labels, k-means has none. Squared error: of the "
            "reconstructions, a pixel being in [-1, 1]. Entanglement: the loss of the whole code at its "
            f"optimal T over that at an infinite one, of {len(read)} held-out images. Mean over seeds (Student's 95 % "
            "interval).",
            "", "| | k-means accuracy | squared error | entanglement of the code |", "|---|---|---|---|",
            *(f"| {side} | {' | '.join(map(shown, row.values()))} |" for side, row in numbers.items()),
        ]  # fmt: skip
        panels = {
            f"{side}: {how.__name__}": (how(drawn[side]), labels[read])
            for how in (pca, tsne) for side in ("baseline", "SNNL of the code")
        }  # fmt: skip
        return Finding(numbers, text, [plot_scatter_panels(panels, 2, setting.folder / "codes.png")])


def pca(points: Tensor) -> Tensor:
    """Return the places (N, 2) of points (N, D) along their two principal components."""
    centered = points - points.mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False).Vh[:2]
    places: Tensor = centered @ axes.T
    return places


LatentCode.presets = MappingProxyType(
    {
        "smoke": LatentCode(dataset="digits", seeds=2, steps=4, batch_size=32, code=4, widths="16-16-32"),
        "cpu": LatentCode(dataset="mnist", seeds=4, steps=600, batch_size=256),
        "paper": LatentCode(dataset="mnist", seeds=4, steps=7000, batch_size=256),
    }
)
