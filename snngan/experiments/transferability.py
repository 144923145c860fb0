"""Figures 10 and 11: whether the gradients of two networks align, and whether attacks on one fool the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import compute_logits, make_adversarial, select_queries
from snngan.evaluation.plots import plot_tsne
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.runs import load_labeled
from snngan.experiments.tables import markdown_table
from snngan.robustness.attacks import Attack
from snngan.stats import summarize

CHUNK = 500
"""Images whose gradients are computed at a time."""
Network = tuple[str, int]
"""Variant and seed of a network."""
EPSILONS = {"alpha": -0.02, "epsilons": (0.1, 0.2, 0.3)}
"""What the presets have in common."""


@EXPERIMENTS.register("transferability")
class Transferability(BaselineComparison):
    """Attack each network by the examples of every other seed's networks, of its own variant and of the other."""

    source = "Frosst et al. 2019, figures 10 and 11"
    summary = "Whether gradients align and attacks transfer between baseline and entangled networks"

    seeds: int = option(2, "number of seeds", low=2)
    epsilons: tuple[float, ...] = option((0.3,), "strengths of BIM, for pixels in [0, 1]")
    attack_steps: int = option(2, "steps of BIM", low=1)
    target: int = option(1, "class whose loss the gradients are of", low=0)
    num_images: int = option(40, "most test images attacked", low=1)
    num_drawn: int = option(20, "number of images whose gradients are plotted", low=1)

    presets = {
        "cpu": {**CPU, **EPSILONS, "attack_steps": 10, "num_images": 1000, "num_drawn": 500},
        "paper": {**PAPER, **EPSILONS, "attack_steps": 100, "num_images": 5000, "num_drawn": 1000},
    }

    def check(self) -> None:
        self.attacks()

    def attacks(self) -> list[Attack]:
        """Return the attack of each strength; raises ``ValueError`` for one out of range."""
        return [Attack("bim", epsilon, self.attack_steps) for epsilon in self.epsilons]

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        if self.target >= data.num_classes:
            raise ValueError(f"target must be below {data.num_classes}, the classes of {data.name}, got {self.target}")
        networks, _ = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)

        def fooled_by(shown: Tensor) -> dict[Network, Tensor]:
            return {
                key: compute_logits(each, shown, context.device).argmax(1) != labels for key, each in networks.items()
            }

        plain = to_unit_range(images)
        correct = {key: ~wrong for key, wrong in fooled_by(plain).items()}
        transfer: dict[str, dict[str, dict[str, Any] | None]] = {}
        for attack in self.attacks():
            context.notify(f"attacks of strength {attack.epsilon:g}")
            rates: dict[tuple[Network, Network], float | None] = {}
            for source, network in networks.items():
                fooled = fooled_by(make_adversarial(network, attack, images, labels, context.device))
                rates[source, source] = conditional_rate(fooled[source], correct[source])
                for victim in networks:
                    if victim[1] != source[1]:
                        condition = correct[source] & correct[victim] & fooled[source]
                        rates[source, victim] = conditional_rate(fooled[victim], condition)
            transfer[f"{attack.epsilon:g}"] = summarize_pairs(rates)
        gradients = {key: unit_gradients(each, plain, self.target, context.device) for key, each in networks.items()}
        cosines = {
            (one, other): float((gradients[one] * gradients[other]).sum(1).mean())
            for one, other in product(networks, networks)
            if one[1] != other[1]
        }
        alignment = summarize_pairs(cosines)
        rows = []
        for pair in next(iter(transfer.values())):
            rows.append([*pair.split(" to "), *(found[pair] for found in transfer.values()), alignment.get(pair)])
        header = ("from", "to", *(f"fooled at {epsilon:g}" for epsilon in self.epsilons), "alignment")
        text = [
            f"{self.seeds} seeds per variant, {len(images)} test images, BIM of {self.attack_steps} steps. To itself: "
            "the share of correctly classified images whose example, made on the network, fools it. Transfer: among "
            "the images that two networks of different seeds classify correctly and whose example fools the network "
            "that it was made on, the share whose example fools the other network as well. Alignment: mean cosine of "
            f"both networks' gradients of the loss of class {self.target}, image by image. Mean (Student's 95 % "
            "interval of a jackknife over seeds, for three or more: every network is in several pairs).",
            *markdown_table(header, rows),
        ]
        panels = {
            f"{one} 0 and {other} 1": (gradients[one, 0][: self.num_drawn], gradients[other, 1][: self.num_drawn])
            for one, other in (("baseline", "baseline"), ("baseline", "entangled"), ("entangled", "entangled"))
        }
        title = f"t-SNE of gradients towards class {self.target}: one network's blue, another's red"
        plot = plot_tsne(panels, 3, title, context.folder / "gradients.png", size=3.2)
        return ExperimentResult({"num_images": len(images), "transfer": transfer, "alignment": alignment}, text, [plot])


def conditional_rate(event: Tensor, condition: Tensor) -> float | None:
    """Return the share of ``condition`` (N,) for which ``event`` (N,) holds too; None if it never holds."""
    return float((event & condition).sum() / condition.sum()) if bool(condition.any()) else None


def summarize_pairs(values: Mapping[tuple[Network, Network], float | None]) -> dict[str, dict[str, Any] | None]:
    """Return, for each two variants, statistics of all pairs of their networks; None where no pair has a value.

    Pairs that share a network are not independent, so the interval is that of a jackknife: with n seeds and m the mean
    over all pairs, each seed stands for n m - (n - 1) m', where m' is the mean over the pairs without it.
    """
    by_variants: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for (source, victim), value in values.items():
        pairs = by_variants[f"{source[0]} to {'itself' if source == victim else victim[0]}"]
        if value is not None:
            pairs[source[1], victim[1]] = value
    return {name: _jackknife(pairs) if pairs else None for name, pairs in by_variants.items()}


def _jackknife(values: Mapping[tuple[int, int], float]) -> dict[str, Any]:
    seeds = sorted({seed for pair in values for seed in pair})
    without = [[value for pair, value in values.items() if seed not in pair] for seed in seeds]
    if not all(without):
        return summarize([mean(values.values())])
    count = len(seeds)
    return summarize([count * mean(values.values()) - (count - 1) * mean(rest) for rest in without])


def unit_gradients(network: nn.Module, images: Tensor, target: int, device: torch.device) -> Tensor:
    """Return, on the CPU, gradients (N, D) of the loss of class ``target`` at images (N, ...), scaled to length 1."""
    found = []
    for chunk in torch.split(images, CHUNK):
        inputs = chunk.to(device).requires_grad_()
        labels = torch.full((len(chunk),), target, device=device)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(inputs), labels, reduction="sum"), inputs)
        found.append(F.normalize(gradient.flatten(1), dim=1).cpu())
    return torch.cat(found)
