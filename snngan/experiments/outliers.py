"""Figures 12 and 21: whether images of another data set are told from test images by logits and by credibility."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from snngan.config import option
from snngan.data import DATASETS, Dataset
from snngan.data.datasets import data_folder
from snngan.evaluation.attack_evaluation import Judge, Judged, queries_of
from snngan.evaluation.plots import plot_tsne
from snngan.evaluation.sources import open_source
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair, compared_values, table_of_pairs
from snngan.experiments.running import shown
from snngan.stats import summarize

SCORES: Mapping[str, Callable[[Judged], Tensor]] = {
    "credibility": lambda judged: judged.vouched.credibility,
    "highest probability": lambda judged: judged.logits.softmax(1).amax(1),
}
"""What should be high for test images and low for outliers; the second is what anyone has without DkNN."""


@EXPERIMENTS.register("outliers")
@dataclass(frozen=True, kw_only=True)
class Outliers(Pair, Experiment):
    """Judges test images and as many of each other data set by networks of both sides."""

    source: ClassVar[str] = "Frosst et al. 2019, figures 12 and 21"
    summary: ClassVar[str] = "Telling images of other data sets by DkNN's credibility, with and without entanglement"
    presets: ClassVar[Mapping[str, Experiment]]

    outliers: tuple[str, ...]
    """As for ``snngan entangle``, or names of NAME.npz in the data folder with test_images."""
    num_images: int = count()
    """Test images, and outliers of each set, at most."""
    num_drawn: int = count()
    """Of each in the figure."""
    points: int = option(MISSING, "", low=75)
    """Training images that DkNN looks among, at most."""

    def run(self, setting: Setting) -> Finding:
        dataset = self.data(setting)
        strange = {name: outlier_images(name, dataset, self.num_images, setting) for name in self.outliers}
        networks, layers = self.networks(dataset, setting)
        images, labels = queries_of(dataset, self.num_images)
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        accuracies: dict[str, list[float]] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        for side, each in networks.items():
            for seed, network in enumerate(each):
                setting.notify(f"{side}, seed {seed}: the nearest of {self.points} training images")
                judge = Judge(network, layers, dataset, setting.device, points=self.points)
                known = judge(images)
                accuracies.setdefault(side, []).append(known.figures(labels)["accuracy"])
                for name, others in strange.items():
                    judged = judge(others)
                    for score, take in SCORES.items():
                        values = found.setdefault(name, {}).setdefault(score, {}).setdefault(side, [])
                        values.append(area(take(known), take(judged)))
                    if seed == 0:
                        panels[f"{side}, {name}"] = known.logits[: self.num_drawn], judged.logits[: self.num_drawn]
                del judge
        rows = {f"{name}, {score}": compared_values(sides)
                for name, scores in found.items() for score, sides in scores.items()}  # fmt: skip
        numbers = {"auroc": rows, "accuracy": {side: summarize(values) for side, values in accuracies.items()}}
        accuracy = ", ".join(f"{side} {shown(value, 4)}" for side, value in numbers["accuracy"].items())
        text = [
            f"{self.seeds} seeds, {len(images)} test images, "
            + ", ".join(f"{len(others)} of {name}" for name, others in strange.items())
            + f"; {min(self.points, len(dataset.train_images))} training images vouch; test accuracy: {accuracy}. "
            "AUROC of telling test images from outliers: 1 is always, 0.5 is chance. Mean over seeds (Student's 95 % "
            "interval) and best; the difference seed by seed, and the p-value of a paired t-test.",
            "", *table_of_pairs(rows, 3),
        ]  # fmt: skip
        title = "t-SNE of logits, seed 0: test images blue, outliers red"
        figure = plot_tsne(panels, len(strange), title, setting.folder / "logits.png", size=2.8)
        return Finding(numbers, text, [figure])


def outlier_images(name: str, dataset: Dataset, count: int, setting: Setting) -> Tensor:
    """Return the first ``count`` test images (n, C, H, W) of another source, shrunk to those of ``dataset``.

    Raises:
        ValueError: it is not here, or its images are of other colors or smaller.
    """
    kept = data_folder(setting.data_dir) / f"{name}.npz"
    _, height, width = dataset.image_shape
    images = open_source(
        str(kept) if name not in DATASETS.names() and kept.exists() else name, data_dir=setting.data_dir,
        image_size=height if height == width else None, notify=setting.notify,
    ).first(count)  # fmt: skip
    if images.shape[1:] != dataset.image_shape or images.dtype != dataset.test_images.dtype:
        shapes = ("x".join(map(str, shape)) for shape in (images.shape[1:], dataset.image_shape))
        raise ValueError(f"{name} has images {next(shapes)}; those of {dataset.name} are {next(shapes)}")
    return images


def area(known: Tensor, strange: Tensor) -> float:
    """Return the area under the ROC curve of telling scores (N,) of known points from lower ones (M,) of others."""
    from sklearn.metrics import roc_auc_score

    truth = torch.cat([torch.ones(len(known)), torch.zeros(len(strange))])
    return float(roc_auc_score(truth.numpy(), torch.cat([known, strange]).double().numpy()))


Outliers.presets = MappingProxyType(
    {
        "smoke": Outliers(
            dataset="digits", outliers=("mnist-5k",), alpha=-0.1, seeds=2, steps=6, batch_size=32, learning_rate=1e-3,
            every=6, options=("width=4", "units=16"), num_images=60, num_drawn=30, points=200,
        ),
        "cpu": Outliers(
            dataset="mnist", outliers=("notmnist", "fashion-mnist", "kmnist"), alpha=-0.02, seeds=4, steps=1000,
            batch_size=256, learning_rate=1e-3, every=250, options=("width=16", "units=128"), num_images=2000,
            num_drawn=500, points=20000,
        ),
        "paper": Outliers(
            dataset="mnist", outliers=("notmnist", "fashion-mnist", "kmnist"), alpha=-0.02, seeds=4, steps=14000,
            batch_size=256, learning_rate=1e-4, every=1000, num_images=9250, num_drawn=1000, points=60000,
        ),
    }
)  # fmt: skip
