"""Figure 22: where a network's first hidden layer puts adversarial images, with and without entanglement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import adversarial, queries_of
from snngan.evaluation.plots import plot_tsne
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair, compared_values, table_of_pairs
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import entanglement
from snngan.robustness.activations import activations
from snngan.robustness.attack_rule import parse_attack


@EXPERIMENTS.register("hidden-activations")
@dataclass(frozen=True, kw_only=True)
class HiddenActivations(Pair, Experiment):
    """Measures the entanglement of plain and adversarial test images in each hidden layer."""

    source: ClassVar[str] = "Frosst et al. 2019, figure 22"
    summary: ClassVar[str] = "Whether hidden layers put adversarial images apart, with and without entanglement"
    presets: ClassVar[Mapping[str, Experiment]]

    attack: str
    """As of ``snngan classify train --adversarial-training``."""
    num_images: int = option(MISSING, "", low=12)
    """At most; a third of them is attacked, a third is what they are held against, a third what plain ones come to."""
    num_drawn: int = count()
    """Of each kind in the figure."""

    def __post_init__(self) -> None:
        parse_attack(self.attack)

    def run(self, setting: Setting) -> Finding:
        attack = parse_attack(self.attack)
        dataset = self.data(setting)
        networks, layers = self.networks(dataset, setting)
        images, labels = queries_of(dataset, self.num_images)
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        scores: dict[str, dict[str, list[float]]] = {}
        third = len(images) // 3
        for side, each in networks.items():
            for seed, network in enumerate(each):
                moved = adversarial(network, attack, images[:third], labels[:third], setting.device)
                shown_images = torch.cat([moved, to_unit_range(images[third : 3 * third])])
                _, found = activations(network, hidden_layers(network, layers), shown_images.to(setting.device))
                for layer, points in found.items():
                    strange, plain, other = torch.split(points, third)
                    for name, group in ((f"{layer}, attacked", strange), (f"{layer}, as they are", other)):
                        score = entanglement(plain, group).score
                        scores.setdefault(name, {}).setdefault(side, []).append(score)
                if seed == 0:
                    strange, plain, _ = torch.split(found[layers[0]], third)
                    panels[side] = plain[: self.num_drawn].cpu(), strange[: self.num_drawn].cpu()
        numbers: dict[str, Any] = {name: compared_values(sides, min) for name, sides in scores.items()}
        text = [
            f"{self.seeds} seeds; {third} plain test images beside {third} others, attacked by {self.attack} and as "
            "they are. Score: the entanglement of the two groups, 1: not to be told apart, 0: apart; the paper has "
            "attacked ones apart in entangled networks only. Mean over seeds (Student's 95 % interval) and lowest; "
            "the difference seed by seed, and the p-value of a paired t-test.",
            "", *table_of_pairs(numbers, 3),
        ]  # fmt: skip
        title = f"t-SNE of {layers[0]}, seed 0: plain test images blue, attacked red"
        return Finding(numbers, text, [plot_tsne(panels, 2, title, setting.folder / "activations.png", size=4.0)])


HiddenActivations.presets = MappingProxyType(
    {
        "smoke": HiddenActivations(
            dataset="digits", alpha=-0.1, seeds=2, steps=6, batch_size=32, learning_rate=1e-3, every=6,
            options=("width=4", "units=16"), attack="bim:0.3:2", num_images=40, num_drawn=20,
        ),
        "cpu": HiddenActivations(
            dataset="fashion-mnist", alpha=-0.02, seeds=4, steps=1000, batch_size=256, learning_rate=1e-3, every=250,
            options=("width=16", "units=128"), attack="bim:0.1:20", num_images=3000, num_drawn=500,
        ),
        "paper": HiddenActivations(
            dataset="fashion-mnist", alpha=-0.02, seeds=4, steps=14000, batch_size=256, learning_rate=1e-4, every=1000,
            attack="bim:0.1:100", num_images=9000, num_drawn=1000,
        ),
    }
)  # fmt: skip
