"""Experiments on generators: the options they share, and the table of their metrics at the last step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from snngan.config import option
from snngan.data import Dataset
from snngan.data.datasets import data_folder, load_dataset
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.training_metrics import NUM_IMAGES
from snngan.experiments import Experiment, ExperimentContext
from snngan.experiments.runs import GanRun, Log, seed_logs, train_generator
from snngan.experiments.tables import markdown_table
from snngan.stats import summarize

METRICS = {
    "FID": "metrics/fid",
    "score in features": "metrics/entanglement_features",
    "score in pixels": "entanglement/input_score",
    "precision": "metrics/precision",
    "recall": "metrics/recall",
    "real anchors": "entanglement/real_anchors",
    "synthetic anchors": "entanglement/fake_anchors",
}
"""Columns of the table of metrics, and their tags."""
MNIST = MappingProxyType({"dataset": "mnist", "seeds": (0, 1, 2), "options": ()})
"""What the presets of several experiments have in common."""


@dataclass(frozen=True, kw_only=True)
class GeneratorExperiment(Experiment):
    """An experiment that trains generators with several seeds."""

    dataset: str = option("digits", "data set that the generators are trained on")
    seeds: tuple[int, ...] = option((0,), "seeds; sample grids are those of the first", low=0)
    steps: int = option(6, "number of generator steps", low=1)
    options: tuple[str, ...] = option(("width=16",), "options of objective and networks, as for snngan train --set")

    def load_data(self, context: ExperimentContext) -> Dataset:
        """Return the data set with its feature classifier trained, in whose features metrics are measured then."""
        data = load_dataset(self.dataset, data_dir=context.data_dir, notify=context.notify)
        load_or_train_features(data, data_folder(context.data_dir) / "features", context.device, context.notify)
        return data

    def train(self, name: str, data: Dataset, context: ExperimentContext, seed: int, **options: Any) -> GanRun:
        """Return the finished run ``NAME-seedN``, see :func:`train_generator` for the options."""
        options |= {"dataset": self.dataset, "seed": seed, "steps": self.steps}
        return train_generator(f"{name}-seed{seed}", data, context, **options)

    def train_seeds(
        self, name: str, data: Dataset, context: ExperimentContext, **options: Any
    ) -> tuple[GanRun, dict[str, Any]]:
        """Return the finished run of the first seed, and :func:`last_metrics` of all seeds."""
        runs = [self.train(name, data, context, seed, **options) for seed in self.seeds]
        return runs[0], last_metrics([log for run in runs for log in seed_logs(run)])


def save_grid(images: Tensor, path: Path) -> Path:
    """Write a grid of images (N, C, H, W) in [-1, 1] as a PNG file."""
    save_png(draw_images(images), path)
    return path


def last_metrics(logs: Sequence[Log]) -> dict[str, Any]:
    """Return statistics over the logs of each of ``METRICS`` at the last step, if all logs have it."""
    known = {title: tag for title, tag in METRICS.items() if all(tag in log for log in logs)}
    return {title: summarize([log[tag][1][-1] for log in logs]) for title, tag in known.items()}


def metrics_table(title: str, numbers: Mapping[str, Mapping[str, Any]], more: Sequence[str] = ()) -> list[str]:
    """Return the Markdown table of :func:`last_metrics` by name; ``more`` names further statistics in ``numbers``."""
    columns = [each for each in (*METRICS, *more) if any(row.get(each) for row in numbers.values())]
    return [
        "Mean over seeds at the last step (Student's 95 % interval). FID, precision, recall and the first score are "
        "measured in the features of a small classifier, on held-out images and as many samples, at most "
        f"{NUM_IMAGES}. Score: entanglement of real and synthetic images, ideally 1. Anchors: their loss in pixel "
        "space, 0.693 by chance.",
        *markdown_table((title, *columns), ([name, *map(row.get, columns)] for name, row in numbers.items())),
    ]
