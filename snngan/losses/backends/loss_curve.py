"""The mean loss of a batch as a function of the temperature, from sums over the neighbors of each anchor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F


class Point(NamedTuple):
    """A point of the curve; points are compared by their loss."""

    loss: float
    inverse: float
    """1/T"""
    slope: float
    """The derivative of the loss by 1/T."""


class LossCurve(ABC):
    """The mean loss as a function of 1/T, for the A anchors that have neighbors of both kinds.

    Distances, and with them 1/T, are in units of ``PairwiseBatch.norm_bound ** 2``.
    """

    octaves: ClassVar[int]
    """The number of octaves of temperatures to evaluate together."""
    num_anchors: int
    """Of all kinds: the loss is the mean over these."""
    num_same: Tensor
    """(A,) float64: the number of other samples of the class."""
    gap: Tensor
    """(A,) float64: how much farther the nearest sample of another class is than that of the class."""
    farthest: float
    """The largest distance of all pairs."""

    @abstractmethod
    def sums(self, inverses: Sequence[float]) -> Tensor:
        """Return (K, 4, A) float64 sums over neighbors j of each anchor i, at each of K inverse temperatures.

        With e_ij the distance minus that of the nearest neighbor of j's kind, they are: exp(-e/T) over the same class
        and over the others, e exp(-e/T) over the same class and over the others.
        """

    def rounded(self) -> Self:
        """Return the same with sums in float32 where that is faster, else itself."""
        return self

    def evaluate(self, inverses: Sequence[float]) -> list[Point]:
        """Return loss and slope at each 1/T of ``inverses``."""
        points = []
        for inverse, (same, other, excess_same, excess_other) in zip(inverses, self.sums(inverses), strict=True):
            odds = other.log() - same.log() - inverse * self.gap
            slopes = excess_same / same - excess_other / other - self.gap  # of the log-odds
            loss, slope = F.softplus(odds).sum(), (odds.sigmoid() * slopes).sum()
            points.append(Point(float(loss) / self.num_anchors, inverse, float(slope) / self.num_anchors))
        return points

    def lower_bound(self, inverse: float) -> float:
        """Return a lower bound of the loss at every 1/T above ``inverse``.

        An anchor whose nearest neighbor is of another class has log-odds of at least -inverse * gap - log(N) there.
        """
        crossed = self.gap <= 0
        odds = -inverse * self.gap[crossed] - self.num_same[crossed].log()
        return float(F.softplus(odds).sum()) / self.num_anchors


class GroupedCurve(LossCurve):
    """The loss curve of several batches, whose distances are in the same unit, as of one."""

    def __init__(self, curves: Sequence[LossCurve], num_anchors: int) -> None:
        self.curves, self.num_anchors = curves, num_anchors
        self.octaves = max(curve.octaves for curve in curves)  # type: ignore[misc]
        self.num_same, self.gap = (torch.cat([getattr(c, name) for c in curves]) for name in ("num_same", "gap"))
        self.farthest = max(curve.farthest for curve in curves)

    def sums(self, inverses: Sequence[float]) -> Tensor:
        return torch.cat([curve.sums(inverses) for curve in self.curves], 2)

    def rounded(self) -> Self:
        return type(self)([curve.rounded() for curve in self.curves], self.num_anchors)
