"""Figures 3, 15 and 16: the entanglement of every layer while a classifier trains on cross-entropy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from snngan.evaluation.plots import plot_tags
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.pairs import Classifiers, logs_of_seeds
from snngan.experiments.running import Log, shown, trained_classifier
from snngan.stats import summarize


@EXPERIMENTS.register("layer-entanglement")
@dataclass(frozen=True, kw_only=True)
class LayerEntanglement(Classifiers, Experiment):
    """Gray images: cnn-small and squared distances; colored ones: resnet15 and cosine distances, as in the paper."""

    source: ClassVar[str] = "Frosst et al. 2019, figures 3, 15 and 16"
    summary: ClassVar[str] = "Entanglement of every hidden layer through the training of a classifier"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        dataset = self.data(setting)
        gray = dataset.image_shape[0] == 1
        arch, distance = ("cnn-small", "sqeuclidean") if gray else ("resnet15", "cosine")
        config = self.config(arch, setting, alpha=0.0, distance=distance)
        run = trained_classifier(config, dataset, setting.folder / "runs" / config.arch, setting)
        logs = logs_of_seeds(run)
        tags = {layer: f"entanglement/train/{layer}" for layer in run.plan.layers}
        numbers: dict[str, Any] = {layer: _course(logs, tag) for layer, tag in tags.items()}
        accuracy = summarize([log["accuracy/test"][1][-1] for log in logs])
        text = [
            f"{config.arch}, {distance} distances, {self.seeds} seeds, {self.steps} steps; test accuracy "
            f"{shown(accuracy, 4)}. The loss of each layer at its optimal temperature, 256 training images; mean over "
            "seeds (Student's 95 % interval).",
            "", "| layer | at the start | lowest | at step | at the end | end less start | end less lowest |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for layer, course in numbers.items():
            cells = [shown(course[key]) for key in ("first", "lowest", "lowest_at", "last", "change", "rise")]
            text.append(f"| {layer} | {' | '.join(cells)} |")
        fell = [layer for layer, course in numbers.items() if course["change"]["mean"] < 0]
        rose = [layer for layer, course in numbers.items() if course["rise"]["mean"] > 0.05 * course["first"]["mean"]]
        text += [
            "",
            f"Lower at the end than at the start: {', '.join(fell) or 'no layer'}.",
            f"Risen again after its lowest by over 5 % of its start: {', '.join(rose) or 'no layer'}.",
        ]
        figure = plot_tags(logs, tags, "soft nearest neighbor loss", setting.folder / "layers.png")
        return Finding({"layers": numbers, "accuracy": accuracy}, text, [figure])


def _course(logs: Sequence[Log], tag: str) -> dict[str, Any]:
    """Return statistics over seeds of how a value goes: first, lowest and where, last, and differences."""
    values = [log[tag][1] for log in logs]
    steps = logs[0][tag][0]
    return {
        "first": summarize([each[0] for each in values]),
        "lowest": summarize([min(each) for each in values]),
        "lowest_at": summarize([float(steps[each.index(min(each))]) for each in values]),
        "last": summarize([each[-1] for each in values]),
        "change": summarize([each[-1] - each[0] for each in values]),
        "rise": summarize([each[-1] - min(each) for each in values]),
        "by_step": [dict(zip(*log[tag], strict=True)) for log in logs],
    }


LayerEntanglement.presets = MappingProxyType(
    {
        "smoke": LayerEntanglement(
            dataset="digits", seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=2,
            options=("width=4", "units=16"),
        ),
        "cpu": LayerEntanglement(dataset="mnist", seeds=2, steps=1000, batch_size=256, learning_rate=1e-3, every=50),
        "paper": LayerEntanglement(
            dataset="mnist", seeds=4, steps=20000, batch_size=256, learning_rate=1e-3, every=500
        ),
    }
)  # fmt: skip
