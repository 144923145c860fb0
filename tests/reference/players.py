"""Tiny players for the objectives: points of the plane for images, two layers for networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snngan.objectives import OBJECTIVES, Objective


def build(name: str, **options: Any) -> Objective:
    return OBJECTIVES[name](**options)


def images(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """Return points of the plane as images (count, 1, 1, 2)."""
    return 0.2 * torch.randn(count, 1, 1, 2, generator=torch.Generator().manual_seed(seed)) + shift


def discriminator_of(objective: Objective, seed: int = 0) -> nn.Module | None:
    if objective.discriminator_dim is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, objective.discriminator_dim)
        )


def generator_of(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh(), nn.Unflatten(1, (1, 1, 2)))


def latents(count: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(9))


def descend(network: nn.Module, loss: Callable[[], Tensor], after: Callable[[], None], steps: int) -> list[float]:
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    values = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        after()
        values.append(value.item())
    return values
