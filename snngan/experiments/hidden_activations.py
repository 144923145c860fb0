"""Figure 22: where a network's first hidden layer puts adversarial images, with and without entanglement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import adversarial, queries_of
from snngan.evaluation.plots import embedded
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.tables import compare_paired, comparison_table, record
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import entanglement
from snngan.robustness.activations import activations
from snngan.robustness.attack_rule import parse_attack


@EXPERIMENTS.register("hidden-activations")
@dataclass(frozen=True, kw_only=True)
class HiddenActivations(BaselineComparison):
    """Measure the entanglement of plain and adversarial test images in each hidden layer."""

    source = "Frosst et al. 2019, figure 22"
    summary = "Whether hidden layers put adversarial images apart, with and without entanglement"

    attack: str = option("bim:0.3:2", "attack, such as bim:0.1:20")
    num_images: int = option(40, "most test images; a third is attacked, two thirds are not", low=12)
    num_drawn: int = option(20, "number of images of each kind in the plot", low=1)

    presets = {
        "cpu": {
            **CPU, "dataset": "fashion-mnist", "alpha": -0.02, "attack": "bim:0.1:20", "num_images": 3000,
            "num_drawn": 500,
        },
        "paper": {
            **PAPER, "dataset": "fashion-mnist", "alpha": -0.02, "attack": "bim:0.1:100", "num_images": 9000,
            "num_drawn": 1000,
        },
    }  # fmt: skip

    def check(self) -> None:
        parse_attack(self.attack)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        attack = parse_attack(self.attack)
        data = self.load_data(context)
        networks, layers = self.train_networks(data, context)
        images, labels = queries_of(data, self.num_images)
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        scores: dict[str, Any] = {}
        third = len(images) // 3
        for (variant, seed), network in networks.items():
            examples = adversarial(network, attack, images[:third], labels[:third], context.device)
            shown = torch.cat([examples, to_unit_range(images[third : 3 * third])]).to(context.device)
            _, found = activations(network, hidden_layers(network, layers), shown)
            for layer, features in found.items():
                attacked, reference, plain = torch.split(features, third)
                record(scores, f"{layer}, attacked", variant, value=entanglement(reference, attacked).score)
                record(scores, f"{layer}, unattacked", variant, value=entanglement(reference, plain).score)
            if seed == 0:
                attacked, reference, _ = torch.split(found[layers[0]], third)
                panels[variant] = reference[: self.num_drawn].cpu(), attacked[: self.num_drawn].cpu()
        numbers = {name: compare_paired(values, min) for name, values in scores.items()}
        text = [
            f"{self.seeds} seeds; {third} plain test images compared with {third} others, attacked by {self.attack} "
            "and unattacked. Score: the entanglement of both groups, 1 if they cannot be told apart, 0 if they are "
            "separate; best is the lowest. In the paper, attacked images are separate in entangled networks only.",
            *comparison_table(numbers, 3),
        ]
        title = f"t-SNE of {layers[0]}, seed 0: plain test images blue, attacked red"
        plot = embedded(panels, 2, title, context.folder / "activations.png", size=4.0)
        return ExperimentResult(numbers, text, [plot])
