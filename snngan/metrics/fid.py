"""FID: the Frechet distance of two Gaussians fitted to the features."""

from __future__ import annotations

from functools import partial

import torch

from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue
from snngan.metrics.moments import Moments


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return the squared Frechet distance of two Gaussians with these moments; in Inception features it is the FID.

    It is |mean - mean'|^2 + tr C + tr C' - 2 tr (C C')^(1/2). With roots C = R^T R and C' = R'^T R', the last trace is
    the sum of the singular values of R R'^T, a matrix no larger than the numbers of feature vectors: real for any
    covariances, and exact to float64 for those of less than full rank.

    Raises:
        ValueError: the features differ in their number of dimensions.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017 for its use on features.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"features of both sides must have the same dimensions, got {len(first.mean)} and {len(second.mean)}"
        )
    between = (first.mean - second.mean).square().sum()
    left, right = first.covariance_root(), second.covariance_root()
    traces = torch.linalg.vector_norm(left).square() + torch.linalg.vector_norm(right).square()
    common = torch.linalg.svdvals(left @ right.T).sum()
    return float((between + traces - 2 * common).clamp_min(0))


@METRICS.register("fid")
@partial(
    Metric,
    values={"fid": MetricValue("Frechet distance of Gaussians fitted to the features", "lower is better")},
    needs=("moments",),
    logged_in_pixels=False,
)
def fid(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
    """Return the Frechet distance of the features of all images."""
    assert real.moments is not None
    assert fake.moments is not None
    return {"fid": frechet_distance(real.moments, fake.moments)}
