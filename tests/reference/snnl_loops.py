"""Slow oracles in float64: each formula as published, one pair at a time, sharing no code with snngan."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def distance_loop(first: Tensor, second: Tensor, distance: str = "sqeuclidean") -> Tensor:
    """Return the distance () of two samples (D,): the sum of squared differences, or 1 - cos."""
    if distance == "sqeuclidean":
        return (first - second).square().sum()
    return 1 - (first * second).sum() / (first.square().sum() * second.square().sum()).sqrt()


def distances_loop(features: Tensor, distance: str = "sqeuclidean") -> list[list[Tensor]]:
    """Return the distances of all samples (N, D) as float64, N rows of N, connected to ``features``."""
    rows = list(features.double())
    return [[distance_loop(first, second, distance) for second in rows] for first in rows]


def mean_distance_loop(distances: list[list[Tensor]]) -> float:
    """Return the mean distance over pairs of different samples."""
    pairs = [float(d.detach()) for i, row in enumerate(distances) for j, d in enumerate(row) if i != j]
    return sum(pairs) / max(1, len(pairs))


def log_odds_loop(distances: list[list[Tensor]], labels: Tensor, temperature: float) -> dict[int, Tensor]:
    """Return, by anchor, log(sum over k of another class) - log(sum over j != i of the same class) of exp(-d / T)."""
    odds = {}
    for i in range(len(labels)):
        same = [-distances[i][j] / temperature for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        other = [-distances[i][k] / temperature for k in range(len(labels)) if labels[k] != labels[i]]
        if same:
            other_sum = torch.stack(other).logsumexp(0) if other else torch.tensor(-math.inf, dtype=torch.float64)
            odds[i] = other_sum - torch.stack(same).logsumexp(0)
    return odds


def snnl_loop(
    distances: list[list[Tensor]], labels: Tensor, temperature: float, groups: Tensor | None = None
) -> dict[int, Tensor]:
    """Return, by anchor, -log(sum over j != i of the same class / sum over k != i) of exp(-d / T).

    Frosst, Papernot and Hinton 2019, eq. 1. A sample that is alone in its class is not an anchor. With ``groups`` the
    sums are over samples of the anchor's group.
    """
    losses = {}
    for i in range(len(labels)):
        near = [j for j in range(len(labels)) if j != i and (groups is None or groups[j] == groups[i])]
        same = [-distances[i][j] / temperature for j in near if labels[j] == labels[i]]
        every = [-distances[i][k] / temperature for k in near]
        if same:
            losses[i] = torch.stack(every).logsumexp(0) - torch.stack(same).logsumexp(0)
    return losses


def mean_loss_loop(features: Tensor, labels: Tensor, temperature: float, distance: str = "sqeuclidean") -> Tensor:
    """Return the mean () of :func:`snnl_loop` over the anchors, or 0 without one, in float64."""
    losses = list(snnl_loop(distances_loop(features, distance), labels, temperature).values())
    return torch.stack(losses).mean() if losses else features.double().sum() * 0


def squared_mmd_loop(real: Tensor, fake: Tensor, widths: tuple[float, ...]) -> float:
    """Return the unbiased squared discrepancy under the mean of Gaussian kernels: Gretton et al. 2012, eq. 3."""
    distances = distances_loop(torch.cat([real, fake]))
    scale = mean_distance_loop(distances)
    n, m = len(real), len(fake)

    def kernel(i: int, j: int) -> float:
        return sum(math.exp(-float(distances[i][j]) / (width * scale)) for width in widths) / len(widths)

    real_rows, fake_rows = range(n), range(n, n + m)
    within_real = sum(kernel(i, j) for i in real_rows for j in real_rows if i != j) / (n * (n - 1))
    within_fake = sum(kernel(i, j) for i in fake_rows for j in fake_rows if i != j) / (m * (m - 1))
    across = sum(kernel(i, j) for i in real_rows for j in fake_rows) / (n * m)
    return within_real + within_fake - 2 * across


def losses_at(distances: Tensor, labels: Tensor, inverses: Tensor) -> Tensor:
    """Return the mean loss over the anchors at each 1/T of ``inverses`` (K,), as (K,): eq. 1 without the loops.

    ``distances`` (N, N) float64. For thousands of temperatures; itself compared with the loops.
    """
    same_class = labels[:, None] == labels
    self_pair = torch.eye(len(labels), dtype=torch.bool)
    anchors = (same_class & ~self_pair).any(1)
    if not anchors.any():
        return torch.zeros_like(inverses)
    exponents = -inverses[:, None, None] * distances[anchors]
    same = exponents.masked_fill(~(same_class & ~self_pair)[anchors], -math.inf).logsumexp(2)
    every = exponents.masked_fill(self_pair[anchors], -math.inf).logsumexp(2)
    return (every - same).mean(1)
