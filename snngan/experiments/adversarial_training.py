"""Table 2: the entanglement of each layer of a network trained on PGD's examples, and of a plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import accuracy, adversarial, logits_under, queries_of
from snngan.evaluation.plots import bars_of_pairs
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.tables import format_cell, markdown_table, record, summarize_nested
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.robustness.activations import activations
from snngan.robustness.attack_rule import parse_attack

PUBLISHED = {"conv1": (1.39, 2.21), "conv2": (0.75, 1.97), "fc1": (1.75, 0.46), "logits": (0.13, 0.21)}
"""Baseline and PGD on MNIST; the paper's network has one fully connected layer."""
BATCH = 128
"""Test images whose entanglement is measured together, as in the paper."""
TEMPERATURES: Mapping[str, Any] = MappingProxyType({"T = 100": 100.0, "optimal T": "optimal"})
"""The paper's text does not say which; the published code starts at 100."""


@EXPERIMENTS.register("adversarial-training")
@dataclass(frozen=True, kw_only=True)
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
        data = self.load_data(context)
        networks, layers = self.train_networks(data, context)
        images, labels = queries_of(data, max(self.num_images, self.batches * BATCH))
        attacked, classes, measured = (
            images[: self.num_images],
            labels[: self.num_images],
            images[: self.batches * BATCH],
        )
        attack = parse_attack(self.evaluation_attack)
        accuracies: dict[str, Any] = {}
        by_seed: dict[str, Any] = {}
        of_learned: dict[str, Any] = {}
        for (variant, _), network in networks.items():
            examples = adversarial(network, attack, attacked, classes, context.device)
            for name, shown in (("accuracy", to_unit_range(attacked)), ("accuracy under attack", examples)):
                logits = logits_under(network, shown, context.device)
                record(accuracies, name, variant, value=accuracy(logits, classes))
        learned = {name: seeds_that_learned(each, data.num_classes) for name, each in accuracies["accuracy"].items()}
        for (variant, seed), network in networks.items():
            losses = layer_losses(network, layers, measured, labels, context.device)
            for (temperature, layer), loss in losses.items():
                record(by_seed, temperature, layer, variant, value=loss)
                if seed in learned[variant]:
                    record(of_learned, temperature, layer, variant, value=loss)
        means = summarize_nested(of_learned)
        numbers = {
            "layers": means,
            "networks": summarize_nested(accuracies),
            "learned": learned,
            "layers_by_seed": by_seed,
        }
        failed = [f"{name} seed {seed}" for name, seed in networks if seed not in learned[name]]
        published = PUBLISHED if (self.dataset, self.arch or "cnn") == ("mnist", "cnn") else {}
        rows: list[list[Any]] = [
            [name, *(format_cell(each, 4) for each in row.values()), "", ""]
            for name, row in numbers["networks"].items()
        ]
        for temperature, by_name in means.items():
            for layer, row in by_name.items():
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
        plot = bars_of_pairs(means, "soft nearest neighbor loss", context.folder / "layers.png")
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
    modules, count = hidden_layers(network, layers), num_batches(images)
    means = {(temperature, layer): 0.0 for temperature in TEMPERATURES for layer in (*layers, "logits")}
    for batch, classes in list(zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=False))[:count]:
        logits, found = activations(network, modules, to_unit_range(batch.to(device)))
        found["logits"] = logits
        for temperature, layer in means:
            own = classes[: len(batch)].to(device)
            loss = soft_nearest_neighbor_loss(found[layer], own, TEMPERATURES[temperature])
            means[temperature, layer] += float(loss) / count
    return means
