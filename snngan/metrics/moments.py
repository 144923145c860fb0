"""Mean and covariance of features that come in chunks, in memory O(min(n, D) D)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Moments:
    """Count, mean and covariance of feature vectors that come in chunks.

    Up to D vectors are kept as they are, in memory O(n D); beyond that only their (D, D) scatter matrix is kept.

    Attributes:
        count: number of vectors so far.
        mean: (D,) float64.
        rows: the vectors, while there are at most D.
        scatter: (D, D) float64, the sum of (x - mean)(x - mean)^T; None while the vectors are kept.
    """

    def __init__(self, dims: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64)
        self.rows: list[Tensor] = []
        self.scatter: Tensor | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`from_tensors` takes."""
        kept = {"rows": torch.cat(self.rows)} if self.scatter is None else {"scatter": self.scatter}
        return {"mean": self.mean, **kept}

    @classmethod
    def from_tensors(cls, count: int, tensors: Mapping[str, Tensor]) -> Moments:
        """Return the moments of ``count`` vectors that :meth:`to_tensors` returned."""
        moments = cls(len(tensors["mean"]))
        moments.count, moments.mean, moments.scatter = count, tensors["mean"], tensors.get("scatter")
        moments.rows = [tensors["rows"]] if "rows" in tensors else []
        return moments

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor) -> Moments:
        """Return the moments with this mean (D,) and covariance (D, D), whose count is unknown."""
        return cls.from_tensors(2, {"mean": mean.double(), "scatter": covariance.double()})

    def update(self, features: Tensor) -> None:
        """Add feature vectors (n, D), which are moved to the CPU."""
        if len(features) == 0:
            return
        features = features.cpu()
        total = self.count + len(features)
        mean = features.double().mean(0)
        shift = mean - self.mean
        if total <= len(self.mean):
            self.rows.append(features)
        else:
            if self.scatter is None:
                centered = self._centered_rows()
                self.scatter, self.rows = centered.T @ centered, []
            centered = features.double() - mean
            self.scatter.addmm_(centered.T, centered)
            self.scatter.addr_(shift, shift, alpha=self.count * len(features) / total)
        self.mean += shift * (len(features) / total)
        self.count = total

    def covariance_root(self) -> Tensor:
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
