"""Labeled points of the plane: random sets, how entangled they are, and their path along a loss's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from snngan.config import option
from snngan.evaluation.planes import moving
from snngan.experiments import Experiment
from snngan.losses.pairwise import mean_distance
from snngan.losses.snnl import soft_nearest_neighbor_loss

RADIUS, DEVIATION = 3.0, 0.9
"""Radius of the circle of mode centers, and standard deviation of the points around each."""


@dataclass(frozen=True, kw_only=True)
class ToyExperiment(Experiment):
    """An experiment on random sets of labeled points."""

    num_points: int = option(200, "number of points", low=40)
    num_classes: int = option(4, "number of classes", low=2, high=10)
    seeds: int = option(2, "number of random sets of points", low=1)
    steps: int = option(20, "number of steps", low=1)
    frames: int = option(4, "most frames of an animation", low=2, high=200)

    def follow_gradient(
        self, points: Tensor, loss: Callable[[Tensor], Tensor], update: Callable[[Tensor, int], Tensor]
    ) -> list[Tensor]:
        """Return positions (N, 2), on the CPU, of points (N, 2) from the start to the last step.

        Args:
            points: positions at the start.
            loss: maps positions (N, 2) to a scalar.
            update: maps its gradient (N, 2) and the number of the step, from 1, to the displacement (N, 2).
        """
        kept = {round(self.steps * (number / (self.frames - 1)) ** 3) for number in range(self.frames)}
        positions = [points.cpu()]  # more of them at the start, where the points move most
        for step in range(1, self.steps + 1):
            points = points.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(points), points)
            points = points.detach() + update(gradient, step)
            if step in kept:
                positions.append(points.cpu())
        return positions


def sample_points(num_points: int, num_classes: int, num_modes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points (N, 2), labels (N,) and modes (N,).

    With one mode, all classes share one Gaussian; otherwise the modes of each class are spread around a circle.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_points) % num_classes
    points = torch.randn(num_points, 2, generator=generator)
    modes = torch.arange(num_points) // num_classes % num_modes
    if num_modes == 1:
        return points, labels, modes
    angle = 2 * math.pi * (labels + num_classes * modes) / (num_classes * num_modes)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1) + DEVIATION * points, labels, modes


def mean_squared_distance(points: Tensor) -> float:
    """Return the mean squared distance between two of the points (N, D)."""
    return float(mean_distance(torch.cdist(points, points).square()))


def normalized_loss(features: Tensor, labels: Tensor) -> float:
    """Return the loss of features (N, D) at the optimal temperature, divided by the loss at an infinite one."""
    value, largest = (float(soft_nearest_neighbor_loss(features, labels, rule)) for rule in ("optimal", math.inf))
    return value / largest


def animate(path: Sequence[Tensor], labels: Tensor, file: Path) -> Path:
    """Write positions (N, 2) around their mean as an animated GIF."""
    return moving([positions - positions.mean(0) for positions in path], labels, file)
