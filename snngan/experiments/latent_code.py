"""The embedding plot of pt-snnl: an autoencoder's latent code with the loss and without, and its clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snngan.config import option
from snngan.evaluation.clusters import cluster_accuracy, k_means
from snngan.evaluation.planes import planes
from snngan.evaluation.plots import tsne
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.autoencoder_codes import MNIST, VARIANTS, AutoencoderExperiment
from snngan.experiments.runs import held_out_subset, load_labeled
from snngan.experiments.tables import markdown_table, record, summarize_nested
from snngan.experiments.toy_points import normalized_loss

NUM_DRAWN = 1000
"""Held-out images whose codes are plotted, and whose entanglement is measured."""


@EXPERIMENTS.register("latent-code")
@dataclass(frozen=True, kw_only=True)
class LatentCode(AutoencoderExperiment):
    """Train an autoencoder without the loss, and with that of the code, of half the code and of all encoder layers."""

    source = "pt-snnl, figure of its README"
    summary = "An autoencoder's latent code with the loss and without: pictures, and k-means' accuracy"

    seeds: int = option(2, "number of seeds", low=1)

    presets = {"cpu": {**MNIST, "steps": 600}, "paper": {**MNIST, "steps": 7000}}

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        assert data.test_labels is not None
        subset, labels = held_out_subset(data, NUM_DRAWN)
        values: dict[str, Any] = {}
        drawn: dict[str, Tensor] = {}
        for variant in VARIANTS:
            for seed in range(self.seeds):
                codes, error = self.codes(variant, seed, data, context)
                clusters = k_means(codes, data.num_classes)
                accuracy = cluster_accuracy(data.test_labels, clusters, data.num_classes)
                record(values, variant, "k-means accuracy", value=accuracy)
                record(values, variant, "squared error", value=error)
                record(values, variant, "entanglement", value=normalized_loss(codes[subset], labels))
                if seed == 0:
                    drawn[variant] = codes[subset]
        numbers = summarize_nested(values)
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, a code of {self.code_size} "
            "values. Accuracy of k-means (10 starts) on the held-out images' codes, under the best matching of "
            "clusters and classes. The loss uses the labels of training images; k-means uses no labels. Squared error "
            "of the reconstructions, with pixels in [-1, 1]. Entanglement: the loss of the whole code at its optimal "
            f"T, divided by the loss at an infinite T, for {len(subset)} held-out images. Mean over seeds (Student's "
            "95 % interval).",
            *markdown_table(
                ("", "k-means accuracy", "squared error", "entanglement of the code"),
                ([variant, *row.values()] for variant, row in numbers.items()),
            ),
        ]
        panels = {
            f"{variant}: {embed.__name__}": (embed(drawn[variant]), labels)
            for embed in (pca, tsne)
            for variant in ("baseline", "SNNL of the code")
        }
        return ExperimentResult(numbers, text, [planes(panels, 2, context.folder / "codes.png")])


def pca(features: Tensor) -> Tensor:
    """Return the coordinates (N, 2) of features (N, D) along their two principal components."""
    centered = features - features.mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False).Vh[:2]
    coordinates: Tensor = centered @ axes.T
    return coordinates
