"""Figures 3, 15 and 16: the entanglement of every layer while a classifier trains on cross-entropy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snngan.evaluation.plots import curves_of_tags
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, ClassifierExperiment
from snngan.experiments.runs import Log, seed_logs
from snngan.experiments.tables import format_cell, markdown_table, summarize_nested
from snngan.intervals import summary


@EXPERIMENTS.register("layer-entanglement")
@dataclass(frozen=True, kw_only=True)
class LayerEntanglement(ClassifierExperiment):
    """Train cnn-small with squared distances on gray images, resnet15 with cosine distances on color images."""

    source = "Frosst et al. 2019, figures 3, 15 and 16"
    summary = "Entanglement of every hidden layer through the training of a classifier"
    presets = {
        "cpu": {**CPU, "seeds": 2, "log_every": 50, "options": ()},
        "paper": {**PAPER, "steps": 20000, "learning_rate": 1e-3, "log_every": 500},
    }

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        is_gray = data.image_shape[0] == 1
        arch, distance = ("cnn-small", "sqeuclidean") if is_gray else ("resnet15", "cosine")
        run = self.train(self.arch or arch, data, context, arch, alpha=0.0, distance=distance)
        logs = seed_logs(run)
        tags = {layer: f"entanglement/train/{layer}" for layer in run.plan.layers}
        numbers = {layer: _course(logs, tag) for layer, tag in tags.items()}
        accuracy = summary([log["accuracy/test"][1][-1] for log in logs])
        columns = ("first", "lowest", "lowest_at", "last", "change", "rise")
        fell = [layer for layer, course in numbers.items() if course["change"]["mean"] < 0]
        rose = [layer for layer, course in numbers.items() if course["rise"]["mean"] > 0.05 * course["first"]["mean"]]
        text = [
            f"{run.plan.arch}, {distance} distances, {self.seeds} seeds, {self.steps} steps; test accuracy "
            f"{format_cell(accuracy, 4)}. The loss of each layer at its optimal temperature, 256 training images; "
            "mean over seeds (Student's 95 % interval).",
            *markdown_table(
                ("layer", "at the start", "lowest", "at step", "at the end", "end minus start", "end minus lowest"),
                ([layer, *map(course.get, columns)] for layer, course in numbers.items()),
            ),
            "",
            f"Lower at the end than at the start: {', '.join(fell) or 'no layer'}.",
            f"Higher at the end than its lowest value, by over 5 % of the start: {', '.join(rose) or 'no layer'}.",
        ]
        plot = curves_of_tags(logs, tags, "soft nearest neighbor loss", context.folder / "layers.png")
        return ExperimentResult({"layers": numbers, "accuracy": accuracy}, text, [plot])


def _course(logs: Sequence[Log], tag: str) -> dict[str, Any]:
    """Return statistics over seeds of a value's first, lowest (and its step) and last value, and of differences."""
    values = [log[tag][1] for log in logs]
    steps = logs[0][tag][0]
    found = {
        "first": [each[0] for each in values],
        "lowest": [min(each) for each in values],
        "lowest_at": [float(steps[each.index(min(each))]) for each in values],
        "last": [each[-1] for each in values],
        "change": [each[-1] - each[0] for each in values],
        "rise": [each[-1] - min(each) for each in values],
    }
    return {**summarize_nested(found), "by_step": [dict(zip(*log[tag], strict=True)) for log in logs]}
