"""The table of the library pt-snnl: classifiers with the loss on all their hidden layers, and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snngan.config import option
from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, ClassifierExperiment
from snngan.experiments.runs import seed_logs
from snngan.experiments.tables import compare_logs, comparison_table, last_value, markdown_table
from snngan.losses.entangled import LAYER_REDUCTIONS
from snngan.losses.temperature import parse_temperature
from snngan.models import CLASSIFIERS

PUBLISHED = {
    "mnist": ((95.32, 95.93), (95.77, 96.2)),
    "fashion-mnist": ((89.1, 89.76), (89.12, 89.48)),
    "emnist": ((82.66, 82.86), (82.74, 82.96)),
    "kmnist": ((90.58, 90.67), (90.14, 90.67)),
}
"""Average and best test accuracy in percent of baseline and SNNL, from pt-snnl's table."""


@EXPERIMENTS.register("template-models")
@dataclass(frozen=True, kw_only=True)
class TemplateModels(ClassifierExperiment):
    """Train each network with cross-entropy alone and with the loss, with the same seeds and steps."""

    source = "pt-snnl, table of its README"
    summary = "Test accuracy of template models with the loss on all hidden layers, and without"

    archs: tuple[str, ...] = option(("feedforward", "cnn"), "networks, unless arch names one")
    alpha: float = option(10.0, "weight of the layer loss")
    temperature: str = option("absolute:50", "temperature rule of the layer loss")
    layer_reduction: tuple[str, ...] = option(("sum", "min"), "reductions of the loss over layers")

    presets = {
        "cpu": {**CPU, "learning_rate": 1e-4},
        "paper": {
            **PAPER, "steps": 7000, "log_every": 500, "archs": ("feedforward", "cnn", "resnet18", "resnet34"),
        },
    }  # fmt: skip

    def check(self) -> None:
        parse_temperature(self.temperature)
        unknown = [name for name in self.layer_reduction if name not in LAYER_REDUCTIONS]
        if unknown or not self.layer_reduction:
            allowed, given = ", ".join(LAYER_REDUCTIONS), ", ".join(unknown) or "none"
            raise ValueError(f"layer_reduction must be one or more of {allowed}, got {given}")
        for arch in self.networks:
            CLASSIFIERS[arch]

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.arch,) if self.arch else self.archs

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        accuracies: dict[str, Any] = {}
        layers: dict[str, Any] = {}
        plots = []
        for arch in self.networks:
            logs = {}
            for variant in ("baseline", *self.layer_reduction):
                is_baseline = variant == "baseline"
                run = self.train(
                    f"{arch}-{variant}",
                    data,
                    context,
                    arch,
                    temperature=self.temperature,
                    alpha=0.0 if is_baseline else self.alpha,
                    layer_reduction="sum" if is_baseline else variant,
                )
                logs[variant] = seed_logs(run)
            for reduction in self.layer_reduction:
                pair = {"baseline": logs["baseline"], "SNNL": logs[reduction]}
                accuracies[f"{arch}, {reduction} over layers"] = compare_logs(pair, last_value("accuracy/test"))
                for tag in (tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")):
                    layers[f"{arch}, {reduction}, {tag.split('/')[-1]}"] = compare_logs(pair, last_value(tag), min)
            tags = ("accuracy/test", "cross_entropy/test")
            plots.append(plot_groups(logs, tags, context.folder / f"{arch}.png"))
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, factor {self.alpha:g}, T "
            f"{self.temperature}; test accuracy at the last step.",
            *comparison_table(accuracies),
        ]
        if self.dataset in PUBLISHED:
            baseline, snnl = PUBLISHED[self.dataset]
            text += [
                "",
                f"pt-snnl reports, average and best: baseline {baseline[0]} % and {baseline[1]} %, SNNL {snnl[0]} % "
                f"and {snnl[1]} %; it states neither the network nor the number of runs.",
            ]
        text += [
            "",
            "Entanglement of each layer: loss of held-out images at the optimal T, which shows the effect of the loss.",
            *markdown_table(
                ("", "baseline", "SNNL"), ([name, row["baseline"], row["SNNL"]] for name, row in layers.items())
            ),
        ]
        return ExperimentResult({"accuracy": accuracies, "entanglement": layers}, text, plots)
