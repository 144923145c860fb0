"""The global minimum of the loss over the temperature.

As a function of 1/T the loss of real data has several local minima, so a descent from one start is not enough. One
distance matrix serves all T: a grid from T = infinity to cold gives loss and slope; each interval over which the
slope turns from falling to rising holds a minimum, and those that can still win are refined.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.backends.tiled import TiledNeighbors
from snngan.losses.pairwise import Pairs, log_odds, lowest_exponent

SMALL_BATCH = 128
"""Anchors up to which the grid is four times as fine, and in float64: few points make a jagged curve."""
COLDEST = 1e10
"""The farthest pair's distance over the coldest T tried: beyond it the rounding of distances would decide. The grid
ends before, where nothing colder can be lower."""
ROUNDING = 1e-6
"""The error of distances in float32, as a share of the farthest pair's."""


class _Point(NamedTuple):
    loss: float
    inverse: float  # 1/T
    slope: float  # derivative of the loss by 1/T


def optimal_inverse_temperature(pairs: Pairs) -> Tensor:
    """Return the 1/T () in float64 at which the mean loss of the batch is lowest; 0 means T = infinity.

    It costs some forty exponentials a pair, and the memory of the backend.
    """
    return _optimal_in_units(pairs) / pairs.unit.square()


def _optimal_in_units(pairs: Pairs) -> Tensor:
    """Return the optimal 1/T () where distances are in units of ``pairs.unit ** 2``, as all below has them."""
    fine = _curve_of(pairs)
    if fine is None:
        return pairs.scale.new_zeros(())
    small = len(fine.gap) <= SMALL_BATCH
    coarse = fine if small else fine.rounded()
    grid = _grid(coarse, per_octave=8 if small else 2)
    best = _lowest(fine, coarse, grid)
    if pairs.backend != "dense" and pairs.points.dtype == torch.float32:
        error = ROUNDING * fine.neighbors.farthest
        sure = [point for point in grid if point.inverse * error <= 1e-3]
        # Log-odds that are off by e multiply the loss by exp(e) at most.
        off = best.inverse * error
        if off > 1e-3 and (off > 700 or best.loss * math.exp(off) >= min(sure).loss):
            candidates = pairs.scale.new_tensor([0.0, _lowest(fine, coarse, sure).inverse, best.inverse])
            return candidates[_losses_at(pairs, candidates).argmin()]
    return pairs.scale.new_tensor(best.inverse)


@torch.no_grad()
def _losses_at(pairs: Pairs, inverses: Tensor) -> Tensor:
    """Return the mean loss (K,) at each 1/T of ``inverses`` (K,), from the log-odds themselves."""
    losses = F.softplus(log_odds(pairs, inverses / pairs.unit.square())).where(pairs.anchors, 0.0)
    mean: Tensor = losses.mean(1)
    return mean


def slope_by_log_inverse(pairs: Pairs, inverse: Tensor) -> Tensor:
    """Return the derivative () of the mean loss by log(1/T) at 1/T = ``inverse`` ()."""
    curve = _curve_of(pairs)
    inverse = inverse * pairs.unit.square()
    slope = 0.0 if curve is None else curve.at([float(inverse)])[0].slope
    return inverse * slope


class _Neighbors(Protocol):
    """The neighbors of the A anchors that have some of both kinds, and sums over them."""

    nearest_same: Tensor
    """(A,) float64: the distance of the nearest other point of the class."""
    nearest_other: Tensor
    """(A,) float64: that of the nearest point of another class."""
    num_same: Tensor
    """(A,) float64: how many there are of the same class."""
    farthest: float
    """No pair is farther apart."""
    octaves: int
    """How many octaves of temperatures to ask for at once."""

    def sums(self, inverses: Sequence[float]) -> Tensor:
        """Return (K, 4, A) float64 sums over neighbors j of each anchor i, at each of K inverse temperatures.

        With e_ij the distance above that of the nearest neighbor of j's kind, they are: exp(-e/T) over the same class
        and over the others, e exp(-e/T) over the same class and over the others.
        """

    def rounded(self) -> _Neighbors:
        """Return the same with sums in float32 where that is quicker."""


class _Curve:
    """The mean loss of a batch as a function of the inverse temperature."""

    def __init__(self, neighbors: _Neighbors, num_anchors: int) -> None:
        self.neighbors, self.num_anchors = neighbors, num_anchors
        self.gap = neighbors.nearest_other - neighbors.nearest_same

    def rounded(self) -> _Curve:
        """Return the same curve from sums in float32, at half the cost, or itself if they are so."""
        neighbors = self.neighbors.rounded()
        return self if neighbors is self.neighbors else _Curve(neighbors, self.num_anchors)

    def at(self, inverses: Sequence[float]) -> list[_Point]:
        """Return loss and slope at each 1/T of ``inverses``."""
        points = []
        for inverse, sums in zip(inverses, self.neighbors.sums(inverses), strict=True):
            same, other, excess_same, excess_other = sums
            odds = other.log() - same.log() - inverse * self.gap
            # The mean excess of the neighbors drawn, of the own class minus of the others, is what the slope weighs.
            slope = excess_same / same - excess_other / other - self.gap
            loss, slope = F.softplus(odds).sum(), (odds.sigmoid() * slope).sum()
            points.append(_Point(float(loss) / self.num_anchors, inverse, float(slope) / self.num_anchors))
        return points

    def floor(self, inverse: float) -> float:
        """Return a bound that the loss is not below at any 1/T above ``inverse``.

        An anchor whose nearest neighbor is of another class has log-odds of at least -inverse * gap - log(N) there.
        """
        crossed = self.gap <= 0
        odds = -inverse * self.gap[crossed] - self.neighbors.num_same[crossed].log()
        return float(F.softplus(odds).sum()) / self.num_anchors


class DenseNeighbors:
    """The neighbors of a batch's anchors as N x N matrices, distances in units of ``pairs.unit ** 2``."""

    octaves = 1

    def __init__(self, pairs: Pairs) -> None:
        anchors = pairs.anchors & pairs.has_other
        distances, same, other = pairs.distances[anchors], pairs.same[anchors], pairs.other[anchors]
        distances /= pairs.unit.square()
        self.nearest_same = distances.masked_fill(~same, math.inf).amin(1)
        self.nearest_other = distances.masked_fill(~other, math.inf).amin(1)
        self.excess = (
            distances - torch.where(same, self.nearest_same[:, None], self.nearest_other[:, None])
        ).clamp_min_(0)
        self.same, self.other = same.double(), other.double()
        self.num_same = self.same.sum(1)
        self.farthest = float(pairs.distances.max() / pairs.unit.square())

    def rounded(self) -> DenseNeighbors:
        neighbors = copy.copy(self)
        neighbors.excess, neighbors.same, neighbors.other = (
            self.excess.float(),
            self.same.float(),
            self.other.float(),
        )
        return neighbors

    def sums(self, inverses: Sequence[float]) -> Tensor:
        sums = []
        for inverse in inverses:
            weights = self.excess.mul(-inverse).clamp_min_(lowest_exponent(self.excess.dtype)).exp_()
            weighted = weights * self.excess
            sums.append(
                torch.stack([(part * kind).sum(1) for part in (weights, weighted) for kind in (self.same, self.other)])
            )
        return torch.stack(sums).double()


def _curve_of(pairs: Pairs) -> _Curve | None:
    """Return the curve of a batch, or None where every T gives the same loss."""
    if not ((pairs.anchors & pairs.has_other).any() and pairs.scale > 0):
        return None  # anchors of a one-class batch have loss 0 at any T
    neighbors = DenseNeighbors(pairs) if pairs.backend == "dense" else TiledNeighbors(pairs)
    return _Curve(neighbors, int(pairs.anchors.sum()))


def _grid(curve: _Curve, per_octave: int) -> list[_Point]:
    """Return points from T = infinity to cold, ending where nothing colder can be lower."""
    points: list[_Point] = []
    coldest, hottest = (share / curve.neighbors.farthest for share in (COLDEST, 1 / 4))
    octaves = curve.neighbors.octaves
    for octave in range(0, math.ceil(math.log2(coldest / hottest)), octaves):
        steps = [hottest * 2 ** (octave + step / per_octave) for step in range(octaves * per_octave)]
        points += curve.at(steps if points else [0.0, *steps])
        lowest = min(points).loss
        if lowest == 0 or curve.floor(points[-1].inverse) >= lowest:
            break
    return points


def _lowest(fine: _Curve, coarse: _Curve, grid: list[_Point]) -> _Point:
    """Return the lowest point, from points of the ``coarse`` curve and what the ``fine`` one has between."""
    best = min(grid) if coarse is fine else fine.at([min(grid).inverse])[0]
    for left, right in itertools.pairwise(grid):
        if left.slope < 0 < right.slope and _lowest_possible(left, right) < best.loss * (1 + 1e-5):
            best = min(best, _refined(fine, left, right))
    return best


def _lowest_possible(left: _Point, right: _Point) -> float:
    """Return where the tangents at both ends meet: a convex curve between them lies above."""
    width = right.inverse - left.inverse
    across = (left.loss - right.loss + right.slope * width) / (right.slope - left.slope)
    return left.loss + left.slope * across


def _refined(curve: _Curve, left: _Point, right: _Point) -> _Point:
    """Return the minimum between two points, by the Illinois form of false position on the slope."""
    a, b, slope_a, slope_b = left.inverse, right.inverse, left.slope, right.slope
    best, last_side = _Point(math.inf, a, slope_a), 0
    for _ in range(40):
        (point,) = curve.at([(a * slope_b - b * slope_a) / (slope_b - slope_a)])
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
