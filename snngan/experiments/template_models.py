"""The table of the library pt-snnl: classifiers with the loss on all their hidden layers, and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from snngan.config import check_options
from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.pairs import Classifiers, compared, last_of, logs_of_seeds, table_of_pairs
from snngan.experiments.running import shown, trained_classifier
from snngan.losses.entangled import LAYER_REDUCTIONS
from snngan.losses.temperature import parse_temperature
from snngan.models import CLASSIFIERS

PUBLISHED = {
    "mnist": ((95.32, 95.93), (95.77, 96.2)),
    "fashion-mnist": ((89.1, 89.76), (89.12, 89.48)),
    "emnist": ((82.66, 82.86), (82.74, 82.96)),
    "kmnist": ((90.58, 90.67), (90.14, 90.67)),
}
"""Average and best test accuracy, in percent, of baseline and SNNL, as pt-snnl's table has them."""


@EXPERIMENTS.register("template-models")
@dataclass(frozen=True, kw_only=True)
class TemplateModels(Classifiers, Experiment):
    """Trains each network with cross-entropy alone and with the loss, the same seeds and steps for all."""

    source: ClassVar[str] = "pt-snnl, table of its README"
    summary: ClassVar[str] = "Test accuracy of template models with the loss on all hidden layers, and without"
    presets: ClassVar[Mapping[str, Experiment]]

    archs: tuple[str, ...] = ("feedforward", "cnn")
    """Networks, unless ``arch`` says one."""
    alpha: float = 10.0
    temperature: str = "absolute:50"
    layer_reduction: tuple[str, ...] = ("sum", "min")
    """Ways to weigh the layers; each is compared with the same baseline."""

    def __post_init__(self) -> None:
        check_options(self)
        parse_temperature(self.temperature)
        unknown = [name for name in self.layer_reduction if name not in LAYER_REDUCTIONS]
        if unknown or not self.layer_reduction:
            raise ValueError(
                f"layer_reduction takes {', '.join(LAYER_REDUCTIONS)}, not {', '.join(unknown) or 'nothing'}"
            )
        for arch in self.networks:
            CLASSIFIERS[arch]

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.arch,) if self.arch else self.archs

    def run(self, setting: Setting) -> Finding:
        dataset = self.data(setting)
        accuracies: dict[str, Any] = {}
        layers: dict[str, Any] = {}
        figures = []
        for arch in self.networks:
            logs = {}
            for side in ("baseline", *self.layer_reduction):
                weighed = {"layer_reduction": side} if side != "baseline" else {}
                alpha = self.alpha if weighed else 0.0
                config = self.config(arch, setting, alpha=alpha, temperature=self.temperature, **weighed)
                run = trained_classifier(config, dataset, setting.folder / "runs" / f"{arch}-{side}", setting)
                logs[side] = logs_of_seeds(run)
            for over in self.layer_reduction:
                pair = {"baseline": logs["baseline"], "SNNL": logs[over]}
                accuracies[f"{arch}, {over} over layers"] = compared(pair, last_of("accuracy/test"))
                for tag in (tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")):
                    layers[f"{arch}, {over}, {tag.split('/')[-1]}"] = compared(pair, last_of(tag), min)
            tags = ("accuracy/test", "cross_entropy/test")
            figures.append(plot_groups(logs, tags, setting.folder / f"{arch}.png"))
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, factor {self.alpha:g}, T "
            f"{self.temperature}. Test accuracy at the last step: mean over seeds (Student's 95 % interval), best; the "
            "difference seed by seed, and the p-value of a paired t-test.",
            "", *table_of_pairs(accuracies),
        ]  # fmt: skip
        if self.dataset in PUBLISHED:
            baseline, ours = PUBLISHED[self.dataset]
            text += [
                "",
                f"pt-snnl has, average and best: baseline {baseline[0]} % and {baseline[1]} %, SNNL {ours[0]} % and "
                f"{ours[1]} %; it does not say of which network, nor the number of runs.",
            ]
        text += [
            "", "Entanglement of each layer, held-out images, optimal T: how far the loss reached.", "",
            "| | baseline | SNNL |", "|---|---|---|",
            *(f"| {name} | {shown(row['baseline'])} | {shown(row['SNNL'])} |" for name, row in layers.items()),
        ]  # fmt: skip
        return Finding({"accuracy": accuracies, "entanglement": layers}, text, figures)


TemplateModels.presets = MappingProxyType(
    {
        "smoke": TemplateModels(
            dataset="digits", seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=3,
            options=("width=4", "units=16", "widths=16-16-32"),
        ),
        "cpu": TemplateModels(
            dataset="mnist", seeds=4, steps=1000, batch_size=256, learning_rate=1e-4, every=250,
            options=("width=16", "units=128"),
        ),
        "paper": TemplateModels(
            dataset="mnist", seeds=4, steps=7000, batch_size=256, learning_rate=1e-4, every=500,
            archs=("feedforward", "cnn", "resnet18", "resnet34"),
        ),
    }
)  # fmt: skip
