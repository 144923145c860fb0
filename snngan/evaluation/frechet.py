"""The Frechet distance of two feature sets taken as Gaussians, from means and covariances gathered as images go by."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Count, mean and covariance of points that come a few at a time; memory does not grow with their number.

    Attributes:
        count: how many points were seen.
        mean: (D,) float64.
        scatter: (D, D) float64, the sum of (x - mean)(x - mean)^T.
    """

    def __init__(self, dims: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64, device=device)

    def update(self, points: Tensor) -> None:
        """Take in points (n, D)."""
        if len(points) == 0:
            return
        points = points.double()
        mean = points.mean(0)
        centred, shift = points - mean, mean - self.mean
        total = self.count + len(points)
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * len(points) / total)
        self.mean += shift * (len(points) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, unbiased; zero for a single point."""
        return self.scatter / max(1, self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return the squared Frechet distance of two Gaussians with these moments, which FID is in Inception's features.

    It is |mean - mean'|^2 + tr C + tr C' - 2 tr (C C')^(1/2), and the last trace is the sum of the singular values of
    C^(1/2) C'^(1/2): real for any covariances, and exact to float64 for those of less than full rank.

    Raises:
        ValueError: the features differ in number of dimensions.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017 for its use on features.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features have {len(first.mean)} and {len(second.mean)} dimensions: they must be of one kind")
    between = (first.mean - second.mean).square().sum()
    covariances = first.covariance, second.covariance
    left, right = (_root(covariance) for covariance in covariances)
    common = torch.linalg.svdvals(left.T @ right).sum()
    total = between + covariances[0].trace() + covariances[1].trace() - 2 * common
    return float(total.clamp_min(0))


def _root(covariance: Tensor) -> Tensor:
    """Return R (D, r) with R R^T = covariance of rank r; eigenvalues that are rounding are left out."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.amax().clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root
