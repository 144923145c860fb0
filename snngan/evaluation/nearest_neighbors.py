"""Figures from nearest neighbors in a feature space: precision, recall, density, coverage, 1-NN accuracy.

Distances come from products of centered points in float64, a block of rows at a time: memory is O(N D).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 1024


@dataclass(frozen=True)
class NeighborFigures:
    """What nearest neighbors say of synthetic points beside real ones."""

    precision: float
    """Share of synthetic points within the reach of a real one: Kynkaanniemi et al. 2019, eq. 1 and 2."""
    recall: float
    """Share of real points within the reach of a synthetic one."""
    density: float
    """Real points that have a synthetic one in reach, over k, for a mean synthetic point: Naeem et al. 2020, eq. 4."""
    coverage: float
    """Share of real points with a synthetic one in their reach: Naeem et al. 2020, eq. 5."""
    accuracy: float
    """Share of points whose nearest neighbor among all others is of their side; 0.5 is ideal: Lopez-Paz and Oquab."""
    real_accuracy: float
    """The same of real points: high, they lie away from the synthetic ones."""
    fake_accuracy: float
    """The same of synthetic points: high, they lie close to one another or off the data."""


def neighbor_figures(real: Tensor, fake: Tensor, k: int = 5) -> NeighborFigures:
    """Return the figures of ``real`` (N, D) and ``fake`` (M, D); a point reaches as far as its k-th neighbor.

    For the accuracy both sides count alike, the first min(N, M) of each.

    Raises:
        ValueError: fewer than k + 1 points on a side.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{k} nearest neighbors take {k + 1} points a side, not {len(real)} and {len(fake)}")
    center = torch.cat([real, fake]).double().mean(0)
    real, fake = real.double() - center, fake.double() - center
    real_reach, fake_reach = (_reach(side, k) for side in (real, fake))
    covered = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, held = 0, 0
    for rows, distances in squared_distance_rows(real, fake):
        inside = distances <= real_reach[rows, None]
        covered += inside.sum(0)
        held += int(inside.any(1).sum())
        recalled += int((distances <= fake_reach).any(1).sum())
    size = min(len(real), len(fake))
    own = torch.cat([_own_side(real[:size], fake[:size]), _own_side(fake[:size], real[:size])]).double()
    return NeighborFigures(
        precision=float((covered > 0).double().mean()),
        recall=recalled / len(real),
        density=float(covered.sum()) / (k * len(fake)),
        coverage=held / len(real),
        accuracy=float(own.mean()),
        real_accuracy=float(own[:size].mean()),
        fake_accuracy=float(own[size:].mean()),
    )


def squared_distance_rows(left: Tensor, right: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows at a time, and their squared distances (n, M) of ``left`` (N, D) from ``right`` (M, D)."""
    lengths = right.square().sum(1)
    for start in range(0, len(left), ROWS):
        rows = slice(start, min(start + ROWS, len(left)))
        mine = left[rows]
        distances = (mine @ right.T).mul_(-2).add_(mine.square().sum(1, keepdim=True)).add_(lengths)
        yield rows, distances.clamp_min_(0)


def _reach(points: Tensor, k: int) -> Tensor:
    """Return the squared distance (N,) of each point's k-th neighbor, itself not counted."""
    reach = points.new_empty(len(points))
    for rows, distances in _among_themselves(points):
        reach[rows] = distances.kthvalue(k, dim=1).values
    return reach


def _own_side(points: Tensor, others: Tensor) -> Tensor:
    """Return whether (N,) each point's nearest neighbor is of its own side; half of one where both are as near."""
    own = points.new_empty(len(points))
    pairs = zip(_among_themselves(points), squared_distance_rows(points, others), strict=True)
    for (rows, within), (_, between) in pairs:
        nearest, strange = within.amin(1), between.amin(1)
        own[rows] = (nearest < strange).double() + (nearest == strange).double() / 2
    return own


def _among_themselves(points: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for rows, distances in squared_distance_rows(points, points):
        distances[:, rows].fill_diagonal_(torch.inf)
        yield rows, distances
