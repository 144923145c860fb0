"""Table 1 and figures 3, 8, 15 and 16: accuracy, overfitting and the layers' entanglement while classifiers train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snngan.evaluation.plots import plot_groups, plot_tags
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison, ClassifierExperiment
from snngan.experiments.runs import Log, load_labeled, seed_logs
from snngan.experiments.tables import (
    compare_logs,
    comparison_table,
    format_cell,
    last_value,
    markdown_table,
    summarize_nested,
)
from snngan.stats import summarize

PUBLISHED = {
    "mnist": ((98.83, 99.23), (98.82, 99.16)),
    "fashion-mnist": ((90.42, 91.48), (90.25, 91.06)),
    "cifar10": ((90.78, 91.22), (89.71, 89.90)),
}
"""Best and average test accuracy in percent of baseline and entangled network; SVHN's average is a misprint."""


@EXPERIMENTS.register("entangled-regularizer")
class EntangledRegularizer(BaselineComparison):
    """Train a network with cross-entropy alone and with entanglement, with the same seeds and steps."""

    source = "Frosst et al. 2019, table 1"
    summary = "Test accuracy with and without the entanglement of hidden layers as a regularizer"
    presets = {
        "cpu": {**CPU, "alpha": -0.003, "steps": 1500, "options": ("width=32", "units=128")},
        "paper": {**PAPER, "alpha": -0.003},
    }

    def run(self, context: ExperimentContext) -> ExperimentResult:
        runs = self.train_variants(load_labeled(self.dataset, context), context)
        logs = {name: seed_logs(run) for name, run in runs.items()}
        layers = [tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")]
        rows = {
            "test accuracy": compare_logs(logs, last_value("accuracy/test")),
            "test cross-entropy": compare_logs(logs, last_value("cross_entropy/test"), min),
            "calibration error": compare_logs(logs, last_value("calibration_error/test"), min),
            **{f"entanglement of {tag.split('/')[-1]}": compare_logs(logs, last_value(tag)) for tag in layers},
        }
        text = [
            f"{runs['baseline'].config.arch}, {self.seeds} seeds, {self.steps} steps each; values at the last step. "
            "Entanglement: the loss of held-out images at its optimal temperature, which shows the effect of the "
            "regularizer.",
            *comparison_table(rows),
        ]
        if self.dataset in PUBLISHED:
            best, average = PUBLISHED[self.dataset]
            text += [
                "",
                f"The paper reports, for baseline and entangled network: best {best[0]} % and {best[1]} %, "
                f"average {average[0]} % and {average[1]} %.",
            ]
        plot = plot_groups(logs, ("accuracy/test", "cross_entropy/test"), context.folder / "curves.png")
        return ExperimentResult(rows, text, [plot])


@EXPERIMENTS.register("overfitting")
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
        runs = self.train_variants(load_labeled(self.dataset, context), context)
        logs = {name: seed_logs(run) for name, run in runs.items()}
        train, test = last_value("cross_entropy/train"), last_value("cross_entropy/test")
        rows = {
            "step of the lowest test cross-entropy": compare_logs(logs, lambda log: _lowest(log)[1]),
            "lowest test cross-entropy": compare_logs(logs, lambda log: _lowest(log)[0], min),
            "rise from there to the last step": compare_logs(logs, lambda log: test(log) - _lowest(log)[0], min),
            "test minus training cross-entropy, last step": compare_logs(logs, lambda log: test(log) - train(log), min),
        }
        text = [
            f"{runs['baseline'].config.arch}, {self.seeds} seeds, {self.steps} steps each.",
            *comparison_table(rows),
        ]
        tags = ("cross_entropy/train", "cross_entropy/test", "accuracy/test")
        return ExperimentResult(rows, text, [plot_groups(logs, tags, context.folder / "curves.png")])


def _lowest(log: Log) -> tuple[float, float]:
    """Return the lowest test cross-entropy and its step."""
    steps, values = log["cross_entropy/test"]
    return min(values), float(steps[values.index(min(values))])


@EXPERIMENTS.register("layer-entanglement")
class LayerEntanglement(ClassifierExperiment):
    """Train cnn-small with squared distances on gray images, resnet15 with cosine distances on color images."""

    source = "Frosst et al. 2019, figures 3, 15 and 16"
    summary = "Entanglement of every hidden layer through the training of a classifier"
    presets = {
        "cpu": {**CPU, "seeds": 2, "log_every": 50, "options": ()},
        "paper": {**PAPER, "steps": 20000, "learning_rate": 1e-3, "log_every": 500},
    }

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        is_gray = data.image_shape[0] == 1
        arch, distance = ("cnn-small", "sqeuclidean") if is_gray else ("resnet15", "cosine")
        run = self.train(self.arch or arch, data, context, arch, alpha=0.0, distance=distance)
        logs = seed_logs(run)
        tags = {layer: f"entanglement/train/{layer}" for layer in run.config.layer_names}
        numbers = {layer: _course(logs, tag) for layer, tag in tags.items()}
        accuracy = summarize([last_value("accuracy/test")(log) for log in logs])
        columns = ("first", "lowest", "lowest_at", "last", "change", "rise")
        fell = [layer for layer, course in numbers.items() if course["change"]["mean"] < 0]
        rose = [layer for layer, course in numbers.items() if course["rise"]["mean"] > 0.05 * course["first"]["mean"]]
        text = [
            f"{run.config.arch}, {distance} distances, {self.seeds} seeds, {self.steps} steps; test accuracy "
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
        plot = plot_tags(logs, tags, "soft nearest neighbor loss", context.folder / "layers.png")
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
