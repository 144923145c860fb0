"""The networks of one run with their optimizers, and everything about them that a checkpoint must hold."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snngan.config import Plan
from snngan.models.batch_norm import convert_batch_norm
from snngan.objectives import Objective
from snngan.seeds import seed_for
from snngan.training.checkpoint import CheckpointError
from snngan.training.device import preferred_layout
from snngan.training.optimizers import make_optimizer
from snngan.training.plan import build_architecture, build_objective


@dataclass
class Players:
    """Both players of one game; ``averaged`` is the generator's exponential moving average, which is sampled from."""

    objective: Objective
    latent_dim: int
    generator: nn.Module
    averaged: nn.Module
    discriminator: nn.Module | None
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer | None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of networks, optimizers and objective."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that :meth:`state_dict` gave.

        Raises:
            CheckpointError: that was of other networks.
        """
        for name, part in self._parts().items():
            load_part(name, part, state)

    def _parts(self) -> dict[str, Any]:
        parts = {
            "generator": self.generator,
            "averaged": self.averaged,
            "discriminator": self.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "objective": self.objective.state(),
        }
        return {name: part for name, part in parts.items() if part is not None}

    @torch.no_grad()
    def update_average(self, share: float | Tensor) -> None:
        """Move the average, batch statistics included, a ``share`` of the way towards the generator.

        A number takes one operation; a tensor () on the device, one a weight, may change in a CUDA graph.
        """
        moving, counting = self._averaged_pairs
        weight = share if isinstance(share, float) else [share] * len(moving)
        torch._foreach_lerp_([kept for kept, _ in moving], [new for _, new in moving], weight)
        for kept, count in counting:
            kept.copy_(count)

    @cached_property
    def _averaged_pairs(self) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """Each tensor of the average with the generator's: those that move, and those that count and are copied."""
        pairs: list[tuple[Tensor, Tensor]] = [
            *zip(self.averaged.parameters(), self.generator.parameters(), strict=True),
            *zip(self.averaged.buffers(), self.generator.buffers(), strict=True),
        ]
        return (
            [pair for pair in pairs if pair[0].is_floating_point()],
            [pair for pair in pairs if not pair[0].is_floating_point()],
        )

    @torch.no_grad()
    def sample(self, latents: Tensor) -> Tensor:
        """Return the averaged generator's images (N, C, H, W) in [-1, 1] for ``latents`` (N, latent_dim)."""
        images: Tensor = self.averaged(latents)
        return images

    @torch.no_grad()
    def project(self, images: Tensor) -> Tensor | None:
        """Return the images' points (N, discriminator_dim) in the learned space, or None where there is none."""
        if self.discriminator is None or self.objective.discriminator_dim == 1:
            return None
        was_training = self.discriminator.training
        points: Tensor = self.discriminator.eval()(images)
        self.discriminator.train(was_training)
        return points


def load_part(name: str, part: Any, state: dict[str, Any]) -> None:
    """Load ``state[name]`` into a network or an optimizer.

    Raises:
        CheckpointError: it is missing, or of another shape.
    """
    with fitting(name):
        part.load_state_dict(state[name])


class AsLargeAs(TorchFunctionMode):
    """Makes no more weights than ``state``, as it was read, has room for: a plan beside it may be anyone's.

    More are refused by a ``CheckpointError`` before their memory is touched. Where ``state`` is None, nothing is.
    """

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.left = math.inf if state is None else 2 * _bytes_of(state) + (1 << 20)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.empty or self.left == math.inf:
            return func(*args, **(kwargs or {}))
        made = None
        with suppress(RuntimeError):  # of more than any machine has
            made = func(*args, **(kwargs or {}))
        self.left -= math.inf if made is None else made.nbytes
        if self.left < 0:
            raise CheckpointError("the checkpoint does not fit the run's config.json: its networks are smaller")
        return made


def _bytes_of(state: Any) -> int:
    """Return the size of all tensors in dicts and lists, of those that share memory once."""
    waiting, storages = [state], {}
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        elif isinstance(each, dict | list | tuple):
            waiting += each.values() if isinstance(each, dict) else each
    return sum(storages.values())


@contextmanager
def fitting(name: str) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint's part is taken over into the ``CheckpointError`` that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit the run's config.json: its {name} is another") from error


def build_players(plan: Plan, device: torch.device, state: Any = None) -> Players:
    """Return fresh players for ``plan`` on ``device``; the same seed gives the same weights.

    Raises:
        ValueError: the architecture cannot make images of the plan's shape.
        CheckpointError: they are to take a saved ``state``, and that is of smaller networks.
    """
    objective, architecture = build_objective(plan), build_architecture(plan)
    layout = preferred_layout(device, plan.precision)
    with torch.random.fork_rng(devices=[]), AsLargeAs(state):
        torch.manual_seed(seed_for(plan.seed, "weights"))
        generator = architecture.generator(plan.image_shape).to(device).to(memory_format=layout)
        discriminator = None
        if objective.discriminator_dim is not None:
            discriminator = architecture.discriminator(plan.image_shape, objective.discriminator_dim)
            discriminator = discriminator.to(device).to(memory_format=layout)
    for network in (generator, discriminator):
        if network is not None:
            convert_batch_norm(network)
            network.register_forward_hook(_as_float32)
    objective.state().to(device)
    averaged = copy.deepcopy(generator).eval().requires_grad_(False)
    options = plan.optimization
    discriminator_optimizer = None
    if discriminator is not None:
        rate = options.discriminator_learning_rate
        rate = options.learning_rate if rate is None else rate
        discriminator_optimizer = make_optimizer(options.optimizer, discriminator.parameters(), rate, options.betas)
    return Players(
        objective=objective,
        latent_dim=architecture.latent_dim,
        generator=generator,
        averaged=averaged,
        discriminator=discriminator,
        generator_optimizer=make_optimizer(
            options.optimizer, generator.parameters(), options.learning_rate, options.betas
        ),
        discriminator_optimizer=discriminator_optimizer,
    )


def _as_float32(network: nn.Module, images: tuple[Tensor], output: Tensor) -> Tensor:
    """Return what a network put out as float32, so that losses keep their digits where the network runs in bf16."""
    return output.float()
