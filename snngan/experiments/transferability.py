"""Figures 10 and 11: whether the gradients of two networks point alike, and whether attacks on one fool the other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import adversarial, logits_under, queries_of
from snngan.evaluation.plots import plot_tsne
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair
from snngan.experiments.running import shown
from snngan.robustness.attack_rule import Attack
from snngan.stats import summarize
from snngan.training.classifier import CHUNK

SourceVictim = tuple[tuple[str, int], tuple[str, int]]
"""Side and seed of a source, and of a victim."""


@EXPERIMENTS.register("transferability")
@dataclass(frozen=True, kw_only=True)
class Transferability(Pair, Experiment):
    """Attacks each network by the examples of every other seed's networks, of its own side and of the other."""

    source: ClassVar[str] = "Frosst et al. 2019, figures 10 and 11"
    summary: ClassVar[str] = "Whether gradients align and attacks transfer between baseline and entangled networks"
    presets: ClassVar[Mapping[str, Experiment]]

    seeds: int = option(2, "", low=2)
    epsilons: tuple[float, ...]
    """Strengths of BIM, of pixels in [0, 1]."""
    attack_steps: int = count()
    target: int = option(1, "", low=0)
    """The class that the gradients of the figure lead to."""
    num_images: int = count()
    """Attacked, at most."""
    num_drawn: int = count()
    """Images whose gradients are drawn."""

    def __post_init__(self) -> None:
        assert all(Attack("bim", epsilon, self.attack_steps) for epsilon in self.epsilons)

    def run(self, setting: Setting) -> Finding:
        dataset = self.data(setting)
        if self.target >= dataset.num_classes:
            raise ValueError(f"target must be below {dataset.num_classes}, the classes of {dataset.name}")
        sides, _ = self.networks(dataset, setting)
        images, labels = queries_of(dataset, self.num_images)
        networks = {(side, seed): network for side, each in sides.items() for seed, network in enumerate(each)}
        plain = to_unit_range(images)
        right = {key: logits_under(network, plain, setting.device).argmax(1) == labels
                 for key, network in networks.items()}  # fmt: skip
        rates: dict[float, dict[SourceVictim, float | None]] = {}
        for epsilon in self.epsilons:
            setting.notify(f"attacks of strength {epsilon:g}")
            attack = Attack("bim", epsilon, self.attack_steps)
            rates[epsilon] = {}
            for source, network in networks.items():
                found = adversarial(network, attack, images, labels, setting.device)
                fooled = {key: logits_under(each, found, setting.device).argmax(1) != labels
                          for key, each in networks.items()}  # fmt: skip
                rates[epsilon][source, source] = rate(fooled[source], right[source])
                for victim in networks:
                    if victim[1] != source[1]:
                        able = right[source] & right[victim] & fooled[source]
                        rates[epsilon][source, victim] = rate(fooled[victim], able)
        gradients = {key: directions(network, plain, self.target, setting.device) for key, network in networks.items()}
        alignment: dict[SourceVictim, float | None] = {
            (one, other): float((gradients[one] * gradients[other]).sum(1).mean())
            for one, other in product(networks, networks) if one[1] != other[1]
        }  # fmt: skip
        transfer = {f"{epsilon:g}": by_sides(found) for epsilon, found in rates.items()}
        aligned = by_sides(alignment)
        numbers = {"num_images": len(images), "transfer": transfer, "alignment": aligned}
        text = [
            f"{self.seeds} seeds a side, {len(images)} test images, BIM of {self.attack_steps} steps. To itself: the "
            "share of the images that a network gets right whose example, made on it, fools it. Transfer: of the "
            "images that two networks of different seeds get right and whose example fools the one it was made on, "
            "the share whose example fools the other, too. Alignment: mean cosine of both networks' gradients of the "
            f"loss towards class {self.target}, image by image. Mean (Student's 95 % interval of a jackknife over "
            "seeds, from three on: every network is in several pairs).",
            "", f"| from | to | {' | '.join(f'fooled at {epsilon:g}' for epsilon in self.epsilons)} | alignment |",
            "|---" * (len(self.epsilons) + 3) + "|",
        ]  # fmt: skip
        for pair in next(iter(transfer.values())):
            rows = [*(found[pair] for found in transfer.values()), aligned.get(pair)]
            cells = [shown(row) if row else "" for row in rows]
            text.append(f"| {pair.replace(' to ', ' | ')} | {' | '.join(cells)} |")
        panels = {
            f"{one[0]} {one[1]} and {other[0]} {other[1]}": (
                gradients[one][: self.num_drawn], gradients[other][: self.num_drawn]
            )
            for one, other in (
                (("baseline", 0), ("baseline", 1)), (("baseline", 0), ("entangled", 1)),
                (("entangled", 0), ("entangled", 1)),
            )
        }  # fmt: skip
        title = f"t-SNE of gradients towards class {self.target}: one network's blue, another's red"
        return Finding(numbers, text, [plot_tsne(panels, 3, title, setting.folder / "gradients.png", size=3.2)])


def rate(fooled: Tensor, able: Tensor) -> float | None:
    """Return the share of ``able`` (N,) that are ``fooled`` (N,); None if none is able."""
    return float((fooled & able).sum() / able.sum()) if bool(able.any()) else None


def by_sides(values: Mapping[SourceVictim, float | None]) -> dict[str, dict[str, Any] | None]:
    """Return, for each two sides, statistics of all pairs of their networks; None where no pair has a value.

    Pairs that share a network are not independent, so the interval is that of a jackknife: with n seeds and m the mean
    over all pairs, each seed stands for n m - (n - 1) m', m' the mean over the pairs without it.
    """
    sides: dict[str, dict[tuple[int, int], float]] = {}
    for ((one, first), (other, second)), value in values.items():
        name = "itself" if (one, first) == (other, second) else other
        known = sides.setdefault(f"{one} to {name}", {})
        if value is not None:
            known[first, second] = value
    return {pair: _jackknifed(known) if known else None for pair, known in sides.items()}


def _jackknifed(values: Mapping[tuple[int, int], float]) -> dict[str, Any]:
    mean = statistics.mean(values.values())
    seeds = sorted({seed for pair in values for seed in pair})
    without = [[value for pair, value in values.items() if seed not in pair] for seed in seeds]
    if not all(without):
        return summarize([mean])
    count = len(seeds)
    return summarize([count * mean - (count - 1) * statistics.mean(rest) for rest in without])


def directions(network: nn.Module, images: Tensor, target: int, device: torch.device) -> Tensor:
    """Return, on the CPU, the gradients (N, D) of the loss of class ``target`` at images, scaled to length 1."""
    found = []
    for part in torch.split(images, CHUNK):
        inputs = part.to(device).requires_grad_()
        labels = torch.full((len(part),), target, device=device)
        (slope,) = torch.autograd.grad(F.cross_entropy(network(inputs), labels, reduction="sum"), inputs)
        found.append(F.normalize(slope.flatten(1), dim=1).cpu())
    return torch.cat(found)


Transferability.presets = MappingProxyType(
    {
        "smoke": Transferability(
            dataset="digits", alpha=-0.1, seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=6,
            options=("width=4", "units=16"), epsilons=(0.3,), attack_steps=2, num_images=40, num_drawn=20,
        ),
        "cpu": Transferability(
            dataset="mnist", alpha=-0.02, seeds=4, steps=1000, batch_size=256, learning_rate=1e-3, every=250,
            options=("width=16", "units=128"), epsilons=(0.1, 0.2, 0.3), attack_steps=10, num_images=1000,
            num_drawn=500,
        ),
        "paper": Transferability(
            dataset="mnist", alpha=-0.02, seeds=4, steps=14000, batch_size=256, learning_rate=1e-4, every=1000,
            epsilons=(0.1, 0.2, 0.3), attack_steps=100, num_images=5000, num_drawn=1000,
        ),
    }
)  # fmt: skip
