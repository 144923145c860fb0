"""What the experiments on points share: how they are drawn, how they move by a loss, how entangled they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from snngan.losses.pairwise import mean_distance
from snngan.losses.snnl import soft_nearest_neighbor_loss

RADIUS, SPREAD = 3.0, 0.9
"""Of the circle on which the centers of two modes a class lie, opposite each other, and of the points around each."""


def drawn(num_points: int, num_classes: int, modes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points (N, 2), labels (N,) and modes (N,): one Gaussian for all, or ``modes`` a class, round a circle."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_points) % num_classes
    points = torch.randn(num_points, 2, generator=generator)
    mode = torch.arange(num_points) // num_classes % modes
    if modes == 1:
        return points, labels, mode
    angle = 2 * math.pi * (labels + num_classes * mode) / (num_classes * modes)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1) + SPREAD * points, labels, mode


def mean_squared_distance(points: Tensor) -> float:
    """Return the mean squared distance of two of the points (N, D)."""
    return float(mean_distance(torch.cdist(points, points).square()))


def relative_loss(points: Tensor, labels: Tensor) -> float:
    """Return the loss of points (N, D) with labels (N,) at its optimal T, over that at an infinite one."""
    value, most = (float(soft_nearest_neighbor_loss(points, labels, rule)) for rule in ("optimal", math.inf))
    return value / most


def way_of(
    points: Tensor,
    loss: Callable[[Tensor], Tensor],
    moved_by: Callable[[Tensor, int], Tensor],
    steps: int,
    frames: int,
) -> list[Tensor]:
    """Return places (N, 2), on the CPU, on the way of points (N, 2) from where they are to the last step.

    Args:
        points: where they start.
        loss: maps points (N, 2) to a scalar.
        moved_by: maps its gradient (N, 2) and the number of the step, from 1, to how the points move (N, 2).
        steps: how many are taken.
        frames: places returned, at most; closer to one another at the start, where the points move most.
    """
    kept = {round(steps * (number / (frames - 1)) ** 3) for number in range(frames)}
    way = [points.cpu()]
    for step in range(1, steps + 1):
        points = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(points), points)
        points = points.detach() + moved_by(slope, step)
        if step in kept:
            way.append(points.cpu())
    return way
