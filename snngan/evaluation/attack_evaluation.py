"""Accuracy of classifiers under attack, and how well deep k-nearest neighbors (DkNN) support their predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snngan.data import Dataset, to_unit_range
from snngan.losses.entangled import hidden_layers
from snngan.robustness.activations import compute_activations
from snngan.robustness.attacks import Attack
from snngan.robustness.dknn import DkNN, DkNNOutput
from snngan.stats import summarize
from snngan.training.classifier import CHUNK, fixed_permutation

CALIBRATION = 750
"""Number of test images that calibrate a DkNN, as in Papernot and McDaniel 2018; at most half of all test images."""


@dataclass(frozen=True)
class Prediction:
    """What a network and its DkNN predict for N images: logits (N, K) and p-values."""

    logits: Tensor
    dknn: DkNNOutput

    def metrics(self, labels: Tensor) -> dict[str, float]:
        """Return, for true classes (N,), the accuracy of the network and of DkNN, mean credibility and confidence."""
        return {
            "accuracy": accuracy(self.logits, labels),
            "dknn_accuracy": float((self.dknn.predicted == labels).double().mean()),
            "credibility": float(self.dknn.credibility.mean()),
            "confidence": float(self.dknn.confidence.mean()),
        }


class DkNNEvaluator:
    """A trained network with the DkNN of its layers, fitted to training images and calibrated by held-out test images.

    Args:
        network: a classifier on ``device``.
        layers: names or patterns of its modules, as for ``hidden_layers``.
        dataset: labeled images.
        device: device of the network.
        num_train_images: number of training images among which neighbors are searched; default: all.
        num_neighbors: number of neighbors in each layer.

    Raises:
        ValueError: fewer training images than neighbors, or too few test images to calibrate.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        dataset: Dataset,
        device: torch.device,
        *,
        num_train_images: int | None = None,
        num_neighbors: int = 75,
    ) -> None:
        assert dataset.train_labels is not None
        assert dataset.test_labels is not None
        self.network, self.device = network.eval(), device
        self.modules = hidden_layers(network, layers)
        train, held_out = fixed_permutation(dataset.train_images)[:num_train_images], calibration_indices(dataset)
        if len(train) < num_neighbors:
            raise ValueError(f"DkNN needs at least {num_neighbors} training images, one for each, got {len(train)}")
        activations, labels = self._run(dataset.train_images[train])[1], dataset.train_labels[train].to(device)
        self.dknn = DkNN(activations, labels, num_classes=dataset.num_classes, num_neighbors=num_neighbors)
        self.dknn.calibrate(self._run(dataset.test_images[held_out])[1], dataset.test_labels[held_out].to(device))

    def __call__(self, images: Tensor) -> Prediction:
        """Return the predictions, on the CPU, for images (N, C, H, W), uint8 or in [-1, 1]."""
        logits, layers = self._run(images)
        return Prediction(logits.cpu(), DkNNOutput(self.dknn(layers).p_values.cpu()))

    def _run(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return compute_activations(self.network, self.modules, to_unit_range(images.to(self.device)), CHUNK)


def calibration_indices(dataset: Dataset) -> Tensor:
    """Return the indices of the test images that calibrate a :class:`DkNNEvaluator`; raises ``ValueError`` for none."""
    order = fixed_permutation(dataset.test_images)
    if len(order) < 2:
        raise ValueError(f"{dataset.name} must have at least 2 test images, one to calibrate DkNN, got {len(order)}")
    return order[: min(CALIBRATION, len(order) // 2)]


def select_queries(dataset: Dataset, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ``count`` (default: all) test images that do not calibrate a :class:`DkNNEvaluator`, and their labels."""
    assert dataset.test_labels is not None
    order = fixed_permutation(dataset.test_images)[len(calibration_indices(dataset)) :][:count]
    return dataset.test_images[order], dataset.test_labels[order]


def make_adversarial(
    network: nn.Module, attack: Attack | None, images: Tensor, labels: Tensor, device: torch.device, seed: int = 0
) -> Tensor:
    """Return, on the CPU, the adversarial images (N, C, H, W) in [-1, 1] that an attack makes on a network.

    ``images`` are uint8 or in [-1, 1], and returned unchanged if the attack is None; ``labels`` (N,) are the true
    classes, and ``seed`` is that of random starts. The network, on ``device``, is put into evaluation mode.
    """
    images = to_unit_range(images)
    if attack is None:
        return images
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    chunks = zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True)
    return torch.cat(
        [attack(network, chunk.to(device), classes.to(device), generator=generator).cpu() for chunk, classes in chunks]
    )


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of logits (N, K) whose highest value is that of the class in ``labels`` (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def compute_logits(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return, on the CPU, the logits (N, K) of a network in evaluation mode for images in [-1, 1]."""
    return compute_activations(network.eval(), {}, images.to(device), CHUNK)[0].cpu()


@dataclass(frozen=True, kw_only=True)
class AttackProtocol:
    """How classifiers are evaluated: under an attack of several strengths, by DkNN, or both.

    Args:
        attack: name of an attack, or None.
        epsilons: strengths of the attack, for pixels in [0, 1].
        steps: number of steps of an iterative attack; default: that of the attack.
        dknn: whether DkNN evaluates each prediction.
        dknn_count: number of training images among which DkNN searches; default: all.
        count: largest number of images to evaluate.

    Raises:
        ValueError: neither an attack nor DkNN, options of one without it, or a strength out of its range.
    """

    attack: str | None = None
    epsilons: tuple[float, ...] = ()
    steps: int | None = None
    dknn: bool = False
    dknn_count: int | None = None
    count: int = 1000

    def __post_init__(self) -> None:
        if (self.attack is None) != (not self.epsilons):
            raise ValueError("an attack needs strengths and the reverse: give both, as --attack bim --epsilon 0.1,0.2")
        if self.steps is not None and self.attack is None:
            raise ValueError("steps (--attack-steps) is an option of an attack: give --attack and --epsilon too")
        if self.dknn_count is not None and not self.dknn:
            raise ValueError("dknn_count (--dknn-count) is an option of DkNN: give --dknn too")
        if self.attack is None and not self.dknn:
            raise ValueError("count (--count) is the number of images to attack or evaluate: give --attack or --dknn")
        self.attacks()

    def attacks(self) -> list[Attack | None]:
        """Return None, for the original images, and the attack at each strength."""
        return [None, *(Attack(self.attack, epsilon, self.steps) for epsilon in self.epsilons if self.attack)]


def evaluate_attacks(
    protocol: AttackProtocol,
    networks: Sequence[nn.Module],
    sources: Sequence[nn.Module],
    layers: Sequence[str],
    dataset: Dataset,
    queries: tuple[Tensor, Tensor],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Return ``epsilon`` and ``metrics``, statistics over the networks, for the original images and each strength.

    ``queries`` are images (N, C, H, W) and labels (N,). Attacks on each of ``networks``, on ``device``, are made on the
    network in the same place of ``sources``: itself, or another to transfer from. DkNN uses the ``layers``, and
    searches among the training images of ``dataset``.
    """
    images, labels = (part[: protocol.count] for part in queries)
    attacks = protocol.attacks()
    values: list[defaultdict[str, list[float]]] = [defaultdict(list) for _ in attacks]
    attacked: nn.Module | None = None
    versions: list[Tensor] = []
    for network, source in zip(networks, sources, strict=True):
        if source is not attacked:
            versions = [make_adversarial(source, attack, images, labels, device) for attack in attacks]
            attacked = source
        evaluator = None  # before the next one takes as much memory
        if protocol.dknn:
            evaluator = DkNNEvaluator(network, layers, dataset, device, num_train_images=protocol.dknn_count)
        for version, found in zip(versions, values, strict=True):
            if evaluator:
                metrics = evaluator(version).metrics(labels)
            else:
                metrics = {"accuracy": accuracy(compute_logits(network, version, device), labels)}
            for name, value in metrics.items():
                found[name].append(value)
    return [
        {
            "epsilon": attack.epsilon if attack else 0.0,
            "metrics": {name: summarize(each) for name, each in found.items()},
        }
        for attack, found in zip(attacks, values, strict=True)
    ]
