"""Table 2 and figures 10, 11 and 22: adversarial training, attacks that transfer, and adversarial images in layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.attack_evaluation import accuracy, compute_logits, make_adversarial, select_queries
from snngan.evaluation.plots import plot_bars, plot_tsne
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.runs import load_labeled
from snngan.experiments.tables import as_text, compare_paired, markdown_table, paired_table, record, summarize_all
from snngan.losses.entangled import hidden_layers
from snngan.losses.snnl import entanglement, soft_nearest_neighbor_loss
from snngan.robustness.activations import compute_activations
from snngan.robustness.attacks import Attack, parse_attack
from snngan.stats import summarize

PUBLISHED = {"conv1": (1.39, 2.21), "conv2": (0.75, 1.97), "fc1": (1.75, 0.46), "logits": (0.13, 0.21)}
"""Baseline and PGD on MNIST; the paper's network has one fully connected layer."""
BATCH = 128
"""Test images whose entanglement is measured together, as in the paper."""
TEMPERATURES: dict[str, Any] = {"T = 100": 100.0, "optimal T": "optimal"}
"""The paper's text does not say which; the published code starts at 100."""
CHUNK = 500
"""Images whose gradients are computed at a time."""
Network = tuple[str, int]
"""Variant and seed of a network."""


@EXPERIMENTS.register("adversarial-training")
class AdversarialTraining(BaselineComparison):
    """Entanglement of each layer of a PGD-trained and of a plain network."""

    source = "Frosst et al. 2019, table 2"
    cpu = dict(CPU, seeds=2, steps=1500, batch_size=128, num_images=1000, batches=10)
    cpu |= {"adversarial_training": "pgd:0.3:8", "evaluation_attack": "pgd:0.3:40"}
    paper = dict(PAPER, steps=20000, batch_size=128, num_images=5000, batches=40, options=("width=64", "units=1024"))
    paper |= {"adversarial_training": "pgd:0.3:40", "evaluation_attack": "pgd:0.3:100"}

    alpha: float = option(0.0, "weight of the layer loss of both networks")
    adversarial_training: str = option("pgd:0.2:2", "attack whose examples one variant is trained on")
    evaluation_attack: str = option("pgd:0.2:3", "attack that measures the robustness of both variants")
    num_images: int = option(40, "number of test images attacked", low=1)
    batches: int = option(1, "batches of 128 test images whose entanglement is averaged", low=1)

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
            for (temperature, layer), loss in layer_losses(network, layers, measured, labels, context.device).items():
                record(by_seed, temperature, layer, variant, value=loss)
        learned = {name: seeds_that_learned(each, data.num_classes) for name, each in accuracies["accuracy"].items()}
        means = {
            temperature: {
                layer: {name: summarize([values[seed] for seed in learned[name]]) for name, values in row.items()}
                for layer, row in by_layer.items()
            }
            for temperature, by_layer in by_seed.items()
        }
        of_networks = summarize_all(accuracies)
        numbers = {"layers": means, "networks": of_networks, "learned": learned, "layers_by_seed": by_seed}
        failed = [f"{name} seed {seed}" for name, seed in networks if seed not in learned[name]]
        published = PUBLISHED if (self.dataset, self.arch or "cnn") == ("mnist", "cnn") else {}
        rows = [[name, *(as_text(each, 4) for each in row.values()), "", ""] for name, row in of_networks.items()]
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
        return ExperimentResult(numbers, text, [plot_bars(means, context.folder / "layers.png")])


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


@EXPERIMENTS.register("transferability")
class Transferability(BaselineComparison):
    """Whether gradients align and attacks transfer between baseline and entangled networks."""

    source = "Frosst et al. 2019, figures 10 and 11"
    cpu = dict(CPU, alpha=-0.02, epsilons=(0.1, 0.2, 0.3), attack_steps=10, num_images=1000, num_drawn=500)
    paper = dict(PAPER, alpha=-0.02, epsilons=(0.1, 0.2, 0.3), attack_steps=100, num_images=5000, num_drawn=1000)

    seeds: int = option(2, "number of seeds", low=2)
    epsilons: tuple[float, ...] = option((0.3,), "strengths of BIM, for pixels in [0, 1]")
    attack_steps: int = option(2, "steps of BIM", low=1)
    target: int = option(1, "class whose loss the gradients are of", low=0)
    num_images: int = option(40, "most test images attacked", low=1)
    num_drawn: int = option(20, "number of images whose gradients are plotted", low=1)

    def check(self) -> None:
        self._attacks()

    def _attacks(self) -> list[Attack]:
        return [Attack("bim", epsilon, self.attack_steps) for epsilon in self.epsilons]

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        if self.target >= data.num_classes:
            raise ValueError(f"target must be below {data.num_classes}, the classes of {data.name}, got {self.target}")
        networks, _ = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)

        def fooled_by(shown: Tensor) -> dict[Network, Tensor]:
            logits = {key: compute_logits(each, shown, context.device) for key, each in networks.items()}
            return {key: each.argmax(1) != labels for key, each in logits.items()}

        plain = to_unit_range(images)
        correct = {key: ~wrong for key, wrong in fooled_by(plain).items()}
        transfer: dict[str, dict[str, dict[str, Any] | None]] = {}
        for attack in self._attacks():
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
            "share of correctly classified images whose example, made on the network, fools it. Transfer: among images "
            "that two networks of different seeds classify correctly and whose example fools the one it was made on, "
            f"share that fools the other as well. Alignment: mean cosine of the gradients of the loss of class "
            f"{self.target}, image by image. Mean (Student's 95 % interval of a jackknife over three or more seeds).",
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


@EXPERIMENTS.register("hidden-activations")
class HiddenActivations(BaselineComparison):
    """Whether hidden layers put adversarial images apart, with and without entanglement."""

    source = "Frosst et al. 2019, figure 22"
    cpu = dict(CPU, dataset="fashion-mnist", alpha=-0.02, attack="bim:0.1:20", num_images=3000, num_drawn=500)
    paper = dict(PAPER, dataset="fashion-mnist", alpha=-0.02, attack="bim:0.1:100", num_images=9000, num_drawn=1000)

    attack: str = option("bim:0.3:2", "attack, such as bim:0.1:20")
    num_images: int = option(40, "most test images; a third is attacked, two thirds are not", low=12)
    num_drawn: int = option(20, "number of images of each kind in the plot", low=1)

    def check(self) -> None:
        parse_attack(self.attack)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        networks, layers = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        scores: dict[str, Any] = {}
        third = len(images) // 3
        for (variant, seed), network in networks.items():
            attacked, classes = images[:third], labels[:third]
            examples = make_adversarial(network, parse_attack(self.attack), attacked, classes, context.device)
            shown = torch.cat([examples, to_unit_range(images[third : 3 * third])]).to(context.device)
            _, found = compute_activations(network, hidden_layers(network, layers), shown)
            for layer, features in found.items():
                attacked, reference, plain = torch.split(features, third)
                record(scores, f"{layer}, attacked", variant, value=entanglement(reference, attacked).score)
                record(scores, f"{layer}, unattacked", variant, value=entanglement(reference, plain).score)
                if seed == 0 and layer == layers[0]:
                    panels[variant] = reference[: self.num_drawn].cpu(), attacked[: self.num_drawn].cpu()
        numbers = {name: compare_paired(values, min) for name, values in scores.items()}
        text = [
            f"{self.seeds} seeds; {third} plain test images compared with {third} others, attacked by {self.attack} "
            "and unattacked. Score: the entanglement of both groups, 1 if they cannot be told apart, 0 if they are "
            "separate; best is the lowest. In the paper, attacked images are separate in entangled networks only.",
            *paired_table(numbers, 3),
        ]
        title = f"t-SNE of {layers[0]}, seed 0: plain test images blue, attacked red"
        plot = plot_tsne(panels, 2, title, context.folder / "activations.png", size=4.0)
        return ExperimentResult(numbers, text, [plot])
