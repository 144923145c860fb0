"""The temperature at which the loss of a batch has its global minimum.

As a function of 1/T the loss of real data has several local minima, so a descent from one start is not enough. One
distance matrix serves all T: a grid from T = infinity to low T gives loss and slope; each interval in which the slope
turns from falling to rising contains a minimum, and those that may be the lowest are refined.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.backends.dense import DenseNeighbors
from snngan.losses.backends.tiled import TiledNeighbors
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import PairwiseBatch

SMALL_BATCH = 128
"""Anchors up to which the grid is four times as fine, and in float64: few samples make a jagged curve."""
FARTHEST_OVER_T = 1e10
"""Largest distance over the lowest T tried: at lower T the rounding of distances would decide. The grid ends earlier
where no lower T can have a lower loss."""
ROUNDING = 1e-6
"""The error of distances in float32, relative to the largest distance."""


class _Point(NamedTuple):
    """A point of the curve; points are compared by their loss."""

    loss: float
    inverse: float
    """1/T"""
    slope: float
    """The derivative of the loss by 1/T."""


@torch.no_grad()
def optimal_inverse_temperature(batch: PairwiseBatch) -> Tensor:
    """Return the 1/T () in float64 at which the mean loss of the batch is lowest; 0 means T = infinity.

    It costs some forty exponentials per pair, and the memory of the backend.
    """
    fine = _make_curve(batch)
    if fine is None:
        return batch.scale.new_zeros(())
    is_small = len(fine.gap) <= SMALL_BATCH
    coarse = fine if is_small else fine.rounded()
    grid = _evaluate_grid(coarse, per_octave=8 if is_small else 2)
    best = _find_lowest(fine, coarse, grid)
    unit_squared = batch.unit.square()
    if batch.backend != "dense" and batch.features.dtype == torch.float32:
        error = ROUNDING * fine.neighbors.farthest
        reliable = [point for point in grid if point.inverse * error <= 1e-3]
        # Log-odds with an error e multiply the loss by exp(e) at most.
        exponent = best.inverse * error
        if exponent > 1e-3 and (exponent > 700 or best.loss * math.exp(exponent) >= min(reliable).loss):
            candidates = batch.scale.new_tensor([0.0, _find_lowest(fine, coarse, reliable).inverse, best.inverse])
            losses = F.softplus(log_odds(batch, candidates / unit_squared)).where(batch.is_anchor, 0.0)
            return candidates[losses.mean(1).argmin()] / unit_squared
    return batch.scale.new_tensor(best.inverse) / unit_squared


def slope_by_log_inverse(batch: PairwiseBatch, inverse: Tensor) -> Tensor:
    """Return the derivative () of the mean loss by log(1/T) at 1/T = ``inverse`` ()."""
    curve = _make_curve(batch)
    inverse = inverse * batch.unit.square()
    slope = 0.0 if curve is None else curve.evaluate([float(inverse)])[0].slope
    return inverse * slope


class Neighbors(Protocol):
    """The neighbors of the A anchors that have some of both kinds, and sums over them.

    Distances, and with them 1/T, are in units of ``PairwiseBatch.unit ** 2``, here and in all of this file.
    """

    nearest_same: Tensor
    """(A,) float64: the distance of the nearest other sample of the class."""
    nearest_other: Tensor
    """(A,) float64: the distance of the nearest sample of another class."""
    num_same: Tensor
    """(A,) float64: the number of other samples of the class."""
    farthest: float
    """The largest distance of all pairs."""
    octaves: int
    """The number of octaves of temperatures to evaluate together."""

    def sums(self, inverses: Sequence[float]) -> Tensor:
        """Return (K, 4, A) float64 sums over neighbors j of each anchor i, at each of K inverse temperatures.

        With e_ij the distance minus that of the nearest neighbor of j's kind, they are: exp(-e/T) over the same class
        and over the others, e exp(-e/T) over the same class and over the others.
        """

    def rounded(self) -> Neighbors:
        """Return the same with sums in float32 where that is faster, else itself."""


class _Curve:
    """The mean loss of a batch as a function of the inverse temperature."""

    def __init__(self, neighbors: Neighbors, num_anchors: int) -> None:
        self.neighbors, self.num_anchors = neighbors, num_anchors
        self.gap = neighbors.nearest_other - neighbors.nearest_same

    def rounded(self) -> _Curve:
        """Return the same curve from sums in float32, or itself."""
        neighbors = self.neighbors.rounded()
        return self if neighbors is self.neighbors else _Curve(neighbors, self.num_anchors)

    def evaluate(self, inverses: Sequence[float]) -> list[_Point]:
        """Return loss and slope at each 1/T of ``inverses``."""
        points = []
        for inverse, sums in zip(inverses, self.neighbors.sums(inverses), strict=True):
            same, other, excess_same, excess_other = sums
            odds = other.log() - same.log() - inverse * self.gap
            slopes = excess_same / same - excess_other / other - self.gap  # of the log-odds
            loss, slope = F.softplus(odds).sum(), (odds.sigmoid() * slopes).sum()
            points.append(_Point(float(loss) / self.num_anchors, inverse, float(slope) / self.num_anchors))
        return points

    def lower_bound(self, inverse: float) -> float:
        """Return a lower bound of the loss at every 1/T above ``inverse``.

        An anchor whose nearest neighbor is of another class has log-odds of at least -inverse * gap - log(N) there.
        """
        crossed = self.gap <= 0
        odds = -inverse * self.gap[crossed] - self.neighbors.num_same[crossed].log()
        return float(F.softplus(odds).sum()) / self.num_anchors


def _make_curve(batch: PairwiseBatch) -> _Curve | None:
    """Return the curve of a batch, or None if every T gives the same loss."""
    if not ((batch.is_anchor & batch.has_other).any() and batch.scale > 0):
        return None  # the anchors of a one-class batch have loss 0 at any T
    neighbors = DenseNeighbors(batch) if batch.backend == "dense" else TiledNeighbors(batch)
    if neighbors.farthest == 0:  # distances that differ by rounding only
        return None
    return _Curve(neighbors, int(batch.is_anchor.sum()))


def _evaluate_grid(curve: _Curve, per_octave: int) -> list[_Point]:
    """Return points from T = infinity to low T, up to where no lower T can have a lower loss."""
    points: list[_Point] = []
    largest, first = (share / curve.neighbors.farthest for share in (FARTHEST_OVER_T, 1 / 4))
    octaves = curve.neighbors.octaves
    for octave in range(0, math.ceil(math.log2(largest / first)), octaves):
        steps = [first * 2 ** (octave + step / per_octave) for step in range(octaves * per_octave)]
        points += curve.evaluate(steps if points else [0.0, *steps])
        lowest = min(points).loss
        if lowest == 0 or curve.lower_bound(points[-1].inverse) >= lowest:
            break
    return points


def _find_lowest(fine: _Curve, coarse: _Curve, grid: list[_Point]) -> _Point:
    """Return the lowest point of the ``fine`` curve, from a ``grid`` of points of the ``coarse`` one."""
    best = min(grid) if coarse is fine else fine.evaluate([min(grid).inverse])[0]
    for left, right in itertools.pairwise(grid):
        if left.slope < 0 < right.slope:
            # A convex curve between both points lies above the intersection of their tangents.
            width = right.inverse - left.inverse
            across = (left.loss - right.loss + right.slope * width) / (right.slope - left.slope)
            if left.loss + left.slope * across < best.loss * (1 + 1e-5):
                best = min(best, _refine(fine, left, right))
    return best


def _refine(curve: _Curve, left: _Point, right: _Point) -> _Point:
    """Return the minimum between two points, by the Illinois form of false position on the slope."""
    a, b, slope_a, slope_b = left.inverse, right.inverse, left.slope, right.slope
    best, last_side = _Point(math.inf, a, slope_a), 0
    for _ in range(40):
        (point,) = curve.evaluate([(a * slope_b - b * slope_a) / (slope_b - slope_a)])
        best = min(best, point)
        if abs(point.slope) * (b - a) <= 1e-10 * point.loss:  # a convex curve has no more than this to gain
            break
        side = 1 if point.slope > 0 else -1
        if side == 1:
            b, slope_b = point.inverse, point.slope
            slope_a /= 1 + (last_side == side)
        else:
            a, slope_a = point.inverse, point.slope
            slope_b /= 1 + (last_side == side)
        last_side = side
    return best
