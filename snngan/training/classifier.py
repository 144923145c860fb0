"""Training of classifiers: cross-entropy + alpha * SNNL of hidden layers, for any number of seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.checkpoint import explain_mismatch
from snngan.config import ClassifyConfig
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.distributed import rank_and_world_size
from snngan.seeds import seed_for
from snngan.stats import mean_interval
from snngan.training.distributed import average_gradients
from snngan.training.ensemble import build_ensemble
from snngan.training.optimizers import WeightStates
from snngan.training.resolve import parse_adversarial_training, parse_augmentations
from snngan.training.trainer import Trainer, random_state, restore_random_state

CHUNK = 500
"""Images in each forward pass of an evaluation."""
NUM_ENTANGLED = 256
"""Images of each half whose entanglement is measured."""
NUM_TRAINING_IMAGES = 2000
"""Training images whose accuracy is measured; of the held-out ones, all are."""
NUM_BINS = 15
"""Bins of the calibration error, of equal width."""


class ClassifierTrainer(Trainer):
    """The networks of one or several seeds with their optimizer.

    Args:
        config: a resolved config; ``layers`` may be patterns, and the trainer's own config names the layers.
        dataset: what the config was resolved for, with labels.
        device: where networks and data are.
        state: of a checkpoint, to continue from.

    Raises:
        ValueError: the data are others, or do not fit the networks, or no layer matches.
        CheckpointError: ``state`` is that of other networks.
    """

    config: ClassifyConfig

    def __init__(
        self, config: ClassifyConfig, dataset: Dataset, device: torch.device, state: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, dataset, device)
        saved = None if state is None else state["networks"]
        self.ensemble = build_ensemble(config, to_unit_range(dataset.train_images[:2]), device, saved)
        self.config = self.ensemble.config
        self.adversarial_training = parse_adversarial_training(config.adversarial_training)
        first, *rest = config.seed_list
        batches = Batches(
            dataset.train_images,
            config.batch_size,
            seed=first,
            device=device,
            labels=dataset.train_labels,
            augment=parse_augmentations(config),
            shard=rank_and_world_size(),
        )
        self.batches = [batches, *(batches.with_seed(seed) for seed in rest)]  # all share the images
        self.halves = select_splits(dataset)
        torch.manual_seed(seed_for(first, "training"))  # what networks draw, as for dropout
        if state is not None:
            self.load_state_dict(state)

    def step(self, number: int) -> dict[str, Tensor]:
        config, ensemble = self.config, self.ensemble

        # Draw a batch for each network.
        batches = [each.next_images_and_labels() for each in self.batches]
        images, labels = (torch.stack(halves) for halves in zip(*batches, strict=True))
        if self.adversarial_training is not None:
            images = ensemble.attack(self.adversarial_training, images, labels, number)

        # Set what changes over the schedule.
        at, steps = min(number, config.schedule_steps), config.schedule_steps
        alpha = interpolate_linearly(config.alpha, config.alpha_final, at, steps)
        for group in ensemble.optimizer.param_groups:
            group["lr"] = interpolate_geometrically(config.learning_rate, config.learning_rate_final, at, steps)

        # Update the networks.
        ensemble.optimizer.zero_grad()
        losses, cross_entropies = ensemble.backward(images, labels, alpha)
        self.check_loss(number, "classifier", losses)
        average_gradients(weight for group in ensemble.optimizer.param_groups for weight in group["params"])
        ensemble.optimizer.step()
        return {"classifier": losses, "cross_entropy": cross_entropies}

    def evaluate(self, number: int) -> dict[str, float]:
        """Return accuracy, cross-entropy, calibration error and the entanglement of every layer, in evaluation mode.

        Tags end in ``train`` or ``test``; with several seeds each has its own, after ``seed-N/``, beside the mean.
        """
        found: dict[str, Tensor] = {}
        for half, (images, labels) in self.halves.items():
            for name, values in classification_metrics(
                compute_logits(self.ensemble, images, self.device), labels
            ).items():
                found[f"{name}/{half}"] = values
            for layer, values in measure_layers(self.ensemble, images, labels, self.device).items():
                found[f"entanglement/{half}/{layer}"] = values
        metrics = {tag: float(values.double().mean()) for tag, values in found.items()}
        if len(self.config.seed_list) > 1:
            for index, seed in enumerate(self.config.seed_list):
                metrics |= {f"seed-{seed}/{tag}": float(values[index]) for tag, values in found.items()}
        return metrics

    def networks(self) -> dict[str, nn.Module]:
        seeds = self.config.seed_list
        return {f"network of seed {seed}": each for seed, each in zip(seeds, self.ensemble.networks(), strict=True)}

    def optimizer_states(self) -> dict[str, WeightStates]:
        return {f"network of seed {seed}": state for seed, state in self.ensemble.optimizer_states().items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.steps_done,
            **self.ensemble.state_dict(),
            "batches": [each.state_dict() for each in self.batches],
            **random_state(self.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ensemble.load_state_dict(state)
        with explain_mismatch("random state"):
            for each, saved in zip(self.batches, state["batches"], strict=True):
                each.load_state_dict(saved)
            restore_random_state(state, self.device)
        self.steps_done = int(state["step"])

    def describe(self) -> list[str]:
        config, dataset = self.config, self.dataset
        options = ", ".join(f"{name}={value}" for name, value in config.arch_options.items())
        loss = "cross-entropy"
        if config.alpha or config.alpha_final:
            alpha = f"{config.alpha:g}"
            if config.alpha_final not in (None, config.alpha):
                alpha = f"({config.alpha:g} to {config.alpha_final:g})"
            is_snnl = config.regularizer == "snnl"
            name, rule = ("entanglement", f", T {config.temperature}") if is_snnl else (config.regularizer, "")
            reduction = "" if config.layer_reduction == "sum" else f"{config.layer_reduction} "
            layers = ", ".join(config.layer_names)
            loss += f" + {alpha} * {reduction}{name} of {layers} ({config.distance}{rule})"
        if config.adversarial_training is not None:
            loss += f", on {'points' if dataset.is_points else 'images'} attacked by {config.adversarial_training}"
        rate = f"{config.learning_rate:g}"
        if config.learning_rate_final not in (None, config.learning_rate):
            rate += f" to {config.learning_rate_final:g}"
        seeds = ", ".join(map(str, config.seed_list))
        return [
            f"data       {config.dataset}: {len(dataset.train_images)} {self.describe_samples()} of "
            f"{config.num_classes} classes, {len(dataset.test_images)} held out",
            f"network    {config.arch}" + (f" ({options})" if options else ""),
            f"loss       {loss}",
            f"training   {config.steps} steps of {config.batch_size}, {config.optimizer}, learning rate {rate}, "
            f"seed{'s' * (len(config.seed_list) > 1)} {seeds}, {config.precision} on {self.device}",
        ]

    def summarize(self, metrics: Mapping[str, float]) -> list[str]:
        config = self.config
        lines = [
            f"{words:13} accuracy {metrics[f'accuracy/{half}']:.2%}, cross-entropy "
            f"{metrics[f'cross_entropy/{half}']:.3g}, calibration error {metrics[f'calibration_error/{half}']:.4f}"
            for half, words in (("train", "training"), ("test", "held out"))
        ]
        if len(config.seed_list) > 1:
            values = [metrics[f"seed-{seed}/accuracy/test"] for seed in config.seed_list]
            _, low, high = mean_interval(values)
            lines.append(
                f"{f'over {len(values)} seeds':13} best {max(values):.2%} held out, "
                f"95 % interval of the mean {low:.2%} to {high:.2%}"
            )
        lines += [
            f"entanglement of {layer}: {metrics[f'entanglement/test/{layer}']:.4f}" for layer in config.layer_names
        ]
        chance = f"{math.log(config.num_classes):.2f}: chance for {config.num_classes} classes"
        return [*lines, f"(0: the classes are separate; {chance})"]


def interpolate_linearly(first: float, last: float | None, step: int, steps: int) -> float:
    """Return the value at ``step`` (1 to ``steps``) between ``first`` and ``last``; without a last, it is constant."""
    return first if last is None else first + (last - first) * (step - 1) / max(1, steps - 1)


def interpolate_geometrically(first: float, last: float | None, step: int, steps: int) -> float:
    """Return the value at ``step`` (1 to ``steps``) between ``first`` and ``last`` in equal ratios."""
    if last is None or first == last or not (first > 0 and last > 0):
        return interpolate_linearly(first, last, step, steps)
    return first * float((last / first) ** ((step - 1) / max(1, steps - 1)))


class ClassifierNetworks(Protocol):
    """Networks that map images to logits: an :class:`~snngan.training.ensemble.Ensemble`, or loaded ones."""

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (E, N, K) of images (N, C, H, W)."""

    def entanglement(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the entanglement (E,) of each layer."""


def select_splits(dataset: Dataset) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the images and labels that are evaluated, of both halves, in an order that is the same for every run."""
    assert dataset.train_labels is not None
    assert dataset.test_labels is not None
    train = fixed_permutation(dataset.train_images)[:NUM_TRAINING_IMAGES]
    test = fixed_permutation(dataset.test_images)
    return {
        "train": (dataset.train_images[train], dataset.train_labels[train]),
        "test": (dataset.test_images[test], dataset.test_labels[test]),
    }


def fixed_permutation(images: Tensor) -> Tensor:
    """Return the numbers (N,) of images in a random order that is always the same."""
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(0))


def compute_logits(networks: ClassifierNetworks, images: Tensor, device: torch.device) -> Tensor:
    """Return the logits (E, N, K), on the CPU, of images (N, C, H, W) as a data set stores them."""
    chunks = [networks.logits(to_unit_range(chunk.to(device))).float().cpu() for chunk in torch.split(images, CHUNK)]
    return torch.cat(chunks, 1)


def measure_layers(
    networks: ClassifierNetworks, images: Tensor, labels: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """Return the entanglement (E,), on the CPU, of each layer for the first ``NUM_ENTANGLED`` images (N, C, H, W)."""
    some = to_unit_range(images[:NUM_ENTANGLED].to(device))
    found = networks.entanglement(some, labels[:NUM_ENTANGLED].to(device))
    return {layer: value.cpu() for layer, value in found.items()}


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return accuracy, cross-entropy and calibration error, (E,) each, of logits (E, N, K) for labels (N,)."""
    right = logits.argmax(2) == labels
    return {
        "accuracy": right.double().mean(1),
        "cross_entropy": torch.stack([F.cross_entropy(own, labels) for own in logits]),
        "calibration_error": torch.stack([calibration_error(own, labels) for own in logits]),
    }


def calibration_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the expected calibration error () of logits (N, K): the gap of confidence and accuracy, by bins.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3, with 15 bins.
    """
    confidence, guess = logits.softmax(1).max(1)
    bins = (confidence * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    gap = (guess == labels).double() - confidence.double()
    return torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins, gap).abs().sum() / len(labels)
