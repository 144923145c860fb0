"""KID: an unbiased estimate of the squared maximum mean discrepancy of the features, with an interval."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from snngan.metrics import METRICS, Estimate, FeatureStatistics, Metric, MetricValue

BLOCK = 1000
"""Images of each side in a block; no image is in two blocks, so their estimates are independent."""


def kernel_distance(real: Tensor, fake: Tensor, block: int = BLOCK) -> Estimate:
    """Return the squared MMD of features (N, D) and (M, D) under the kernel (x y / D + 1)^3.

    It is the mean of the unbiased estimates of disjoint blocks of ``block`` images of each side, with Student's
    interval over the blocks. With fewer images than two blocks, all form one block, without an interval.

    Raises:
        ValueError: there are fewer than 2 images on a side.

    Source:
        Binkowski et al. 2018, "Demystifying MMD GANs", section 3 (which draws its blocks at random, with overlap).
    """
    size = min(len(real), len(fake))
    if size < 2:
        raise ValueError(f"the kernel distance needs 2 or more images per side, got {len(real)} and {len(fake)}")
    block = block if size >= 2 * block else size
    count = size // block
    blocks = [slice(n * block, (n + 1) * block) for n in range(count)]
    values = torch.tensor([unbiased_squared_mmd(real[rows], fake[rows]) for rows in blocks])
    value = float(values.mean())
    if count == 1:
        return Estimate(value, math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.975, count - 1)) * float(values.std()) / math.sqrt(count)
    return Estimate(value, value - half, value + half)


def unbiased_squared_mmd(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased estimate of the squared MMD of features (N, D) and (M, D), which may be negative."""

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return (left @ right.T / left.shape[1] + 1) ** 3

    real, fake = real.double(), fake.double()
    within = [
        (kernel(side, side).sum() - ((side.square().sum(1) / side.shape[1] + 1) ** 3).sum())
        / (len(side) * (len(side) - 1))
        for side in (real, fake)
    ]
    return float(within[0] + within[1] - 2 * kernel(real, fake).mean())


@METRICS.register("kid")
@partial(
    Metric,
    values={"kid": MetricValue("unbiased squared MMD of the features, cubic kernel", "lower is better")},
    needs=("features",),
    logged_in_pixels=False,
)
def kid(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, Estimate]:
    """Return the kernel distance of the features that are compared pairwise."""
    return {"kid": kernel_distance(real.features, fake.features)}
