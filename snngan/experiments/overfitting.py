"""Figure 8: cross-entropy and accuracy on training and test data, with and without entangled hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

from snngan.evaluation.plots import curves_of_groups
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.runs import Log
from snngan.experiments.tables import compare_logs, comparison_table


@EXPERIMENTS.register("overfitting")
@dataclass(frozen=True, kw_only=True)
class Overfitting(BaselineComparison):
    """Train far beyond the lowest test cross-entropy, with cross-entropy alone and with entanglement."""

    source = "Frosst et al. 2019, figure 8"
    summary = "When and how far baseline and entangled classifiers overfit"
    presets = {
        "cpu": {
            **CPU, "dataset": "mnist-5k", "alpha": -0.003, "seeds": 2, "steps": 2000, "log_every": 50,
            "options": ("width=32",),
        },
        "paper": {**PAPER, "dataset": "svhn", "alpha": -0.003, "seeds": 2, "steps": 40000},
    }  # fmt: skip

    def run(self, context: ExperimentContext) -> ExperimentResult:
        arch, logs = self.train_logs(context)
        rows = {
            "step of the lowest test cross-entropy": compare_logs(logs, step_of_lowest),
            "lowest test cross-entropy": compare_logs(logs, lambda log: min(log["cross_entropy/test"][1]), min),
            "rise from there to the last step": compare_logs(logs, rise_from_lowest, min),
            "test minus training cross-entropy, last step": compare_logs(logs, generalization_gap, min),
        }
        text = [
            f"{arch}, {self.seeds} seeds, {self.steps} steps each.",
            *comparison_table(rows),
        ]
        tags = ("cross_entropy/train", "cross_entropy/test", "accuracy/test")
        return ExperimentResult(rows, text, [curves_of_groups(logs, tags, context.folder / "curves.png")])


def step_of_lowest(log: Log) -> float:
    """Return the step at which the test cross-entropy is lowest."""
    steps, values = log["cross_entropy/test"]
    return float(steps[values.index(min(values))])


def rise_from_lowest(log: Log) -> float:
    """Return the test cross-entropy at the last step minus its lowest value."""
    values = log["cross_entropy/test"][1]
    return values[-1] - min(values)


def generalization_gap(log: Log) -> float:
    """Return the test cross-entropy minus the training cross-entropy at the last step."""
    return log["cross_entropy/test"][1][-1] - log["cross_entropy/train"][1][-1]
