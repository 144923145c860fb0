"""The five rows of pt-snnl's first table: a fixed and an annealed temperature, each with both signs of the factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from snngan.config import check_options, option
from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.pairs import Classifiers, last_of, logs_of_seeds
from snngan.experiments.running import shown, trained_classifier
from snngan.models import CLASSIFIERS
from snngan.stats import summarize

PUBLISHED = {
    "mnist": (99.68, 99.5, 99.49, 98.72, 95.06),
    "fashion-mnist": (97.764, 97.09, 97.63, 93.99, 82.07),
}
"""Average accuracy, in percent, of the five rows as pt-snnl had them in 2020; most likely of training images."""


@EXPERIMENTS.register("temperature-and-factor")
@dataclass(frozen=True, kw_only=True)
class TemperatureAndFactor(Classifiers, Experiment):
    """Trains one network in five ways, the same seeds and steps for all."""

    source: ClassVar[str] = "pt-snnl, table of its README of 2020"
    summary: ClassVar[str] = "Accuracy at a fixed and an annealed temperature, entangled and disentangled"
    presets: ClassVar[Mapping[str, Experiment]]

    factor: float = option(10.0, "", low=0)
    """Of the loss, which is taken with either sign."""
    temperature: float = option(100.0, "", low=1e-6)
    """The fixed T; the annealed one is 1 / (1 + epoch) ** 0.55."""

    def __post_init__(self) -> None:
        check_options(self)
        CLASSIFIERS[self.arch or "feedforward"]

    def run(self, setting: Setting) -> Finding:
        dataset = self.data(setting)
        epoch = -(-len(dataset.train_images) // self.batch_size)
        logs = {}
        for number, (name, chosen) in enumerate(self.rows(epoch).items()):
            config = self.config("feedforward", setting, **chosen)
            run = trained_classifier(config, dataset, setting.folder / "runs" / f"row-{number}", setting)
            logs[name] = logs_of_seeds(run)
        numbers: dict[str, Any] = {
            name: {half: summarize([last_of(f"accuracy/{half}")(log) for log in each]) for half in ("test", "train")}
            for name, each in logs.items()
        }
        theirs = PUBLISHED.get(self.dataset, ())
        text = [
            f"{run.plan.arch}, {self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, an epoch being "
            f"{epoch} steps. Mean over seeds at the last step (Student's 95 % interval). pt-snnl's own column is most "
            "likely training accuracy, and its annealed rows are named T = 0 there.",
            "", "| | test accuracy: mean | best | training accuracy: mean | pt-snnl |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for number, (name, row) in enumerate(numbers.items()):
            cells = [shown(row["test"], 4), f"{row['test']['best']:.4g}", shown(row["train"], 4)]
            text.append(f"| {name} | {' | '.join(cells)} | {f'{theirs[number]} %' if theirs else ''} |")
        tags = ("accuracy/test", "accuracy/train")
        return Finding(numbers, text, [plot_groups(logs, tags, setting.folder / "curves.png")])

    def rows(self, epoch: int) -> dict[str, dict[str, Any]]:
        """Return what is chosen for each row's run, by its name, in the order of ``PUBLISHED``."""
        rules = {f"T = {self.temperature:g}": f"absolute:{self.temperature:g}",
                 "annealed T": f"annealed-absolute:1:{epoch}"}  # fmt: skip
        return {"baseline": {"alpha": 0.0}} | {
            f"{name}, factor {factor:+g}": {"alpha": factor, "temperature": rule}
            for name, rule in rules.items() for factor in (self.factor, -self.factor)
        }  # fmt: skip


TemperatureAndFactor.presets = MappingProxyType(
    {
        "smoke": TemperatureAndFactor(
            dataset="digits", seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=3, options=("widths=16-16-32",)
        ),
        "cpu": TemperatureAndFactor(
            dataset="mnist", seeds=4, steps=1000, batch_size=256, learning_rate=1e-4, every=250
        ),
        "paper": TemperatureAndFactor(
            dataset="mnist", seeds=4, steps=7000, batch_size=256, learning_rate=1e-4, every=500
        ),
    }
)  # fmt: skip
