"""Figures 10 and 11: whether the gradients of two networks point alike, and whether attacks on one fool the other."""

from __future__ import annotations

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
from snngan.evaluation.credibility import adversarial, logits_under, queries_of
from snngan.evaluation.figures import embedded
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair
from snngan.experiments.running import shown
from snngan.intervals import summary
from snngan.robustness.rule import Attack


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
    num_drawn: int = count()
    """Images whose gradients are drawn."""

    def __post_init__(self) -> None:
        assert all(Attack("bim", epsilon, self.attack_steps) for epsilon in self.epsilons)

    def run(self, setting: Setting) -> Finding:
        dataset, sides, _ = self.networks(setting)
        images, labels = queries_of(dataset, self.num_images)
        networks = {(side, seed): network for side, each in sides.items() for seed, network in enumerate(each)}
        plain = to_unit_range(images)
        right = {key: logits_under(network, plain, setting.device).argmax(1) == labels
                 for key, network in networks.items()}  # fmt: skip
        pairs = [(one, other) for one, other in product(networks, networks) if one[1] != other[1]]
        rates: dict[float, dict[tuple[Any, Any], float]] = {}
        for epsilon in self.epsilons:
            setting.notify(f"attacks of strength {epsilon:g}")
            attack = Attack("bim", epsilon, self.attack_steps)
            rates[epsilon] = {}
            for source, network in networks.items():
                found = adversarial(network, attack, images, labels, setting.device)
                fooled = {key: logits_under(each, found, setting.device).argmax(1) != labels
                          for key, each in networks.items()}  # fmt: skip
                for victim in [other for one, other in pairs if one == source]:
                    able = right[source] & right[victim] & fooled[source]
                    rates[epsilon][source, victim] = rate(fooled[victim], able)
        gradients = {key: directions(network, plain, self.target, setting.device) for key, network in networks.items()}
        alignment = {(one, other): float((gradients[one] * gradients[other]).sum(1).mean()) for one, other in pairs}
        numbers: dict[str, Any] = {
            "transfer": {f"{epsilon:g}": by_sides(found) for epsilon, found in rates.items()},
            "alignment": by_sides(alignment),
        }
        text = [
            f"{self.seeds} seeds a side, {self.num_images} test images, BIM of {self.attack_steps} steps. Transfer "
            "success: of the images that both networks get right and whose example fools the one it was made on, the "
            "share whose example fools the other, a network of another seed. Alignment: mean cosine of both networks' "
            f"gradients of the loss towards class {self.target}, image by image. Mean over the seeds of the source "
            "(Student's 95 % interval).",
            "", f"| from | to | {' | '.join(f'transfer at {epsilon:g}' for epsilon in self.epsilons)} | alignment |",
            "|---" * (len(self.epsilons) + 3) + "|",
        ]  # fmt: skip
        for pair in numbers["alignment"]:
            cells = [shown(numbers["transfer"][f"{epsilon:g}"][pair]) for epsilon in self.epsilons]
            text.append(
                f"| {pair.replace(' to ', ' | ')} | {' | '.join(cells)} | {shown(numbers['alignment'][pair])} |"
            )
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
        return Finding(numbers, text, [embedded(panels, 3, title, setting.folder / "gradients.png", size=3.2)])


def rate(fooled: Tensor, able: Tensor) -> float:
    """Return the share of ``able`` (N,) that are ``fooled`` (N,); 0 if none is able."""
    return float((fooled & able).sum() / able.sum().clamp_min(1))


def by_sides(values: Mapping[tuple[Any, Any], float]) -> dict[str, dict[str, Any]]:
    """Return, for each pair of sides, statistics over the source's seeds of the mean over its victims."""
    found: dict[str, dict[int, list[float]]] = {}
    for (one, other), value in values.items():
        found.setdefault(f"{one[0]} to {other[0]}", {}).setdefault(one[1], []).append(value)
    return {pair: summary([sum(each) / len(each) for each in seeds.values()]) for pair, seeds in found.items()}


def directions(network: nn.Module, images: Tensor, target: int, device: torch.device) -> Tensor:
    """Return, on the CPU, the gradients (N, D) of the loss of class ``target`` at images, scaled to length 1."""
    found = []
    for part in torch.split(images, 500):
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
