"""Tiny networks for the objectives: 2-D points for images, two layers for networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snngan.objectives import OBJECTIVES, Batch, Objective


def build(name: str, **options: Any) -> Objective:
    kind = OBJECTIVES[name]
    return kind(kind.make_options(options))


def make_images(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """Return 2-D points as images (count, 1, 1, 2)."""
    return 0.2 * torch.randn(count, 1, 1, 2, generator=torch.Generator().manual_seed(seed)) + shift


def make_discriminator(objective: Objective) -> nn.Module:
    """Return a discriminator for the objective, or the identity for one without."""
    if objective.discriminator_dim is None:
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, objective.discriminator_dim)
        )


def generator_loss_of(objective: Objective, network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return the generator's loss of images without labels."""
    return objective.generator_loss(lambda batch: network(batch.images), Batch(real), Batch(fake))


def discriminator_loss_of(objective: Objective, network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return objective.discriminator_loss(lambda batch: network(batch.images), Batch(real), Batch(fake))


def make_generator() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh(), nn.Unflatten(1, (1, 1, 2)))


def make_latents(count: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(9))


def minimize(network: nn.Module, loss: Callable[[], Tensor], steps: int, after: Callable[[], None]) -> list[float]:
    """Train ``network`` by Adam, call ``after`` after each step, and return the losses."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    values = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        after()
        values.append(value.item())
    return values
