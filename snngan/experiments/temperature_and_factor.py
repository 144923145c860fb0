"""The five rows of pt-snnl's first table: a fixed and an annealed temperature, each with both signs of the factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snngan.config import option
from snngan.evaluation.plots import curves_of_groups
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, ClassifierExperiment
from snngan.experiments.runs import seed_logs
from snngan.experiments.tables import last_value, markdown_table
from snngan.intervals import summary
from snngan.models import CLASSIFIERS

PUBLISHED = {
    "mnist": (99.68, 99.5, 99.49, 98.72, 95.06),
    "fashion-mnist": (97.764, 97.09, 97.63, 93.99, 82.07),
}
"""Average accuracy in percent of pt-snnl's five rows in 2020; most likely on training images."""


@EXPERIMENTS.register("temperature-and-factor")
@dataclass(frozen=True, kw_only=True)
class TemperatureAndFactor(ClassifierExperiment):
    """Train one network in five ways, with the same seeds and steps."""

    source = "pt-snnl, table of its README of 2020"
    summary = "Accuracy at a fixed and an annealed temperature, entangled and disentangled"

    factor: float = option(10.0, "weight of the loss, which is used with either sign", low=0)
    temperature: float = option(100.0, "fixed temperature; the annealed one is 1 / (1 + epoch) ** 0.55", low=1e-6)

    presets = {
        "cpu": {**CPU, "learning_rate": 1e-4, "options": ()},
        "paper": {**PAPER, "steps": 7000, "log_every": 500},
    }

    def check(self) -> None:
        CLASSIFIERS[self.arch or "feedforward"]

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        epoch = -(-len(data.train_images) // self.batch_size)
        logs = {}
        for number, (name, options) in enumerate(self.rows(epoch).items()):
            run = self.train(f"row-{number}", data, context, "feedforward", **options)
            logs[name] = seed_logs(run)
        numbers = {
            name: {half: summary([last_value(f"accuracy/{half}")(log) for log in each]) for half in ("test", "train")}
            for name, each in logs.items()
        }
        published = [f"{value} %" for value in PUBLISHED.get(self.dataset, ())] or [""] * len(numbers)
        rows = [
            [name, row["test"], row["test"]["best"], row["train"], theirs]
            for (name, row), theirs in zip(numbers.items(), published, strict=True)
        ]
        header = ("", "test accuracy: mean", "best", "training accuracy: mean", "pt-snnl")
        text = [
            f"{run.plan.arch}, {self.seeds} seeds, {self.steps} steps of {self.batch_size} images each; an epoch has "
            f"{epoch} steps. Mean over seeds at the last step (Student's 95 % interval). The column of pt-snnl is most "
            "likely training accuracy; its annealed rows are called T = 0 there.",
            *markdown_table(header, rows, 4),
        ]
        tags = ("accuracy/test", "accuracy/train")
        return ExperimentResult(numbers, text, [curves_of_groups(logs, tags, context.folder / "curves.png")])

    def rows(self, epoch: int) -> dict[str, dict[str, Any]]:
        """Return the options of each row's run, by its name, in the order of ``PUBLISHED``."""
        rules = {
            f"T = {self.temperature:g}": f"absolute:{self.temperature:g}",
            "annealed T": f"annealed-absolute:1:{epoch}",
        }
        return {"baseline": {"alpha": 0.0}} | {
            f"{name}, factor {factor:+g}": {"alpha": factor, "temperature": rule}
            for name, rule in rules.items()
            for factor in (self.factor, -self.factor)
        }
