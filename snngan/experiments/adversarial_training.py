"""Table 2: the entanglement of each layer of a network trained on PGD's examples, beside a plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import accuracy, adversarial, logits_under, queries_of
from snngan.evaluation.plots import plot_bars
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair
from snngan.experiments.running import shown
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.robustness.activations import activations
from snngan.robustness.attack_rule import parse_attack
from snngan.stats import summarize

PAPER = {"conv1": (1.39, 2.21), "conv2": (0.75, 1.97), "fc1": (1.75, 0.46), "logits": (0.13, 0.21)}
"""Baseline and PGD, on MNIST; its network has one fully connected layer."""
BATCH = 128
"""Test images whose entanglement is measured together, as in the paper."""
TEMPERATURES: Mapping[str, Any] = MappingProxyType({"T = 100": 100.0, "optimal T": "optimal"})
"""The paper's is lost from its text; 100 is the start of the published code's."""


@EXPERIMENTS.register("adversarial-training")
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Pair, Experiment):
    """Trains on cross-entropy alone, of images as they are and of PGD's."""

    source: ClassVar[str] = "Frosst et al. 2019, table 2"
    summary: ClassVar[str] = "Entanglement of each layer of a PGD-trained and of a plain network"
    presets: ClassVar[Mapping[str, Experiment]]

    alpha: float = 0.0
    adversarial_training: str
    """As of ``snngan classify train``."""
    judge: str
    """The attack that says how robust they have become."""
    num_images: int = count()
    """Test images attacked."""
    batches: int = count()
    """Of 128 test images, over which the entanglement is averaged."""

    def __post_init__(self) -> None:
        parse_attack(self.adversarial_training)
        parse_attack(self.judge)

    @property
    def sides(self) -> dict[str, dict[str, Any]]:
        return {name: {"alpha": self.alpha, "adversarial_training": adversarial_training}
                for name, adversarial_training in (("baseline", None), ("PGD", self.adversarial_training))}  # fmt: skip

    def run(self, setting: Setting) -> Finding:
        dataset = self.data(setting)
        networks, layers = self.networks(dataset, setting)
        images, labels = queries_of(dataset, max(self.num_images, self.batches * BATCH))
        batches = batches_of(images[: self.batches * BATCH])
        attack, some, classes = parse_attack(self.judge), images[: self.num_images], labels[: self.num_images]
        layered: dict[str, dict[str, dict[str, list[float]]]] = {}
        robust: dict[str, dict[str, list[float]]] = {}
        for side, each in networks.items():
            for network in each:
                moved = adversarial(network, attack, some, classes, setting.device)
                for name, shown_images in (("accuracy", to_unit_range(some)), ("accuracy under attack", moved)):
                    value = accuracy(logits_under(network, shown_images, setting.device), classes)
                    robust.setdefault(name, {}).setdefault(side, []).append(value)
                found = layer_values(network, layers, batches, labels, setting.device)
                for temperature, values in found.items():
                    for layer, value in values.items():
                        layered.setdefault(temperature, {}).setdefault(layer, {}).setdefault(side, []).append(value)
        learned = {side: those_that_learned(values, dataset.num_classes) for side, values in robust["accuracy"].items()}
        numbers: dict[str, Any] = {
            "layers": {temperature: {layer: {side: summarize([values[seed] for seed in learned[side]])
                                             for side, values in sides.items()}
                                     for layer, sides in values.items()} for temperature, values in layered.items()},
            "networks": {name: {side: summarize(values) for side, values in sides.items()}
                         for name, sides in robust.items()},
            "learned": learned, "layers_by_seed": layered,
        }  # fmt: skip
        stuck = ", ".join(f"{side} seed {seed}" for side in learned
                          for seed in range(self.seeds) if seed not in learned[side])  # fmt: skip
        known = PAPER if (self.dataset, self.arch or "cnn") == ("mnist", "cnn") else {}
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size}; trained on {self.adversarial_training}, attacked by "
            f"{self.judge}, {len(some)} test images. Entanglement: the loss of {len(batches[0])} test images, mean "
            f"over {len(batches)} such batches and over seeds (Student's 95 % interval).",
            f"At chance, and left out of the layers: {stuck}." if stuck else "No network stayed at chance.",
            *(["The paper's network has one fully connected layer; here fc1 and fc2 are hidden."] if known else []),
            "", "| | baseline | PGD | paper: baseline | PGD |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for name, sides in numbers["networks"].items():
            text.append(f"| {name} | {' | '.join(shown(value, 4) for value in sides.values())} | | |")
        for temperature, rows in numbers["layers"].items():
            for layer, sides in rows.items():
                paper = " | ".join(map(str, known.get(layer, ("", "")))) if temperature == "T = 100" else " | "
                text.append(f"| {layer}, {temperature} | {' | '.join(map(shown, sides.values()))} | {paper} |")
        figure = plot_bars(numbers["layers"], "soft nearest neighbor loss", setting.folder / "layers.png")
        return Finding(numbers, text, [figure])


def those_that_learned(accuracies: Sequence[float], num_classes: int) -> list[int]:
    """Return the seeds of networks that are better than twice chance, or all if none is.

    Trained on strong adversaries a small network may never leave the constant prediction: Madry et al. 2018, section 4.
    """
    better = [seed for seed, accuracy in enumerate(accuracies) if accuracy > 2 / num_classes]
    return better or list(range(len(accuracies)))


def batches_of(images: Tensor) -> list[Tensor]:
    """Return images (N, ...) in batches of 128; what is left over is left out, unless it is all there is."""
    whole = [batch for batch in torch.split(images, BATCH) if len(batch) == BATCH]
    return whole or [images]


def layer_values(
    network: nn.Module, layers: tuple[str, ...], batches: Sequence[Tensor], labels: Tensor, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return, by temperature and layer, the loss of batches of images, averaged; the logits are one more layer."""
    modules, start = hidden_layers(network, layers), 0
    sums: dict[str, dict[str, float]] = {name: dict.fromkeys((*layers, "logits"), 0.0) for name in TEMPERATURES}
    for batch in batches:
        logits, found = activations(network, modules, to_unit_range(batch.to(device)))
        own = labels[start : start + len(batch)].to(device)
        start += len(batch)
        for layer, points in (found | {"logits": logits}).items():
            for name, temperature in TEMPERATURES.items():
                value = soft_nearest_neighbor_loss(points, own, temperature)
                sums[name][layer] += float(value) / len(batches)
    return sums


AdversarialTraining.presets = MappingProxyType(
    {
        "smoke": AdversarialTraining(
            dataset="digits", seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=6,
            options=("width=4", "units=16"), adversarial_training="pgd:0.2:2", judge="pgd:0.2:3", num_images=40, batches=1,
        ),
        "cpu": AdversarialTraining(
            dataset="mnist", seeds=2, steps=1500, batch_size=128, learning_rate=1e-3, every=250,
            options=("width=16", "units=128"), adversarial_training="pgd:0.3:8", judge="pgd:0.3:40", num_images=1000,
            batches=10,
        ),
        "paper": AdversarialTraining(
            dataset="mnist", seeds=4, steps=20000, batch_size=128, learning_rate=1e-4, every=1000,
            options=("width=64", "units=1024"), adversarial_training="pgd:0.3:40", judge="pgd:0.3:100", num_images=5000,
            batches=40,
        ),
    }
)  # fmt: skip
