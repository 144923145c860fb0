"""Table 2: the entanglement of each layer of a network trained on PGD's examples, and of a plain one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import accuracy, compute_logits, make_adversarial, select_queries
from snngan.evaluation.plots import plot_bars
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.runs import load_labeled
from snngan.experiments.tables import format_cell, markdown_table, record, summarize_nested
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.robustness.activations import compute_activations
from snngan.robustness.attacks import parse_attack
from snngan.stats import summarize

PUBLISHED = {"conv1": (1.39, 2.21), "conv2": (0.75, 1.97), "fc1": (1.75, 0.46), "logits": (0.13, 0.21)}
"""Baseline and PGD on MNIST; the paper's network has one fully connected layer."""
BATCH = 128
"""Test images whose entanglement is measured together, as in the paper."""
TEMPERATURES: dict[str, Any] = {"T = 100": 100.0, "optimal T": "optimal"}
"""The paper's text does not say which; the published code starts at 100."""


@EXPERIMENTS.register("adversarial-training")
class AdversarialTraining(BaselineComparison):
    """Train on the cross-entropy of plain images, and of PGD's examples."""

    source = "Frosst et al. 2019, table 2"
    summary = "Entanglement of each layer of a PGD-trained and of a plain network"

    alpha: float = option(0.0, "weight of the layer loss of both networks")
    adversarial_training: str = option("pgd:0.2:2", "attack whose examples one variant is trained on")
    evaluation_attack: str = option("pgd:0.2:3", "attack that measures the robustness of both variants")
    num_images: int = option(40, "number of test images attacked", low=1)
    batches: int = option(1, "batches of 128 test images whose entanglement is averaged", low=1)

    presets = {
        "cpu": {
            **CPU, "seeds": 2, "steps": 1500, "batch_size": 128, "adversarial_training": "pgd:0.3:8",
            "evaluation_attack": "pgd:0.3:40", "num_images": 1000, "batches": 10,
        },
        "paper": {
            **PAPER, "steps": 20000, "batch_size": 128, "options": ("width=64", "units=1024"),
            "adversarial_training": "pgd:0.3:40", "evaluation_attack": "pgd:0.3:100", "num_images": 5000, "batches": 40,
        },
    }  # fmt: skip

    def check(self) -> None:
        parse_attack(self.adversarial_training)
        parse_attack(self.evaluation_attack)

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        pgd = {"alpha": self.alpha, "adversarial_training": self.adversarial_training}
        return {"baseline": {"alpha": self.alpha}, "PGD": pgd}

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        networks, layers = self.train_networks(data, context)
        images, labels = select_queries(data, max(self.num_images, self.batches * BATCH))
        attacked, classes = images[: self.num_images], labels[: self.num_images]
        measured = images[: self.batches * BATCH]
        attack = parse_attack(self.evaluation_attack)
        accuracies: dict[str, Any] = {}
        by_seed: dict[str, Any] = {}
        for (variant, _), network in networks.items():
            examples = make_adversarial(network, attack, attacked, classes, context.device)
            for name, shown in (("accuracy", to_unit_range(attacked)), ("accuracy under attack", examples)):
                logits = compute_logits(network, shown, context.device)
                record(accuracies, name, variant, value=accuracy(logits, classes))
            losses = layer_losses(network, layers, measured, labels, context.device)
            for (temperature, layer), loss in losses.items():
                record(by_seed, temperature, layer, variant, value=loss)
        learned = {name: seeds_that_learned(each, data.num_classes) for name, each in accuracies["accuracy"].items()}
        means = {
            temperature: {
                layer: {name: summarize([values[seed] for seed in learned[name]]) for name, values in row.items()}
                for layer, row in by_layer.items()
            }
            for temperature, by_layer in by_seed.items()
        }
        of_networks = summarize_nested(accuracies)
        numbers = {"layers": means, "networks": of_networks, "learned": learned, "layers_by_seed": by_seed}
        failed = [f"{name} seed {seed}" for name, seed in networks if seed not in learned[name]]
        published = PUBLISHED if (self.dataset, self.arch or "cnn") == ("mnist", "cnn") else {}
        rows = [[name, *(format_cell(each, 4) for each in row.values()), "", ""] for name, row in of_networks.items()]
        for temperature, by_layer in means.items():
            for layer, row in by_layer.items():
                paper = published.get(layer, ("", "")) if temperature == "T = 100" else ("", "")
                rows.append([f"{layer}, {temperature}", *row.values(), *paper])
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images; trained on "
            f"{self.adversarial_training}, attacked by {self.evaluation_attack}, {len(attacked)} test images. "
            f"Entanglement: the loss of {min(BATCH, len(measured))} test images, mean over "
            f"{num_batches(measured)} such batches and over seeds (Student's 95 % interval).",
            f"At chance, and excluded from the layers: {', '.join(failed) or 'no network'}.",
            *(["The paper's network has one fully connected layer; here fc1 and fc2 are hidden."] if published else []),
            *markdown_table(("", "baseline", "PGD", "paper: baseline", "PGD"), rows),
        ]
        plot = plot_bars(means, "soft nearest neighbor loss", context.folder / "layers.png")
        return ExperimentResult(numbers, text, [plot])


def seeds_that_learned(accuracies: Sequence[float], num_classes: int) -> list[int]:
    """Return the seeds of networks whose accuracy is above twice chance, or all seeds if there are none.

    Trained on strong attacks, a small network may never leave the constant prediction: Madry et al. 2018, section 4.
    """
    better = [seed for seed, accuracy in enumerate(accuracies) if accuracy > 2 / num_classes]
    return better or list(range(len(accuracies)))


def num_batches(images: Tensor) -> int:
    """Return the number of whole batches of 128 images, or 1 where there are fewer images."""
    return max(1, len(images) // BATCH)


def layer_losses(
    network: nn.Module, layers: tuple[str, ...], images: Tensor, labels: Tensor, device: torch.device
) -> dict[tuple[str, str], float]:
    """Return the mean loss over batches of images (N, ...) by temperature and layer; the logits are one more layer."""
    count = num_batches(images)
    shown = to_unit_range(images[: count * BATCH].to(device))
    logits, found = compute_activations(network, hidden_layers(network, layers), shown, BATCH)
    classes = torch.split(labels[: len(shown)].to(device), BATCH)
    return {
        (title, layer): sum(
            float(soft_nearest_neighbor_loss(batch, own, temperature)) / count
            for batch, own in zip(torch.split(features, BATCH), classes, strict=True)
        )
        for title, temperature in TEMPERATURES.items()
        for layer, features in {**found, "logits": logits}.items()
    }
