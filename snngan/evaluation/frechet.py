"""The Frechet distance of two feature sets taken as Gaussians, in memory O(min(n, D) D)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Moments:
    """Count, mean and covariance of points that come a few at a time.

    Up to D points are kept as they are, in memory O(n D); from then on only their (D, D) scatter matrix is.

    Attributes:
        count: how many points were seen.
        mean: (D,) float64.
        rows: the points, while there are at most D.
        scatter: (D, D) float64, the sum of (x - mean)(x - mean)^T; None while the points are kept.
    """

    def __init__(self, dims: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64, device=device)
        self.rows: list[Tensor] = []
        self.scatter: Tensor | None = None

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor) -> Moments:
        """Return the moments with this mean (D,) and covariance (D, D), whose count is not known."""
        moments = cls(len(mean))
        moments.count, moments.mean, moments.scatter = 2, mean.double(), covariance.double()
        return moments

    def update(self, points: Tensor) -> None:
        """Take in points (n, D)."""
        if len(points) == 0:
            return
        total = self.count + len(points)
        mean = points.double().mean(0)
        shift = mean - self.mean
        if total <= len(self.mean):
            self.rows.append(points)
        else:
            if self.scatter is None:
                centered = self._centered_rows()
                self.scatter, self.rows = centered.T @ centered, []
            centered = points.double() - mean
            self.scatter.addmm_(centered.T, centered)
            self.scatter.addr_(shift, shift, alpha=self.count * len(points) / total)
        self.mean += shift * (len(points) / total)
        self.count = total

    def root(self) -> Tensor:
        """Return R (r, D) float64 with R^T R = the unbiased covariance; r is at most min(count, D).

        Eigenvalues of the scatter matrix that are rounding errors are left out.
        """
        degrees = max(1, self.count - 1)
        if self.scatter is None:
            return self._centered_rows().div_(math.sqrt(degrees))
        values, vectors = torch.linalg.eigh(self.scatter)
        kept = values > values.amax().clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
        root: Tensor = vectors[:, kept].mul_((values[kept] / degrees).sqrt()).T
        return root

    def _centered_rows(self) -> Tensor:
        return torch.cat([self.mean.new_empty(0, len(self.mean)), *self.rows]).sub_(self.mean)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return the squared Frechet distance of two Gaussians with these moments, which FID is in Inception's features.

    It is |mean - mean'|^2 + tr C + tr C' - 2 tr (C C')^(1/2). With roots C = R^T R and C' = R'^T R', the last trace is
    the sum of the singular values of R R'^T, a matrix no larger than the numbers of points: real for any covariances,
    and exact to float64 for those of less than full rank.

    Raises:
        ValueError: the features differ in number of dimensions.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017 for its use on features.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features have {len(first.mean)} and {len(second.mean)} dimensions: they must be of one kind")
    between = (first.mean - second.mean).square().sum()
    left, right = first.root(), second.root()
    traces = torch.linalg.vector_norm(left).square() + torch.linalg.vector_norm(right).square()
    common = torch.linalg.svdvals(left @ right.T).sum()
    return float((between + traces - 2 * common).clamp_min(0))
