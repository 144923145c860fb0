"""The training loop of classifiers: cross-entropy + alpha * entanglement of hidden layers, for any number of seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import ClassifyPlan
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.distributed import rank_and_world_size
from snngan.seeds import seed_for
from snngan.training.classifier_plan import parse_adversarial_training
from snngan.training.device import set_up
from snngan.training.distributed import (
    any_rank,
    average_gradients,
    broadcast_from_rank0,
    check_same_step,
    check_share,
    is_main_process,
    parameters_of,
    run_on_all_ranks,
)
from snngan.training.divergence import (
    LossMonitor,
    Outcome,
    Report,
    check_weights,
    explained,
    random_state,
    remedies_of,
    restore_random_state,
)
from snngan.training.ensemble import Ensemble, build_ensemble
from snngan.training.players import fitting
from snngan.training.run_folder import ClassifierRun

CHUNK = 500
"""Images in each pass of a reading."""
READ = 256
"""Images of each half whose entanglement is read."""
JUDGED = 2000
"""Training images whose accuracy is read; of the held-out ones it is all."""
BINS = 15
"""Bins of the calibration error, of equal width."""


def train_classifier(
    run: ClassifierRun,
    dataset: Dataset,
    device: torch.device,
    *,
    start: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: Report = lambda step, measured: None,
) -> Outcome:
    """Train the networks of ``run.plan`` on ``dataset`` and leave checkpoints and metrics in the run's folder.

    Args:
        run: a new folder, or one to go on with.
        dataset: what the plan was made for, with labels.
        device: where the networks and the data are.
        start: the checkpoint to go on from; on a CPU the result is bit-equal to an unbroken run's.
        should_stop: asked after each step; if true, the run saves and returns.
        report: called after each step with what was measured at it, by TensorBoard tag.

    Raises:
        DivergedError: a loss or a weight is not finite.
        CheckpointError: ``start`` is of other networks.
        ValueError: it is of other data.
        SaveError: a file could not be written.
    """
    plan = run.plan
    check_share(plan.batch_size)
    run_on_all_ranks(lambda: check_same_labeled_data(plan, dataset))
    check_same_step(0 if start is None else start["step"])
    first = is_main_process()  # of several processes it reads figures and writes
    members = build_ensemble(plan, device, None if start is None else start["members"])
    batches = batches_of_seeds(plan, dataset, device)
    gauge = Gauge(members, dataset, plan, device)
    networks = [f"network of seed {seed}" for seed in plan.seeds]

    def named() -> dict[str, nn.Module]:
        return dict(zip(networks, members.networks(), strict=True))

    remedies = remedies_of(plan.precision, plan.alpha, plan.alpha_final)
    watch = LossMonitor(
        check_every=1 if device.type == "cpu" else 50,
        explain=lambda: explained(named(), remedies, dataset.train_images),
    )
    set_up(tf32=plan.precision == "tf32", deterministic=plan.deterministic)
    adversarial_training = parse_adversarial_training(plan.adversarial_training)
    step, scalars = 0, {}
    torch.manual_seed(seed_for(plan.seeds[0], "training"))  # what networks draw: dropout
    if start is not None:
        step = restore(start, members, batches, device)
        run_on_all_ranks(lambda: run.rewind(step) if first else None)
    elif first:
        scalars = gauge.read()
        run.log(0, scalars)
    started, tracking_seconds, stopping = time.monotonic(), 0.0, False

    while step < plan.steps and not stopping:
        step += 1
        images, labels = (
            torch.stack(halves) for halves in zip(*(each.next_images_and_labels() for each in batches), strict=True)
        )
        if adversarial_training is not None:
            images = members.attacked(adversarial_training, images, labels, step)
        at, over = min(step, plan.schedule_steps), plan.schedule_steps
        alpha = along(plan.alpha, plan.alpha_final, at, over)
        for group in members.optimizer.param_groups:
            group["lr"] = falling(plan.learning_rate, plan.learning_rate_final, at, over)
        members.optimizer.zero_grad()
        losses, cross_entropies = members.backward(images, labels, alpha)
        watch.note(step, "classifier", losses, networks)
        watch.note(step, "cross_entropy", cross_entropies, networks)
        measured = watch.check() if step % watch.check_every == 0 else {}  # before anything follows from them
        average_gradients(parameters_of(members.optimizer))
        members.optimizer.step()
        del images, labels

        last = step == plan.steps
        stopping = any_rank(should_stop())
        reading, saving = step % plan.log_every == 0 or last, step % plan.checkpoint_every == 0 or last or stopping
        if reading or saving:
            measured |= watch.check()
            check_weights(step, named(), members.remembered(), remedies)
        if not first:
            continue
        if reading:
            before = time.monotonic()
            measured |= gauge.read()
            tracking_seconds += time.monotonic() - before
            run.log(step, measured)
        if saving:
            run.save(step, snapshot(step, members, batches, device))
        scalars = scalars | measured
        report(step, measured)

    broadcast_from_rank0(None)  # no rank leaves before the first has saved
    return Outcome(step, step == plan.steps, scalars, time.monotonic() - started, tracking_seconds, 0.0)


def along(first: float, last: float, step: int, steps: int) -> float:
    """Return the value at ``step`` (1 to ``steps``) on the way from ``first`` to ``last`` in equal steps."""
    return first + (last - first) * (step - 1) / max(1, steps - 1)


def falling(first: float, last: float, step: int, steps: int) -> float:
    """Return the value at ``step`` (1 to ``steps``) on the way from ``first`` to ``last`` in equal ratios."""
    if first == last or not (first > 0 and last > 0):
        return along(first, last, step, steps)
    return first * float((last / first) ** ((step - 1) / max(1, steps - 1)))


class Gauge:
    """Reads accuracy, cross-entropy, calibration error and the entanglement of every layer, in evaluation mode.

    Tags end in ``train`` or ``test``; with several seeds each has its own, after ``seed-N/``, beside the mean.
    """

    def __init__(self, members: Ensemble, dataset: Dataset, plan: ClassifyPlan, device: torch.device) -> None:
        assert dataset.train_labels is not None
        assert dataset.test_labels is not None
        self.members, self.plan, self.device = members, plan, device
        train, test = reading_order(dataset.train_images)[:JUDGED], reading_order(dataset.test_images)
        self.halves = {
            "train": (dataset.train_images[train], dataset.train_labels[train]),
            "test": (dataset.test_images[test], dataset.test_labels[test]),
        }

    def read(self) -> dict[str, float]:
        """Return the scalars by tag."""
        each: dict[str, Tensor] = {}
        for half, (images, labels) in self.halves.items():
            logits = logits_of(self.members, images, self.device)
            for name, value in figures_of(logits, labels).items():
                each[f"{name}/{half}"] = value
            for layer, value in layers_of(self.members, images, labels, self.device).items():
                each[f"entanglement/{half}/{layer}"] = value
        scalars = {tag: float(values.double().mean()) for tag, values in each.items()}
        if len(self.plan.seeds) > 1:
            for number, seed in enumerate(self.plan.seeds):
                scalars |= {f"seed-{seed}/{tag}": float(values[number]) for tag, values in each.items()}
        return scalars


def reading_order(images: Tensor) -> Tensor:
    """Return the numbers (N,) of images in the order in which they are read, in every run: what is read is alike."""
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(0))


def batches_of_seeds(plan: ClassifyPlan, dataset: Dataset, device: torch.device) -> list[Batches]:
    """Return each seed's stream over the same images, which are on the device once."""
    first, *rest = plan.seeds
    batches = [
        Batches(
            dataset.train_images,
            plan.batch_size,
            seed=first,
            device=device,
            labels=dataset.train_labels,
            shard=rank_and_world_size(),
        )
    ]
    return batches + [batches[0].with_seed(seed) for seed in rest]


def logits_of(members: Ensemble, images: Tensor, device: torch.device) -> Tensor:
    """Return the logits (E, N, K), on the CPU, of images (N, C, H, W) as they are kept in a data set."""
    chunks = [members.logits(to_unit_range(chunk.to(device))).float().cpu() for chunk in torch.split(images, CHUNK)]
    return torch.cat(chunks, 1)


def layers_of(members: Ensemble, images: Tensor, labels: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Return the entanglement (E,), on the CPU, of each layer for the first ``READ`` images (N, C, H, W)."""
    some = to_unit_range(images[:READ].to(device))
    return {layer: value.cpu() for layer, value in members.entanglement(some, labels[:READ].to(device)).items()}


def figures_of(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return accuracy, cross-entropy and calibration error, (E,) each, of logits (E, N, K) for labels (N,)."""
    right = logits.argmax(2) == labels
    return {
        "accuracy": right.double().mean(1),
        "cross_entropy": torch.stack([F.cross_entropy(own, labels) for own in logits]),
        "calibration_error": torch.stack([calibration_error(own, labels) for own in logits]),
    }


def calibration_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the expected calibration error () of logits (N, K): how far confidence and accuracy lie apart, by bin.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3, with 15 bins.
    """
    confidence, guess = logits.softmax(1).max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gap = (guess == labels).double() - confidence.double()
    return torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, gap).abs().sum() / len(labels)


def check_same_labeled_data(plan: ClassifyPlan, dataset: Dataset) -> None:
    """Raise ``ValueError`` unless ``dataset`` is what the plan was made for, labels and all."""
    if dataset.labeled_digest() != plan.data_digest:
        raise ValueError(
            f"{dataset.name}: these {len(dataset.train_images)} training images {dataset.image_shape} and their labels "
            "are not the ones the run was started with; resume with the same data (--dataset or --data-dir say where "
            "it is now)"
        )


def snapshot(step: int, members: Ensemble, batches: Sequence[Batches], device: torch.device) -> dict[str, Any]:
    """Return everything that the rest of the run follows from."""
    order = [each.state_dict() for each in batches]
    return {"step": step, "members": members.state_dict(), "batches": order, **random_state(device)}


def restore(state: Mapping[str, Any], members: Ensemble, batches: Sequence[Batches], device: torch.device) -> int:
    """Bring everything to where :func:`snapshot` stood and return its step.

    Raises:
        CheckpointError: the state is of other networks.
    """
    members.load_state_dict(state["members"])
    with fitting("random state"):
        for each, kept in zip(batches, state["batches"], strict=True):
            each.load_state_dict(kept)
        restore_random_state(state, device)
    return int(state["step"])
