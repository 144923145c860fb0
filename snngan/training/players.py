"""The networks of one run with their optimisers, and everything about them that a checkpoint must hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import Plan
from snngan.objectives import Objective
from snngan.seeds import seed_for
from snngan.training.checkpoint import CheckpointError
from snngan.training.device import preferred_layout
from snngan.training.distributed import share_batch_statistics
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
        """Return the state of networks, optimisers and objective."""
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
    """Load ``state[name]`` into a network or an optimiser.

    Raises:
        CheckpointError: it is missing, or of another shape.
    """
    with fitting(name):
        part.load_state_dict(state[name])


def check_shapes(name: str, build: Callable[[], nn.Module], state: Any) -> None:
    """Refuse ``state[name]`` where it is not of the network that ``build`` makes, before memory is taken for that.

    Raises:
        CheckpointError: it is missing, or of another shape.
    """
    with fitting(name), torch.device("meta"):
        shapes = {key: part.shape for key, part in build().state_dict().items()}
        if shapes != {key: part.shape for key, part in state[name].items()}:
            raise ValueError("other shapes")


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

    Where they are to take a saved ``state``, that is held against the plan first, which may be anyone's.

    Raises:
        ValueError: the architecture cannot make images of the plan's shape.
        CheckpointError: ``state`` is of other networks.
    """
    objective, architecture = build_objective(plan), build_architecture(plan)
    if state is not None:
        dim = objective.discriminator_dim
        check_shapes("generator", lambda: architecture.generator(plan.image_shape), state)
        if dim is not None:
            check_shapes("discriminator", lambda: architecture.discriminator(plan.image_shape, dim), state)
    layout = preferred_layout(device, plan.precision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(plan.seed, "weights"))
        generator = architecture.generator(plan.image_shape).to(device).to(memory_format=layout)
        discriminator = None
        if objective.discriminator_dim is not None:
            discriminator = architecture.discriminator(plan.image_shape, objective.discriminator_dim)
            discriminator = discriminator.to(device).to(memory_format=layout)
    for network in (generator, discriminator):
        if network is not None:
            share_batch_statistics(network)
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
