"""Figures 12, 21 and 22: whether images of other data sets, and adversarial ones, lie apart from test images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snngan.config import option
from snngan.data import DATASETS, Dataset, to_unit_range
from snngan.data.datasets import data_folder
from snngan.evaluation.attack_evaluation import DkNNEvaluator, Prediction, make_adversarial, select_queries
from snngan.evaluation.plots import plot_tsne
from snngan.evaluation.sources import open_source
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.runs import load_labeled
from snngan.experiments.tables import compare_paired, comparison_table, format_cell, record, summarize_nested
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import entanglement
from snngan.robustness.activations import compute_activations
from snngan.robustness.attacks import parse_attack

OUTLIERS = {"outliers": ("notmnist", "fashion-mnist", "kmnist"), "alpha": -0.02}
FASHION = {"dataset": "fashion-mnist", "alpha": -0.02}
"""What the presets of each experiment have in common."""


@EXPERIMENTS.register("outliers")
class Outliers(BaselineComparison):
    """Score test images and as many of each other data set by networks of both variants."""

    source = "Frosst et al. 2019, figures 12 and 21"
    summary = "Telling images of other data sets by DkNN's credibility, with and without entanglement"

    outliers: tuple[str, ...] = option(("mnist-5k",), "data sets of outliers, or of files NAME.npz in the data folder")
    num_images: int = option(60, "most test images, and most outliers of each data set", low=1)
    num_drawn: int = option(30, "number of images of each kind in the plot", low=1)
    num_train_images: int = option(200, "most training images among which DkNN searches neighbors", low=75)

    presets = {
        "cpu": {**CPU, **OUTLIERS, "num_images": 2000, "num_drawn": 500, "num_train_images": 20000},
        "paper": {**PAPER, **OUTLIERS, "num_images": 9250, "num_drawn": 1000, "num_train_images": 60000},
    }

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        outliers = {name: outlier_images(name, data, self.num_images, context) for name in self.outliers}
        networks, layers = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)
        areas: dict[str, Any] = {}
        accuracies: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        for (variant, seed), network in networks.items():
            context.notify(f"{variant}, seed {seed}: neighbors among {self.num_train_images} training images")
            dknn = DkNNEvaluator(network, layers, data, context.device, num_train_images=self.num_train_images)
            known = dknn(images)
            record(accuracies, variant, value=known.metrics(labels)["accuracy"])
            for name, others in outliers.items():
                found = dknn(others)
                for (score, high), low in zip(_scores(known).items(), _scores(found).values(), strict=True):
                    record(areas, f"{name}, {score}", variant, value=area_under_roc(high, low))
                if seed == 0:
                    panels[f"{variant}, {name}"] = known.logits[: self.num_drawn], found.logits[: self.num_drawn]
            del dknn  # before the next one takes as much memory
        rows = {name: compare_paired(values) for name, values in areas.items()}
        numbers = {"auroc": rows, "accuracy": summarize_nested(accuracies)}
        accuracy = ", ".join(f"{name} {format_cell(value, 4)}" for name, value in numbers["accuracy"].items())
        text = [
            f"{self.seeds} seeds, {len(images)} test images, "
            + ", ".join(f"{len(others)} of {name}" for name, others in outliers.items())
            + f"; neighbors among {min(self.num_train_images, len(data.train_images))} training images; test accuracy: "
            f"{accuracy}. AUROC of telling test images from outliers: 1 is always, 0.5 is chance.",
            *comparison_table(rows, 3),
        ]
        title = "t-SNE of logits, seed 0: test images blue, outliers red"
        plot = plot_tsne(panels, len(outliers), title, context.folder / "logits.png", size=2.8)
        return ExperimentResult(numbers, text, [plot])


def _scores(prediction: Prediction) -> dict[str, Tensor]:
    """Return scores that should be high for test images and low for outliers; the second needs no DkNN."""
    probability = prediction.logits.softmax(1).amax(1)
    return {"credibility": prediction.dknn.credibility, "highest probability": probability}


def outlier_images(name: str, data: Dataset, count: int, context: ExperimentContext) -> Tensor:
    """Return the first ``count`` test images (N, C, H, W) of another source, resized to those of ``data``.

    Raises:
        ValueError: the source is missing, or its images have other channels or are smaller.
    """
    path = data_folder(context.data_dir) / f"{name}.npz"
    _, height, width = data.image_shape
    images = open_source(
        str(path) if name not in DATASETS.names() and path.exists() else name,
        data_dir=context.data_dir,
        image_size=height if height == width else None,
        notify=context.notify,
    ).first(count)
    if images.shape[1:] != data.image_shape or images.dtype != data.test_images.dtype:
        expected, given = ("x".join(map(str, shape)) for shape in (data.image_shape, images.shape[1:]))
        raise ValueError(f"images of {name} must be {expected} like those of {data.name}, got {given}")
    return images


def area_under_roc(known: Tensor, outliers: Tensor) -> float:
    """Return the area under the ROC curve of telling scores (N,) of known images from lower ones (M,) of outliers."""
    from sklearn.metrics import roc_auc_score

    is_known = torch.cat([torch.ones(len(known)), torch.zeros(len(outliers))])
    return float(roc_auc_score(is_known.numpy(), torch.cat([known, outliers]).double().numpy()))


@EXPERIMENTS.register("hidden-activations")
class HiddenActivations(BaselineComparison):
    """Measure the entanglement of plain and adversarial test images in each hidden layer."""

    source = "Frosst et al. 2019, figure 22"
    summary = "Whether hidden layers put adversarial images apart, with and without entanglement"

    attack: str = option("bim:0.3:2", "attack, such as bim:0.1:20")
    num_images: int = option(40, "most test images; a third is attacked, two thirds are not", low=12)
    num_drawn: int = option(20, "number of images of each kind in the plot", low=1)

    presets = {
        "cpu": {**CPU, **FASHION, "attack": "bim:0.1:20", "num_images": 3000, "num_drawn": 500},
        "paper": {**PAPER, **FASHION, "attack": "bim:0.1:100", "num_images": 9000, "num_drawn": 1000},
    }

    def check(self) -> None:
        parse_attack(self.attack)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        networks, layers = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        scores: dict[str, Any] = {}
        third = len(images) // 3
        for (variant, seed), network in networks.items():
            attack = parse_attack(self.attack)
            examples = make_adversarial(network, attack, images[:third], labels[:third], context.device)
            shown = torch.cat([examples, to_unit_range(images[third : 3 * third])]).to(context.device)
            _, found = compute_activations(network, hidden_layers(network, layers), shown)
            for layer, features in found.items():
                attacked, reference, plain = torch.split(features, third)
                record(scores, f"{layer}, attacked", variant, value=entanglement(reference, attacked).score)
                record(scores, f"{layer}, unattacked", variant, value=entanglement(reference, plain).score)
                if seed == 0 and layer == layers[0]:
                    panels[variant] = reference[: self.num_drawn].cpu(), attacked[: self.num_drawn].cpu()
        numbers = {name: compare_paired(values, min) for name, values in scores.items()}
        text = [
            f"{self.seeds} seeds; {third} plain test images compared with {third} others, attacked by {self.attack} "
            "and unattacked. Score: the entanglement of both groups, 1 if they cannot be told apart, 0 if they are "
            "separate; best is the lowest. In the paper, attacked images are separate in entangled networks only.",
            *comparison_table(numbers, 3),
        ]
        title = f"t-SNE of {layers[0]}, seed 0: plain test images blue, attacked red"
        plot = plot_tsne(panels, 2, title, context.folder / "activations.png", size=4.0)
        return ExperimentResult(numbers, text, [plot])
