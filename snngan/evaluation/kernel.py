"""The kernel distance (KID): an unbiased estimate of the squared maximum mean discrepancy, with an interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1000
"""Images of each side in a block; blocks share none, so their estimates are independent."""


class Estimate(NamedTuple):
    """A figure with its 95 % interval; the bounds are NaN where there are too few blocks for one."""

    value: float
    low: float
    high: float


def kernel_distance(real: Tensor, fake: Tensor, block: int = BLOCK) -> Estimate:
    """Return the squared MMD of features (N, D) and (M, D) under the kernel (x y / D + 1)^3.

    It is the mean of the unbiased estimates of disjoint blocks of ``block`` points a side, and the interval is
    Student's over the blocks. With fewer points than two blocks there is one block of all, and no interval.

    Raises:
        ValueError: there are fewer than 2 points on a side.

    Source:
        Binkowski et al. 2018, "Demystifying MMD GANs", section 3 (which draws its blocks at random, with overlap).
    """
    size = min(len(real), len(fake))
    if size < 2:
        raise ValueError(f"the kernel distance takes 2 points a side, not {len(real)} and {len(fake)}")
    block = block if size >= 2 * block else size
    count = size // block
    values = torch.tensor(
        [unbiased_squared_mmd(*(side[n * block : (n + 1) * block] for side in (real, fake))) for n in range(count)]
    )
    value = float(values.mean())
    if count == 1:
        return Estimate(value, math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.975, count - 1)) * float(values.std()) / math.sqrt(count)
    return Estimate(value, value - half, value + half)


def unbiased_squared_mmd(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased estimate of the squared MMD of features (N, D) and (M, D): it can be below 0."""
    real, fake = real.double(), fake.double()
    within = [
        (_kernel(side, side).sum() - _kernel_of_itself(side)) / (len(side) * (len(side) - 1)) for side in (real, fake)
    ]
    return float(within[0] + within[1] - 2 * _kernel(real, fake).mean())


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    return (left @ right.T / left.shape[1] + 1) ** 3


def _kernel_of_itself(points: Tensor) -> Tensor:
    total: Tensor = ((points.square().sum(1) / points.shape[1] + 1) ** 3).sum()
    return total
