"""The global minimum of the loss over the temperature.

As a function of 1/T the loss of real data has several local minima, so a descent from one start is not enough. One
distance matrix serves all T: a grid from T = infinity to cold gives loss and slope; each interval over which the
slope turns from falling to rising holds a minimum, and those that can still win are refined.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.pairs import Pairs, lowest_exponent

SMALL_BATCH = 128
"""Anchors up to which the grid is four times as fine, and in float64: few points make a jagged curve."""
COLDEST = 1e10
"""The farthest pair's distance over the coldest T tried: beyond it the rounding of distances would decide. The grid
ends before, where nothing colder can be lower."""


class _Point(NamedTuple):
    loss: float
    inverse: float  # 1/T
    slope: float  # derivative of the loss by 1/T


def optimal_inverse_temperature(pairs: Pairs) -> Tensor:
    """Return the 1/T () in float64 at which the mean loss of the batch is lowest; 0 means T = infinity.

    It costs O(N^2) memory and some forty exponentials a pair.
    """
    fine = _Curve(pairs)
    if fine.is_flat:
        return pairs.scale.new_zeros(())
    small = len(fine.gap) <= SMALL_BATCH
    grid = _grid(fine if small else fine.rounded(), per_octave=8 if small else 2)
    best = fine.at(min(grid).inverse)
    for left, right in itertools.pairwise(grid):
        if left.slope < 0 < right.slope and _lowest_possible(left, right) < best.loss * (1 + 1e-5):
            best = min(best, _refined(fine, left, right))
    return pairs.scale.new_tensor(best.inverse)


def slope_by_log_inverse(pairs: Pairs, inverse: Tensor) -> Tensor:
    """Return the derivative () of the mean loss by log(1/T) at 1/T = ``inverse`` ()."""
    curve = _Curve(pairs)
    slope = 0.0 if curve.is_flat else curve.at(float(inverse)).slope
    return inverse * slope


class _Curve:
    """The mean loss of a batch as a function of the inverse temperature; sums are taken in float64."""

    def __init__(self, pairs: Pairs) -> None:
        anchors = pairs.anchors & pairs.other.any(1)  # anchors of a one-class batch have loss 0 at any T
        self.weight = 1 / max(1, int(pairs.anchors.sum()))
        self.is_flat = not (anchors.any() and pairs.scale > 0)
        if self.is_flat:
            return
        distances, same, other = pairs.distances[anchors], pairs.same[anchors], pairs.other[anchors]
        nearest_same = distances.masked_fill(~same, math.inf).amin(1, keepdim=True)
        nearest_other = distances.masked_fill(~other, math.inf).amin(1, keepdim=True)
        self.gap = (nearest_other - nearest_same).squeeze(1)
        self.excess = (distances - torch.where(same, nearest_same, nearest_other)).clamp_min_(0)
        self.same, self.other = same.double(), other.double()
        self.num_same = self.same.sum(1)
        self.reach = float(torch.maximum(self.excess.max(), self.gap.abs().max()))
        self.coldest = COLDEST / float(pairs.distances.max())

    def rounded(self) -> _Curve:
        """Return the same curve with sums in float32, at half the cost."""
        curve = copy.copy(self)
        curve.excess, curve.same, curve.other = self.excess.float(), self.same.float(), self.other.float()
        return curve

    def at(self, inverse: float) -> _Point:
        """Return loss and slope at 1/T = ``inverse``."""
        exponents = self.excess.mul(-inverse).clamp_min_(lowest_exponent(self.excess.dtype))
        weights = exponents.exp()
        weighted = exponents.mul_(weights)
        same, other = (weights * self.same).sum(1), (weights * self.other).sum(1)
        odds = other.log() - same.log() - inverse * self.gap
        loss = float(F.softplus(odds).sum()) * self.weight
        if inverse == 0:
            weighted = -self.excess
        else:
            weighted /= inverse
        # The mean excess of the neighbours drawn, of other classes minus of the own, is what the slope weighs.
        slope = (weighted * self.other).sum(1) / other - (weighted * self.same).sum(1) / same - self.gap
        return _Point(loss, inverse, float((odds.sigmoid() * slope).sum()) * self.weight)

    def floor(self, inverse: float) -> float:
        """Return a bound that the loss is not below at any 1/T above ``inverse``.

        An anchor whose nearest neighbour is of another class has log-odds of at least -inverse * gap - log(N) there.
        """
        crossed = self.gap <= 0
        odds = -inverse * self.gap[crossed] - self.num_same[crossed].log()
        return float(F.softplus(odds).sum()) * self.weight


def _grid(curve: _Curve, per_octave: int) -> list[_Point]:
    """Return points from T = infinity to cold, ending where nothing colder can be lower."""
    points = [curve.at(0.0)]
    if curve.reach == 0:  # every neighbour is as far as every other
        return points
    hottest = 1 / (4 * curve.reach)
    for octave in range(math.ceil(math.log2(curve.coldest / hottest))):
        points += [curve.at(hottest * 2 ** (octave + step / per_octave)) for step in range(per_octave)]
        lowest = min(points).loss
        if lowest == 0 or curve.floor(points[-1].inverse) >= lowest:
            break
    return points


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
        point = curve.at((a * slope_b - b * slope_a) / (slope_b - slope_a))
        best = min(best, point)
        if abs(point.slope) * (b - a) <= 1e-12 * point.loss:  # a convex curve has no more than this to gain
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
