"""Figure 8: cross-entropy and accuracy on training and test data, with and without entangled hidden layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.pairs import Pair, compared, table_of_pairs
from snngan.experiments.running import Log


@EXPERIMENTS.register("overfitting")
@dataclass(frozen=True, kw_only=True)
class Overfitting(Pair, Experiment):
    """Trains far past the lowest test cross-entropy, with cross-entropy alone and with entanglement."""

    source: ClassVar[str] = "Frosst et al. 2019, figure 8"
    summary: ClassVar[str] = "When and how far baseline and entangled classifiers overfit"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        arch, logs = self.trained(setting)
        rows = {
            "step of the lowest test cross-entropy": compared(logs, lowest_at),
            "lowest test cross-entropy": compared(logs, lambda log: min(log["cross_entropy/test"][1]), min),
            "rise from there to the last step": compared(logs, rise, min),
            "test less training cross-entropy, last step": compared(logs, gap, min),
        }
        text = [
            f"{arch}, {self.seeds} seeds, {self.steps} steps each; mean over seeds (Student's 95 % interval) "
            "and best; the difference seed by seed, and the p-value of a paired t-test.",
            "", *table_of_pairs(rows),
        ]  # fmt: skip
        tags = ("cross_entropy/train", "cross_entropy/test", "accuracy/test")
        return Finding(dict(rows), text, [plot_groups(logs, tags, setting.folder / "curves.png")])


def lowest_at(log: Log) -> float:
    """Return the step at which the test cross-entropy is lowest."""
    steps, values = log["cross_entropy/test"]
    return float(steps[values.index(min(values))])


def rise(log: Log) -> float:
    """Return by how much the test cross-entropy has risen from its lowest at the last step."""
    values = log["cross_entropy/test"][1]
    return values[-1] - min(values)


def gap(log: Log) -> float:
    """Return by how much the test cross-entropy is above that of training images at the last step."""
    return log["cross_entropy/test"][1][-1] - log["cross_entropy/train"][1][-1]


Overfitting.presets = MappingProxyType(
    {
        "smoke": Overfitting(
            dataset="digits", alpha=-0.1, seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=2,
            options=("width=4", "units=16"),
        ),
        "cpu": Overfitting(
            dataset="mnist-5k", alpha=-0.003, seeds=2, steps=2000, batch_size=256, learning_rate=1e-3, every=50,
            options=("width=32",),
        ),
        "paper": Overfitting(
            dataset="svhn", alpha=-0.003, seeds=2, steps=40000, batch_size=256, learning_rate=1e-4, every=1000,
        ),
    }
)  # fmt: skip
