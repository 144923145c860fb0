"""The temperature at which the loss of a batch has its global minimum.

As a function of 1/T the loss of real data has several local minima, so a descent from one start is not enough. One
distance matrix serves all T: a grid from T = infinity to low T gives loss and slope; each interval in which the slope
turns from falling to rising contains a minimum, and those that may be the lowest are refined.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.backends.dense import DenseCurve
from snngan.losses.backends.loss_curve import GroupedCurve, LossCurve, Point
from snngan.losses.backends.tiled import TiledCurve
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import GroupedBatch, PairwiseBatch

SMALL_BATCH = 128
"""Anchors up to which the grid is four times as fine, and in float64: few samples make a jagged curve."""
FARTHEST_OVER_T = 1e10
"""Largest distance over the lowest T tried: at lower T the rounding of distances would decide. The grid ends earlier
where no lower T can have a lower loss."""
ROUNDING = 1e-6
"""The error of distances in float32, relative to the largest distance."""


@torch.no_grad()
def optimal_inverse_temperature(batch: PairwiseBatch | GroupedBatch) -> Tensor:
    """Return the 1/T () in float64 at which the mean loss of the batch is lowest; 0 means T = infinity.

    It costs some forty exponentials per pair, and the memory of the backend.
    """
    fine = _make_curve(batch)
    if fine is None:
        return batch.mean_distance.new_zeros(())
    is_small = len(fine.gap) <= SMALL_BATCH
    coarse = fine if is_small else fine.rounded()
    grid = _evaluate_grid(coarse, per_octave=8 if is_small else 2)
    best = _find_lowest(fine, coarse, grid)
    unit = batch.norm_bound.square()
    if batch.rounds_distances:
        error = ROUNDING * fine.farthest
        reliable = [point for point in grid if point.inverse * error <= 1e-3]
        # Log-odds with an error e multiply the loss by exp(e) at most.
        exponent = best.inverse * error
        if exponent > 1e-3 and (exponent > 700 or best.loss * math.exp(exponent) >= min(reliable).loss):
            candidates = batch.mean_distance.new_tensor(
                [0.0, _find_lowest(fine, coarse, reliable).inverse, best.inverse]
            )
            losses = F.softplus(log_odds(batch, candidates / unit)).where(batch.is_anchor, 0.0)
            return candidates[losses.mean(1).argmin()] / unit
    return batch.mean_distance.new_tensor(best.inverse) / unit


def slope_by_log_inverse(batch: PairwiseBatch | GroupedBatch, inverse: Tensor) -> Tensor:
    """Return the derivative () of the mean loss by log(1/T) at 1/T = ``inverse`` ()."""
    curve = _make_curve(batch)
    inverse = inverse * batch.norm_bound.square()
    slope = 0.0 if curve is None else curve.evaluate([float(inverse)])[0].slope
    return inverse * slope


def _make_curve(batch: PairwiseBatch | GroupedBatch) -> LossCurve | None:
    """Return the curve of a batch, or None if every T gives the same loss."""
    if not ((batch.is_anchor & batch.has_other_class).any() and batch.mean_distance > 0):
        return None  # the anchors of a one-class batch have loss 0 at any T
    curve: LossCurve
    if isinstance(batch, GroupedBatch):
        curves = [_make_curve_of_part(part) for part in batch.parts if (part.is_anchor & part.has_other_class).any()]
        curve = GroupedCurve(curves, int(batch.is_anchor.sum()))
    else:
        curve = _make_curve_of_part(batch)
    return None if curve.farthest == 0 else curve  # distances that differ by rounding only


def _make_curve_of_part(batch: PairwiseBatch) -> LossCurve:
    return DenseCurve(batch) if batch.backend == "dense" else TiledCurve(batch)


def _evaluate_grid(curve: LossCurve, per_octave: int) -> list[Point]:
    """Return points from T = infinity to low T, up to where no lower T can have a lower loss."""
    points: list[Point] = []
    largest, first = (share / curve.farthest for share in (FARTHEST_OVER_T, 1 / 4))
    for octave in range(0, math.ceil(math.log2(largest / first)), curve.octaves):
        steps = [first * 2 ** (octave + step / per_octave) for step in range(curve.octaves * per_octave)]
        points += curve.evaluate(steps if points else [0.0, *steps])
        lowest = min(points).loss
        if lowest == 0 or curve.lower_bound(points[-1].inverse) >= lowest:
            break
    return points


def _find_lowest(fine: LossCurve, coarse: LossCurve, grid: list[Point]) -> Point:
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


def _refine(curve: LossCurve, left: Point, right: Point) -> Point:
    """Return the minimum between two points, by the Illinois form of false position on the slope."""
    a, b, slope_a, slope_b = left.inverse, right.inverse, left.slope, right.slope
    best, was_right = Point(math.inf, a, slope_a), None
    for _ in range(40):
        (point,) = curve.evaluate([(a * slope_b - b * slope_a) / (slope_b - slope_a)])
        best = min(best, point)
        if abs(point.slope) * (b - a) <= 1e-10 * point.loss:  # a convex curve has no more than this to gain
            break
        is_right = point.slope > 0
        if is_right:
            b, slope_b, slope_a = point.inverse, point.slope, slope_a / (1 + (was_right is True))
        else:
            a, slope_a, slope_b = point.inverse, point.slope, slope_b / (1 + (was_right is False))
        was_right = is_right
    return best
