"""Experiments on classifiers: what they share, table 1 and figures 3, 8, 15 and 16, and both tables of pt-snnl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from snngan.config import ClassifyConfig, option, option_names
from snngan.data import Dataset
from snngan.evaluation.classifier import load_ensemble
from snngan.evaluation.plots import plot_groups
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.experiments.runs import Log, load_labeled, seed_logs, train_to_end
from snngan.experiments.tables import as_text, compare_logs, compare_paired, markdown_table, paired_table, summarize_all
from snngan.losses.temperature import parse_temperature
from snngan.models import CLASSIFIERS
from snngan.stats import summarize
from snngan.training.classifier import ClassifierTrainer
from snngan.training.resolve import resolve
from snngan.training.run_folder import RunFolder

ClassifierRun = RunFolder[ClassifyConfig]
Networks = dict[tuple[str, int], nn.Module]
"""Trained networks by variant and seed."""

CPU: dict[str, Any] = {
    **{"dataset": "mnist", "seeds": 4, "steps": 1000, "batch_size": 256, "learning_rate": 1e-3, "log_every": 250},
    "options": ("width=16", "units=128"),
}
PAPER = dict(CPU, steps=14000, learning_rate=1e-4, log_every=1000, options=())
"""What the presets of several experiments have in common."""
FROSST_2019 = {
    "mnist": "best 98.83 % and 99.23 %, average 98.82 % and 99.16 %",
    "fashion-mnist": "best 90.42 % and 91.48 %, average 90.25 % and 91.06 %",
    "cifar10": "best 90.78 % and 91.22 %, average 89.71 % and 89.9 %",
}
"""Test accuracy of baseline and entangled network in table 1; SVHN's average is a misprint."""
PT_SNNL = {
    "mnist": "baseline 95.32 % and 95.93 %, SNNL 95.77 % and 96.2 %",
    "fashion-mnist": "baseline 89.1 % and 89.76 %, SNNL 89.12 % and 89.48 %",
    "emnist": "baseline 82.66 % and 82.86 %, SNNL 82.74 % and 82.96 %",
    "kmnist": "baseline 90.58 % and 90.67 %, SNNL 90.14 % and 90.67 %",
}
"""Average and best test accuracy."""
PT_SNNL_2020 = {"mnist": (99.68, 99.5, 99.49, 98.72, 95.06), "fashion-mnist": (97.764, 97.09, 97.63, 93.99, 82.07)}
"""Average accuracy in percent of the five rows of the first table, of 2020; most likely on training images."""
CURVES = ("accuracy/test", "cross_entropy/test")


def default_architecture(data: Dataset) -> str:
    """Return the paper's network for a data set: cnn for gray images, resnet15 for color images."""
    return "cnn" if data.image_shape[0] == 1 else "resnet15"


def resolve_classifiers(data: Dataset, context: ExperimentContext, **options: Any) -> ClassifyConfig:
    """Return the config of these options, fields of ``ClassifyConfig``; raises ``ValueError`` if they do not fit."""
    options = {"checkpoint_every": max(1, options["steps"] // 10), **options}
    config = resolve(ClassifyConfig(data_dir=context.data_dir, **options), data)
    return ClassifierTrainer(config, data, context.device).config  # which names the layers


def train_classifiers(name: str, data: Dataset, context: ExperimentContext, **options: Any) -> ClassifierRun:
    """Return the finished run of classifiers, one per seed; see :func:`train_to_end` and the options above."""
    config = resolve_classifiers(data, context, **options)
    return train_to_end(name, config, context, lambda *each: ClassifierTrainer(each[0], data, context.device, each[1]))


class ClassifierExperiment(Experiment):
    """An experiment that trains classifiers with the seeds 0 to ``seeds - 1``."""

    dataset: str = option("digits", "data set that the classifiers are trained on")
    seeds: int = option(2, "number of seeds", low=1)
    steps: int = option(6, "number of optimizer steps", low=1)
    batch_size: int = option(32, "images per step", low=1)
    learning_rate: float = option(1e-3, "learning rate at the start")
    log_every: int = option(2, "steps between two measurements", low=1)
    arch: str | None = option(None, "network [the paper's for the kind of images]")
    optimizer: str = option("adam", "optimizer")
    learning_rate_final: float | None = option(None, "learning rate at the end [the same]")
    options: tuple[str, ...] = option(("width=4", "units=16", "widths=16-16-32"), "options of networks that have them")

    def train(self, name: str, data: Dataset, context: ExperimentContext, arch: str, **options: Any) -> ClassifierRun:
        """Return the finished run ``name`` of these classifiers, of the network ``self.arch`` or else ``arch``."""
        arch = self.arch or arch
        known = option_names(CLASSIFIERS[arch])
        shared = ("dataset", "steps", "batch_size", "optimizer", "learning_rate", "learning_rate_final", "log_every")
        options |= {key: getattr(self, key) for key in shared}
        options["set"] = tuple(each for each in self.options if each.partition("=")[0] in known)
        return train_classifiers(name, data, context, arch=arch, seeds=f"0:{self.seeds}", **options)


class BaselineComparison(ClassifierExperiment):
    """An experiment on a baseline and on an entangled classifier, with the same seeds and steps."""

    alpha: float = option(-0.1, "weight of the layer loss of entangled classifiers; negative values entangle classes")
    temperature: str = option("optimal", "temperature rule of the layer loss")

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Options of each variant's run, by its name."""
        alphas = {"baseline": 0.0, "entangled": self.alpha}
        return {name: {"alpha": alpha, "temperature": self.temperature} for name, alpha in alphas.items()}

    def train_variants(self, data: Dataset, context: ExperimentContext) -> dict[str, ClassifierRun]:
        """Return the finished run of each variant."""
        arch = default_architecture(data)
        return {name: self.train(name, data, context, arch, **options) for name, options in self.variants.items()}

    def train_logs(self, context: ExperimentContext) -> tuple[str, dict[str, list[Log]]]:
        """Return the name of the network, and the metrics of each seed by variant."""
        runs = self.train_variants(load_labeled(self.dataset, context), context)
        return runs["baseline"].config.arch, {name: seed_logs(run) for name, run in runs.items()}

    def train_networks(self, data: Dataset, context: ExperimentContext) -> tuple[Networks, tuple[str, ...]]:
        """Return the trained networks by variant and seed, and the names of their hidden layers."""
        runs = self.train_variants(data, context)
        networks = {
            (name, seed): network.to(context.device).eval()
            for name, run in runs.items()
            for seed, network in enumerate(load_ensemble(run, context.device)[0].networks())
        }
        return networks, runs["baseline"].config.layer_names


@EXPERIMENTS.register("entangled-regularizer")
class EntangledRegularizer(BaselineComparison):
    """Test accuracy with and without the entanglement of hidden layers as a regularizer."""

    source = "Frosst et al. 2019, table 1"
    cpu = dict(CPU, alpha=-0.003, steps=1500, options=("width=32", "units=128"))
    paper = dict(PAPER, alpha=-0.003)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        arch, logs = self.train_logs(context)
        layers = [tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")]
        rows = {
            "test accuracy": compare_logs(logs, "accuracy/test"),
            "test cross-entropy": compare_logs(logs, "cross_entropy/test", min),
            "calibration error": compare_logs(logs, "calibration_error/test", min),
            **{f"entanglement of {tag.split('/')[-1]}": compare_logs(logs, tag) for tag in layers},
        }
        text = [
            f"{arch}, {self.seeds} seeds, {self.steps} steps each; values at the last step. "
            "Entanglement: the loss of held-out images at its optimal temperature, which shows the effect of the "
            "regularizer.",
            *paired_table(rows),
        ]
        if self.dataset in FROSST_2019:
            text += ["", f"The paper reports, for baseline and entangled network: {FROSST_2019[self.dataset]}."]
        return ExperimentResult(rows, text, [plot_groups(logs, CURVES, context.folder / "curves.png")])


@EXPERIMENTS.register("overfitting")
class Overfitting(BaselineComparison):
    """When and how far baseline and entangled classifiers overfit."""

    source = "Frosst et al. 2019, figure 8"
    cpu = dict(CPU, dataset="mnist-5k", alpha=-0.003, seeds=2, steps=2000, log_every=50, options=("width=32",))
    paper = dict(PAPER, dataset="svhn", alpha=-0.003, seeds=2, steps=40000)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        arch, logs = self.train_logs(context)
        measured = {variant: [_overfitting(log) for log in each] for variant, each in logs.items()}
        rows = {}
        for name in measured["baseline"][0]:
            values = {variant: [each[name] for each in found] for variant, found in measured.items()}
            rows[name] = compare_paired(values, max if name.startswith("step") else min)
        text = [f"{arch}, {self.seeds} seeds, {self.steps} steps each.", *paired_table(rows)]
        tags = ("cross_entropy/train", "cross_entropy/test", "accuracy/test")
        return ExperimentResult(rows, text, [plot_groups(logs, tags, context.folder / "curves.png")])


def _overfitting(log: Log) -> dict[str, float]:
    steps, test = log["cross_entropy/test"]
    return {
        "step of the lowest test cross-entropy": float(steps[test.index(min(test))]),
        "lowest test cross-entropy": min(test),
        "rise from there to the last step": test[-1] - min(test),
        "test minus training cross-entropy, last step": test[-1] - log["cross_entropy/train"][1][-1],
    }


@EXPERIMENTS.register("layer-entanglement")
class LayerEntanglement(ClassifierExperiment):
    """Entanglement of every hidden layer through the training of a classifier.

    Train cnn-small with squared distances on gray images, resnet15 with cosine distances on color images.
    """

    source = "Frosst et al. 2019, figures 3, 15 and 16"
    cpu = dict(CPU, seeds=2, log_every=50, options=())
    paper = dict(PAPER, steps=20000, learning_rate=1e-3, log_every=500)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        is_gray = data.image_shape[0] == 1
        arch, distance = ("cnn-small", "sqeuclidean") if is_gray else ("resnet15", "cosine")
        run = self.train(self.arch or arch, data, context, arch, alpha=0.0, distance=distance)
        logs = seed_logs(run)
        tags = {layer: f"entanglement/train/{layer}" for layer in run.config.layer_names}
        numbers = {layer: _course(logs, tag) for layer, tag in tags.items()}
        accuracy = summarize([log["accuracy/test"][1][-1] for log in logs])
        columns = ("first", "lowest", "lowest_at", "last", "change", "rise")
        fell = [layer for layer, course in numbers.items() if course["change"]["mean"] < 0]
        rose = [layer for layer, course in numbers.items() if course["rise"]["mean"] > 0.05 * course["first"]["mean"]]
        text = [
            f"{run.config.arch}, {distance} distances, {self.seeds} seeds, {self.steps} steps; test accuracy "
            f"{as_text(accuracy, 4)}. The loss of each layer at its optimal temperature, 256 training images; "
            "mean over seeds (Student's 95 % interval).",
            *markdown_table(
                ("layer", "at the start", "lowest", "at step", "at the end", "end minus start", "end minus lowest"),
                ([layer, *map(course.get, columns)] for layer, course in numbers.items()),
            ),
            "",
            f"Lower at the end than at the start: {', '.join(fell) or 'no layer'}.",
            f"Higher at the end than its lowest value, by over 5 % of the start: {', '.join(rose) or 'no layer'}.",
        ]
        label = "soft nearest neighbor loss"
        curves = {layer: [{label: log[tag]} for log in logs] for layer, tag in tags.items()}
        plot = plot_groups(curves, [label], context.folder / "layers.png")
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
    return {**summarize_all(found), "by_step": [dict(zip(*log[tag], strict=True)) for log in logs]}


@EXPERIMENTS.register("template-models")
class TemplateModels(ClassifierExperiment):
    """Test accuracy of template models with the loss on all hidden layers, and without."""

    source = "pt-snnl, table of its README"
    cpu = dict(CPU, learning_rate=1e-4)
    paper = dict(PAPER, steps=7000, log_every=500, archs=("feedforward", "cnn", "resnet18", "resnet34"))

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
                options: dict[str, Any] = {"alpha": alpha, "temperature": self.temperature}
                options["layer_reduction"] = "sum" if variant == "baseline" else variant
                logs[variant] = seed_logs(self.train(f"{arch}-{variant}", data, context, arch, **options))
            for reduction in self.layer_reduction:
                pair = {"baseline": logs["baseline"], "SNNL": logs[reduction]}
                accuracies[f"{arch}, {reduction} over layers"] = compare_logs(pair, "accuracy/test")
                for tag in (tag for tag in logs["baseline"][0] if tag.startswith("entanglement/test/")):
                    layers[f"{arch}, {reduction}, {tag.split('/')[-1]}"] = compare_logs(pair, tag, min)
            plots.append(plot_groups(logs, CURVES, context.folder / f"{arch}.png"))
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, factor {self.alpha:g}, T "
            f"{self.temperature}; test accuracy at the last step.",
            *paired_table(accuracies),
        ]
        if self.dataset in PT_SNNL:
            note = "it states neither the network nor the number of runs"
            text += ["", f"pt-snnl reports, average and best: {PT_SNNL[self.dataset]}; {note}."]
        rows = ([name, row["baseline"], row["SNNL"]] for name, row in layers.items())
        text += [
            "",
            "Entanglement of each layer: loss of held-out images at the optimal T, which shows the effect of the loss.",
            *markdown_table(("", "baseline", "SNNL"), rows),
        ]
        return ExperimentResult({"accuracy": accuracies, "entanglement": layers}, text, plots)


@EXPERIMENTS.register("temperature-and-factor")
class TemperatureAndFactor(ClassifierExperiment):
    """Accuracy at a fixed and an annealed temperature, entangled and disentangled."""

    source = "pt-snnl, table of its README of 2020"
    cpu = dict(CPU, learning_rate=1e-4, options=())
    paper = dict(PAPER, steps=7000, log_every=500)

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
        published = [f"{value} %" for value in PT_SNNL_2020.get(self.dataset, ())] or [""] * len(numbers)
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
        """Return the options of each row's run, by its name, in the order of ``PT_SNNL_2020``."""
        fixed = f"{self.temperature:g}"
        rules = {f"T = {fixed}": f"absolute:{fixed}", "annealed T": f"annealed-absolute:1:{epoch}"}
        return {"baseline": {"alpha": 0.0}} | {
            f"{name}, factor {factor:+g}": {"alpha": factor, "temperature": rule}
            for name, rule in rules.items()
            for factor in (self.factor, -self.factor)
        }
