"""The min-max objective of a blog post: classes of blobs, digits and latent codes without labels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from snngan.config import check_options, option
from snngan.data import Dataset
from snngan.data.batches import check_batch_size
from snngan.data.datasets import load_dataset
from snngan.evaluation.clusters import cluster_accuracy, confusion_matrix, k_means, match_clusters, spectral_clusters
from snngan.evaluation.plots import draw_scatter, new_figure, save_figure
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.autoencoders import Autoencoders
from snngan.experiments.running import shown
from snngan.files import write_atomically
from snngan.selfsupervised import cluster
from snngan.stats import summarize
from snngan.training.classifier import reading_order
from snngan.training.classifier_plan import check_labels
from snngan.untrusted import read_json

BLOBS, EACH = 10, 100
"""How many, and points in each."""
BLOG = 0.986
"""Accuracy of the one run there."""
Rows = dict[str, list[float]]
"""Accuracies of runs by method."""
CODES = ("baseline", "SNNL of the code")
"""Whose codes are clustered; the second has seen the training images' labels."""


@EXPERIMENTS.register("self-supervised-blobs")
@dataclass(frozen=True, kw_only=True)
class SelfSupervisedBlobs(Autoencoders, Experiment):
    """Clusters many sets of blobs, the digits of scikit-learn, and codes of held-out images of ``dataset``."""

    source: ClassVar[str] = 'the blog post "Min-Max Loss, Self Supervised Classification"'
    summary: ClassVar[str] = "Classes without labels: the min-max objective against k-means and spectral clustering"
    presets: ClassVar[Mapping[str, Experiment]]

    sets: int = count()
    """Sets of blobs, each drawn anew."""
    spreads: tuple[float, ...] = (0.3, 1.0)
    """Standard deviations of a blob, whose centers are uniform in a square of side 20."""
    restarts: int = option(5, "", low=1)
    cluster_steps: int = option(300, "", low=1)
    seeds: int = count()
    """Runs on the digits and on the codes, and autoencoders."""
    points: int = option(5000, "", low=200)
    """Held-out images whose codes are clustered, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)
        if not self.spreads or not all(0 < spread < math.inf for spread in self.spreads):
            raise ValueError(f"spreads must be above 0, not {self.spreads}")
        if len({f"{spread:g}" for spread in self.spreads}) < len(self.spreads):
            raise ValueError(f"spreads must differ, not {self.spreads}")

    def run(self, setting: Setting) -> Finding:
        dataset = load_dataset(self.dataset, data_dir=setting.data_dir, notify=setting.notify)
        check_labels(dataset)
        check_batch_size(self.batch_size, len(dataset.train_images))
        if len(dataset.test_images) < 100:
            raise ValueError(f"{dataset.name} holds out {len(dataset.test_images)} images; expected 100 or more")
        blobs, figures = self.of_blobs(setting)
        numbers = {
            name: {method: summarize(values) | {"worst": min(values), "share above": share_above(values)}
                   for method, values in rows.items()}
            for name, rows in (blobs | self.of_images(dataset, setting)).items()
        }  # fmt: skip
        text = [
            f"{BLOBS} blobs of {EACH} points with centers uniform in a square of side 20, {self.sets} sets; of digits "
            f"and codes {self.seeds} runs. {self.cluster_steps} steps a start; of {self.restarts} starts the one of "
            "the lowest loss is kept, without labels. k-means: 10 starts; spectral: scikit-learn's, 10 nearest "
            "neighbors. Nearest true center: the best rule on average, told what no other is. The min-max objective "
            "is told that 10 points are near each and nine tenths far, k-means neither. Accuracy under the best "
            "matching of clusters and classes: mean (Student's 95 % interval), worst, and the share of runs above "
            f"{BLOG:.1%}, which is what the post has of one run. The SNNL codes are of held-out images; their "
            "autoencoder has seen labels of others.",
            "", "| | | accuracy | worst | share above |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for name, row in numbers.items():
            for method, each in row.items():
                cells = [shown(each, 4), f"{each['worst']:.4g}", f"{each['share above']:.2g}"]
                text.append(f"| {name} | {method} | {' | '.join(cells)} |")
        return Finding(numbers, text, figures)

    def of_blobs(self, setting: Setting) -> tuple[dict[str, Rows], list[Path]]:
        """Return each method's accuracies by spread, and a picture of the first set of each."""
        found: dict[str, Rows] = {}
        figures = []
        for spread in self.spreads:
            rows = found.setdefault(f"standard deviation {spread:g}", {})
            for number in range(self.sets):
                points, labels, ceiling = drawn_blobs(spread, number)
                rows.setdefault("nearest true center", []).append(ceiling)
                clusters = self.compare(points, labels, BLOBS, number, setting, rows)
                if number == 0:
                    figures.append(pictured(points, labels, clusters, setting.folder / f"blobs-{spread:g}.png"))
            setting.notify(f"{self.sets} sets of standard deviation {spread:g}")
        return found, figures

    def of_images(self, dataset: Dataset, setting: Setting) -> dict[str, Rows]:
        """Return each method's accuracies on the pixels of ``digits`` and on codes of ``dataset``."""
        found: dict[str, Rows] = {}
        digits = load_dataset("digits", notify=setting.notify)
        assert digits.train_labels is not None
        assert digits.test_labels is not None
        pixels = torch.cat([digits.train_images, digits.test_images]).flatten(1).float()
        labels = torch.cat([digits.train_labels, digits.test_labels])
        for seed in range(self.seeds):
            rows = found.setdefault(f"digits, {len(pixels)} images, pixels", {})
            self.compare(pixels, labels, digits.num_classes, seed, setting, rows)
        assert dataset.test_labels is not None
        read = reading_order(dataset.test_images)[: self.points]
        labels = dataset.test_labels[read]
        for side in CODES:
            for seed in range(self.seeds):
                codes = self.codes(side, seed, dataset, setting)[0][read]
                rows = found.setdefault(f"{self.dataset}, {len(codes)} codes, {side}", {})
                self.compare(codes, labels, dataset.num_classes, seed, setting, rows)
        return found

    def compare(self, points: Tensor, labels: Tensor, count: int, seed: int, setting: Setting, rows: Rows) -> Tensor:
        """Add each method's accuracy on points (N, D) to its list of ``rows``; return our clusters (N,).

        What was found is left in the setting's folder, and taken from there the next time.
        """
        known = hashlib.sha256(points.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        path = setting.folder / "clusters" / f"{known[:16]}-{seed}-{self.restarts}-{self.cluster_steps}.json"
        if not path.exists():
            accuracies, clusters = self.compared(points, labels, count, seed, setting.device)
            write_atomically(path, json.dumps({"accuracies": accuracies, "clusters": clusters.tolist()}).encode())
        content = read_json(path)
        try:
            accuracies, clusters = content["accuracies"], torch.tensor(content["clusters"])
            found = [float(accuracies[method]) for method in self.methods]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged: remove it, and it is made anew") from error
        for method, accuracy in zip(self.methods, found, strict=True):
            rows.setdefault(method, []).append(accuracy)
        return clusters

    @property
    def methods(self) -> tuple[str, ...]:
        return "min-max, one start", f"min-max, {self.restarts} starts", "k-means", "spectral"

    def compared(
        self, points: Tensor, labels: Tensor, count: int, seed: int, device: torch.device
    ) -> tuple[dict[str, float], Tensor]:
        """Return the accuracy of each method on points (N, D), and the clusters (N,) of the objective."""
        ours = cluster(points.to(device), count, steps=self.cluster_steps, restarts=self.restarts, seed=seed)
        best = ours.labels.cpu()
        by_graph = spectral_clusters(points, count, seed=seed)
        found = ours.starts[0].cpu(), best, k_means(points, count, seed=seed), by_graph
        accuracies = [cluster_accuracy(labels, clusters, count) for clusters in found]
        return dict(zip(self.methods, accuracies, strict=True)), best


def drawn_blobs(spread: float, seed: int) -> tuple[Tensor, Tensor, float]:
    """Return points (N, 2), labels (N,), and the accuracy of the rule that knows the true centers."""
    from sklearn.datasets import make_blobs

    points, labels, centers = (
        torch.from_numpy(each)
        for each in make_blobs(BLOBS * EACH, centers=BLOBS, cluster_std=spread, random_state=seed, return_centers=True)
    )
    nearest = torch.cdist(points, centers).argmin(1)
    return points.float(), labels.long(), float((nearest == labels).double().mean())


def share_above(values: list[float]) -> float:
    """Return the share of ``values`` above the blog's."""
    return sum(value > BLOG for value in values) / len(values)


def pictured(points: Tensor, labels: Tensor, clusters: Tensor, path: Path) -> Path:
    """Draw points (N, 2) by label and by cluster, and the confusion matrix."""
    guesses = match_clusters(labels, clusters, BLOBS)
    figure, (true, given, table) = new_figure(3, size=3.6)
    for axes, colors, title in ((true, labels, "blob"), (given, guesses, "class found without labels")):
        draw_scatter(axes, points, colors)
        axes.set_title(title, fontsize=9)
    counts = confusion_matrix(labels, guesses, BLOBS)
    table.imshow(counts.sqrt().numpy(), cmap="Blues")
    for row, values in enumerate(counts.tolist()):
        for column, value in enumerate(values):
            if value:
                table.text(column, row, str(value), ha="center", va="center", fontsize=6,
                           color="white" if value > EACH / 2 else "black")  # fmt: skip
    table.set_xlabel("class found")
    table.set_ylabel("blob")
    table.set_title(f"{float((guesses == labels).double().mean()):.1%} agree", fontsize=9)
    return save_figure(figure, path)


SelfSupervisedBlobs.presets = MappingProxyType(
    {
        "smoke": SelfSupervisedBlobs(
            dataset="digits", sets=1, spreads=(0.3,), restarts=2, cluster_steps=10, seeds=1, points=200,
            steps=4, batch_size=32, code=4, widths="16-16-32",
        ),
        "cpu": SelfSupervisedBlobs(dataset="mnist", sets=50, seeds=4, steps=600, batch_size=256),
        "paper": SelfSupervisedBlobs(dataset="mnist", sets=50, seeds=4, steps=7000, batch_size=256),
    }
)  # fmt: skip
