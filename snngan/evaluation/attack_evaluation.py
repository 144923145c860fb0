"""Classifiers under attack, and what the deep k-nearest neighbors of their layers say of each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snngan.data import Dataset, to_unit_range
from snngan.losses.entangled import hidden_layers
from snngan.robustness.activations import activations
from snngan.robustness.attack_rule import Attack
from snngan.robustness.dknn import DkNN, Vouched
from snngan.stats import summarize
from snngan.training.classifier import CHUNK, reading_order

CALIBRATION = 750
"""Held-out images that calibrate a DkNN, as many as Papernot and McDaniel 2018 take; at most half of all."""


@dataclass(frozen=True)
class Judged:
    """What a network and its DkNN make of N images."""

    logits: Tensor
    """(N, K)."""
    vouched: Vouched

    def figures(self, labels: Tensor) -> dict[str, float]:
        """Return, for true classes (N,), the network's accuracy, DkNN's, and mean credibility and confidence."""
        return {
            "accuracy": accuracy(self.logits, labels),
            "dknn_accuracy": float((self.vouched.predicted == labels).double().mean()),
            "credibility": float(self.vouched.credibility.mean()),
            "confidence": float(self.vouched.confidence.mean()),
        }


class Judge:
    """A trained network and the DkNN of its layers, fitted on training images and calibrated on held-out ones.

    Args:
        network: on ``device``.
        layers: names or patterns of its modules, as for ``hidden_layers``.
        dataset: with labels; test images of :func:`calibrating` calibrate.
        device: of the network.
        points: how many training images to look among; default: all.
        num_neighbors: in each layer.

    Raises:
        ValueError: fewer images than neighbors, or none to calibrate by.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        dataset: Dataset,
        device: torch.device,
        *,
        points: int | None = None,
        num_neighbors: int = 75,
    ) -> None:
        assert dataset.train_labels is not None
        assert dataset.test_labels is not None
        self.network, self.device = network.eval(), device
        self.modules = hidden_layers(network, layers)
        train, held = reading_order(dataset.train_images)[:points], calibrating(dataset)
        if len(train) < num_neighbors:
            raise ValueError(
                f"DkNN takes {num_neighbors} neighbors, and there are {len(train)} training images to look among"
            )
        self.dknn = DkNN(
            self._run(dataset.train_images[train])[1], dataset.train_labels[train].to(device),
            num_classes=dataset.num_classes, num_neighbors=num_neighbors,
        )  # fmt: skip
        self.dknn.calibrate(self._run(dataset.test_images[held])[1], dataset.test_labels[held].to(device))

    def __call__(self, images: Tensor) -> Judged:
        """Return what they make of images (N, C, H, W), uint8 or in [-1, 1]."""
        logits, layers = self._run(images)
        return Judged(logits.cpu(), Vouched(self.dknn(layers).p_values.cpu()))

    def _run(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return activations(self.network, self.modules, to_unit_range(images.to(self.device)), CHUNK)


def calibrating(dataset: Dataset) -> Tensor:
    """Return the numbers of the test images that calibrate a :class:`Judge`: the first in reading order.

    Raises:
        ValueError: there are not two, one to calibrate by and one to judge.
    """
    order = reading_order(dataset.test_images)
    if len(order) < 2:
        raise ValueError(f"{dataset.name} has {len(order)} test image; DkNN takes 2, one of them to calibrate by")
    return order[: min(CALIBRATION, len(order) // 2)]


def queries_of(dataset: Dataset, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ``count`` test images and their labels, in reading order, past those that calibrate a :class:`Judge`."""
    assert dataset.test_labels is not None
    order = reading_order(dataset.test_images)[len(calibrating(dataset)) :][:count]
    return dataset.test_images[order], dataset.test_labels[order]


def adversarial(
    network: nn.Module, attack: Attack | None, images: Tensor, labels: Tensor, device: torch.device, seed: int = 0
) -> Tensor:
    """Return, on the CPU, the attack's images (N, C, H, W) in [-1, 1] made on a network in evaluation mode.

    Args:
        network: on ``device``.
        attack: None leaves the images as they are.
        images: uint8 or in [-1, 1].
        labels: (N,) their classes.
        device: of the network.
        seed: of random starts.
    """
    images = to_unit_range(images)
    if attack is None:
        return images
    network.eval()
    starts = torch.Generator().manual_seed(seed)
    parts = zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True)
    return torch.cat([attack(network, *(half.to(device) for half in part), generator=starts).cpu() for part in parts])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of logits (N, K) whose highest is of the class in ``labels`` (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def logits_under(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return, on the CPU, the logits (N, K) of a network in evaluation mode for images in [-1, 1]."""
    return activations(network.eval(), {}, images.to(device), CHUNK)[0].cpu()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What classifiers are put to: an attack of several strengths, DkNN, or both.

    Args:
        attack: its name; None: none.
        epsilons: its strengths, of pixels in [0, 1].
        steps: of an iterative attack; default: its own.
        dknn: whether DkNN judges.
        points: training images it looks among; default: all.
        count: images that are judged, at most.

    Raises:
        ValueError: an attack without strengths, strengths without an attack, or out of range.
    """

    attack: str | None = None
    epsilons: tuple[float, ...] = ()
    steps: int | None = None
    dknn: bool = False
    points: int | None = None
    count: int = 1000

    def __post_init__(self) -> None:
        if self.points is not None and not self.dknn:
            raise ValueError("--points are what DkNN looks among: --dknn")
        if (self.attack is None) != (not self.epsilons):
            raise ValueError("an attack and its strengths go together: --attack bim --epsilon 0.1,0.2")
        if self.steps is not None and self.attack is None:
            raise ValueError("--attack-steps are of an attack: --attack bim")
        _ = self.attacks

    @property
    def attacks(self) -> list[Attack | None]:
        """None, for the images as they are, and the attack at each strength."""
        return [None, *(Attack(self.attack, epsilon, self.steps) for epsilon in self.epsilons if self.attack)]


def trial_of(
    trial: Trial,
    networks: Sequence[nn.Module],
    sources: Sequence[nn.Module],
    layers: Sequence[str],
    dataset: Dataset,
    queries: tuple[Tensor, Tensor],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Return, for the plain images and each strength, ``epsilon`` and ``figures``: statistics over the networks.

    Args:
        trial: what they are put to.
        networks: on ``device``.
        sources: that the attacks are made on, one for each network: themselves, or others whose examples transfer.
        layers: of each network, for DkNN.
        dataset: what they were trained on, which vouches for predictions.
        queries: images (N, C, H, W) and labels (N,).
        device: of the networks.
    """
    images, labels = (half[: trial.count] for half in queries)
    found: list[dict[str, list[float]]] = [{} for _ in trial.attacks]
    made: list[Tensor] = []
    for number, (network, source) in enumerate(zip(networks, sources, strict=True)):
        judge = Judge(network, layers, dataset, device, points=trial.points) if trial.dknn else None
        if number == 0 or source is not sources[number - 1]:
            made = [adversarial(source, attack, images, labels, device) for attack in trial.attacks]
        for shown, figures in zip(made, found, strict=True):
            if judge is None:
                own = {"accuracy": accuracy(logits_under(network, shown, device), labels)}
            else:
                own = judge(shown).figures(labels)
            for name, value in own.items():
                figures.setdefault(name, []).append(value)
        del judge
    return [
        {
            "epsilon": attack.epsilon if attack else 0.0,
            "figures": {name: summarize(values) for name, values in figures.items()},
        }
        for attack, figures in zip(trial.attacks, found, strict=True)
    ]
