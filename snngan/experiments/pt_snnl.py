"""The tables of the library pt-snnl: classifiers with the loss on all their hidden layers, and without."""

from __future__ import annotations

from typing import Any

from snngan.config import ClassifyConfig, option
from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, ClassifierExperiment
from snngan.experiments.runs import load_labeled, seed_logs
from snngan.experiments.tables import compare_logs, markdown_table, paired_table
from snngan.losses.temperature import parse_temperature
from snngan.models import CLASSIFIERS
from snngan.stats import summarize

PUBLISHED = {
    "mnist": "baseline 95.32 % and 95.93 %, SNNL 95.77 % and 96.2 %",
    "fashion-mnist": "baseline 89.1 % and 89.76 %, SNNL 89.12 % and 89.48 %",
    "emnist": "baseline 82.66 % and 82.86 %, SNNL 82.74 % and 82.96 %",
    "kmnist": "baseline 90.58 % and 90.67 %, SNNL 90.14 % and 90.67 %",
}
"""Average and best test accuracy."""
PUBLISHED_2020 = {"mnist": (99.68, 99.5, 99.49, 98.72, 95.06), "fashion-mnist": (97.764, 97.09, 97.63, 93.99, 82.07)}
"""Average accuracy in percent of the five rows of the first table, of 2020; most likely on training images."""


@EXPERIMENTS.register("template-models")
class TemplateModels(ClassifierExperiment):
    """Test accuracy of template models with the loss on all hidden layers, and without."""

    source = "pt-snnl, table of its README"
    cpu = {**CPU, "learning_rate": 1e-4}
    paper = {
        **PAPER,
        "steps": 7000,
        "log_every": 500,
        "archs": ("feedforward", "cnn", "resnet18", "resnet34"),
    }

    archs: tuple[str, ...] = option(("feedforward", "cnn"), "networks, unless arch names one")
    alpha: float = option(10.0, "weight of the layer loss")
    temperature: str = option("absolute:50", "temperature rule of the layer loss")
    layer_reduction: tuple[str, ...] = option(("sum", "min"), "reductions of the loss over layers")

    def check(self) -> None:
        parse_temperature(self.temperature)
        for reduction in self.layer_reduction:
            ClassifyConfig(layer_reduction=reduction)
        for arch in self.networks:
            CLASSIFIERS[arch]

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.arch,) if self.arch else self.archs

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        accuracies: dict[str, Any] = {}
        layers: dict[str, Any] = {}
        plots = []
        alphas = {"baseline": 0.0, **dict.fromkeys(self.layer_reduction, self.alpha)}
        for arch in self.networks:
            logs = {}
            for variant, alpha in alphas.items():
                options = {"alpha": alpha, "layer_reduction": "sum" if variant == "baseline" else variant}
                name = f"{arch}-{variant}"
                run = self.train(name, data, context, arch, temperature=self.temperature, **options)
                logs[variant] = seed_logs(run)
            for reduction in self.layer_reduction:
                pair = {"baseline": logs["baseline"], "SNNL": logs[reduction]}
                accuracies[f"{arch}, {reduction} over layers"] = compare_logs(pair, "accuracy/test")
                for tag in (tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")):
                    layers[f"{arch}, {reduction}, {tag.split('/')[-1]}"] = compare_logs(pair, tag, min)
            plots.append(plot_groups(logs, ("accuracy/test", "cross_entropy/test"), context.folder / f"{arch}.png"))
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, factor {self.alpha:g}, T "
            f"{self.temperature}; test accuracy at the last step.",
            *paired_table(accuracies),
        ]
        if self.dataset in PUBLISHED:
            note = "it states neither the network nor the number of runs"
            text += ["", f"pt-snnl reports, average and best: {PUBLISHED[self.dataset]}; {note}."]
        text += [
            "",
            "Entanglement of each layer: loss of held-out images at the optimal T, which shows the effect of the loss.",
            *markdown_table(
                ("", "baseline", "SNNL"), ([name, row["baseline"], row["SNNL"]] for name, row in layers.items())
            ),
        ]
        return ExperimentResult({"accuracy": accuracies, "entanglement": layers}, text, plots)


@EXPERIMENTS.register("temperature-and-factor")
class TemperatureAndFactor(ClassifierExperiment):
    """Accuracy at a fixed and an annealed temperature, entangled and disentangled."""

    source = "pt-snnl, table of its README of 2020"
    cpu = {**CPU, "learning_rate": 1e-4, "options": ()}
    paper = {**PAPER, "steps": 7000, "log_every": 500}

    factor: float = option(10.0, "weight of the loss, which is used with either sign", low=0)
    temperature: float = option(100.0, "fixed temperature; the annealed one is 1 / (1 + epoch) ** 0.55", low=1e-6)

    def check(self) -> None:
        CLASSIFIERS[self.arch or "feedforward"]

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        epoch = -(-len(data.train_images) // self.batch_size)
        logs = {}
        for number, (name, options) in enumerate(self.rows(epoch).items()):
            run = self.train(f"row-{number}", data, context, "feedforward", **options)
            logs[name] = seed_logs(run)
        numbers = {
            name: {split: summarize([log[f"accuracy/{split}"][1][-1] for log in each]) for split in ("test", "train")}
            for name, each in logs.items()
        }
        published = [f"{value} %" for value in PUBLISHED_2020.get(self.dataset, ())] or [""] * len(numbers)
        rows = [
            [name, row["test"], row["test"]["best"], row["train"], theirs]
            for (name, row), theirs in zip(numbers.items(), published, strict=True)
        ]
        header = ("", "test accuracy: mean", "best", "training accuracy: mean", "pt-snnl")
        text = [
            f"{run.config.arch}, {self.seeds} seeds, {self.steps} steps of {self.batch_size} images each; an epoch has "
            f"{epoch} steps. Mean over seeds at the last step (Student's 95 % interval). The column of pt-snnl is most "
            "likely training accuracy; its annealed rows are called T = 0 there.",
            *markdown_table(header, rows, 4),
        ]
        plot = plot_groups(logs, ("accuracy/test", "accuracy/train"), context.folder / "curves.png")
        return ExperimentResult(numbers, text, [plot])

    def rows(self, epoch: int) -> dict[str, dict[str, Any]]:
        """Return the options of each row's run, by its name, in the order of ``PUBLISHED_2020``."""
        rules = {
            f"T = {self.temperature:g}": f"absolute:{self.temperature:g}",
            "annealed T": f"annealed-absolute:1:{epoch}",
        }
        return {"baseline": {"alpha": 0.0}} | {
            f"{name}, factor {factor:+g}": {"alpha": factor, "temperature": rule}
            for name, rule in rules.items()
            for factor in (self.factor, -self.factor)
        }
