"""The one training loop, and what it trains: a :class:`Trainer` of generators or of classifiers."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import Config
from snngan.data import Dataset
from snngan.distributed import is_distributed
from snngan.training.device import set_up
from snngan.training.distributed import any_rank, broadcast_from_rank0, check_share, is_main_process, run_on_all_ranks
from snngan.training.divergence import (
    DivergedError,
    LossMonitor,
    advise,
    all_finite,
    collect_weights,
    describe_values,
    explain_divergence,
)
from snngan.training.optimizers import WeightStates
from snngan.training.resolve import check_same_data
from snngan.training.run_folder import RunFolder

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    step: int
    finished: bool
    """False: it was asked to stop, and saved first."""
    metrics: dict[str, float]
    """The last value of each loss and metric, by TensorBoard tag."""
    seconds: float
    evaluation_seconds: float
    """How many of ``seconds`` were spent on entanglement and other metrics."""


class Trainer(ABC):
    """Networks, optimizers, data order and random streams of one run.

    Everything is built once, from a resolved config and its data; a checkpoint's ``state`` restores the saved trainer's
    state. On a CPU with as many threads, the run then continues as if uninterrupted, equal to the last bit.

    Args:
        config: a resolved config.
        dataset: what the config was resolved for.
        device: where networks and data are.

    Raises:
        ValueError: the data are others, or do not fit the networks.
    """

    log_every: int
    metrics_every: int = 0
    sample_every: int = 0

    config: Config
    steps_done = 0
    """Steps of the run so far."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device) -> None:
        check_share(config.batch_size)
        check_same_data(config, dataset)
        self.dataset, self.device = dataset, device
        self.log_every = config.log_every
        self.checks_losses = device.type == "cpu" and not is_distributed()
        """Whether losses are read before weights change by them: where reading costs nothing."""
        set_up(tf32=config.precision == "tf32", deterministic=config.deterministic)

    def prepare(self) -> None:  # noqa: B027
        """Do what must precede the first step of a new run, on every rank: by default, nothing."""

    @abstractmethod
    def step(self, number: int) -> dict[str, Tensor]:
        """Do step ``number``, counted from 1; return its losses by name, () or (E,) of E networks."""

    @abstractmethod
    def evaluate(self, number: int) -> dict[str, float]:
        """Return what is logged at step ``number``, by TensorBoard tag; change nothing and draw no random numbers."""

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name: their weights must stay finite."""

    @abstractmethod
    def optimizer_states(self) -> dict[str, WeightStates]:
        """Return what the optimizers keep of the weights of each network, by its name: it must stay finite, too."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything that resuming needs."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where :meth:`state_dict` was called; raises ``CheckpointError`` for that of other networks."""

    @abstractmethod
    def describe(self) -> list[str]:
        """Return lines about data, networks, loss and training."""

    @abstractmethod
    def summarize(self, metrics: Mapping[str, float]) -> list[str]:
        """Return lines about the last ``metrics``, by TensorBoard tag."""

    def log_artifacts(self, run: RunFolder[Any], number: int) -> None:  # noqa: B027
        """Write what belongs to step ``number`` beside metrics and checkpoints: by default, nothing."""

    def describe_samples(self) -> str:
        """Return what the samples of the data are, such as ``images 1x28x28``."""
        return "2-D points" if self.dataset.is_points else f"images {'x'.join(map(str, self.dataset.image_shape))}"

    def is_due(self, number: int, every: int) -> bool:
        """Return whether step ``number`` is a multiple of ``every`` or the last step; never for 0."""
        return every > 0 and (number % every == 0 or number == self.config.steps)

    def check_loss(self, number: int, name: str, loss: Tensor) -> None:
        """Raise ``DivergedError`` if a loss () or (E,) is not finite, before weights change by it.

        On a GPU, where reading a loss waits for it, and on several ranks, the loop does so later.
        """
        if self.checks_losses:
            self.check_values(number, name, loss.detach().reshape(-1).tolist())

    def check_values(self, number: int, name: str, values: Sequence[float]) -> None:
        """Raise ``DivergedError`` if one of the ``values`` of a loss, one per network, is not finite."""
        for index, value in enumerate(values):
            if not math.isfinite(value):
                networks = self.networks()
                name = name if name in networks else list(networks)[index]  # a loss of several networks
                why = explain_divergence(self.config, networks, self.dataset.train_images)
                raise DivergedError(f"step {number}: the {name}'s loss is {value}; {why}")

    def check_weights(self, number: int) -> None:
        """Raise ``DivergedError`` if a weight, or what an optimizer keeps of it, is not finite.

        A finite loss can have a gradient that is not, and a weight whose squared gradient overflows never moves again.
        """
        networks = self.networks()
        tensors = collect_weights(networks)
        for network, state in self.optimizer_states().items():
            for weight, parts in state.items():
                tensors |= {f"{part} of the {network}'s {weight}": tensor for part, tensor in parts.items()}
        if not all_finite(tensors.values()):
            advice = advise(self.config, networks)
            raise DivergedError(f"step {number}: {describe_values(tensors)}, although the losses were. {advice}")


def train(
    trainer: Trainer,
    run: RunFolder[Any],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep = lambda step, metrics: None,
) -> Outcome:
    """Train to the last step of the config and leave metrics, samples and checkpoints in the run's folder.

    Args:
        trainer: new, or with the state of a checkpoint of ``run``.
        run: where everything is written.
        should_stop: asked after each step; if true, the run is saved and the function returns.
        on_step: called after each step with what was measured at it, by TensorBoard tag.

    Raises:
        DivergedError: a loss or a weight is not finite.
        SaveError: a file could not be written.
    """
    config, main = trainer.config, is_main_process()  # of several processes, the main one evaluates and writes
    losses, check_every = LossMonitor(), 1 if trainer.device.type == "cpu" else 50
    step, metrics = trainer.steps_done, {}
    if step:
        run_on_all_ranks(lambda: run.rewind(step) if main else None)
    else:
        trainer.prepare()
    if main and not step:
        run.log_config()
        metrics = trainer.evaluate(0)
        run.log(0, metrics)
        trainer.log_artifacts(run, 0)
    started, evaluation_seconds, stopping = time.monotonic(), 0.0, False

    while step < config.steps and not stopping:
        step += 1

        # Update the networks.
        losses.add(step, trainer.step(step))

        # Find out what is due now: everything at its own interval and at the last step.
        stopping = any_rank(should_stop())
        logging = trainer.is_due(step, trainer.log_every)
        measuring = trainer.is_due(step, trainer.metrics_every)
        sampling = trainer.is_due(step, trainer.sample_every)
        saving = stopping or trainer.is_due(step, config.checkpoint_every)

        # Look for losses and weights that are not finite.
        measured: dict[str, float] = {}
        if logging or measuring or sampling or saving or step % check_every == 0:
            for number, name, values in losses.read():
                trainer.check_values(number, name, values)
                measured[f"loss/{name}"] = math.fsum(values) / len(values)
        if logging or measuring or sampling or saving:
            trainer.check_weights(step)
        if not main:
            continue

        # Evaluate, draw, save.
        if logging or measuring:
            before = time.monotonic()
            found = trainer.evaluate(step)
            evaluation_seconds += time.monotonic() - before
            if logging or found:
                run.log(step, (measured if logging else {}) | found)
            measured |= found
        if sampling or saving:
            trainer.log_artifacts(run, step)
        if saving:
            trainer.steps_done = step
            run.save(step, trainer.state_dict())
        metrics = metrics | measured
        on_step(step, measured)

    broadcast_from_rank0(None)  # no rank leaves before the first has saved
    trainer.steps_done = step
    return Outcome(step, step == config.steps, metrics, time.monotonic() - started, evaluation_seconds)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's own generators, for a checkpoint."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch_rng": torch.get_rng_state(), "cuda_rng": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set torch's own generators to what :func:`random_state` returned."""
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], device)
