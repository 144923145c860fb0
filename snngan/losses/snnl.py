"""The soft nearest neighbor loss of a labeled batch, and the entanglement of real and synthetic samples.

Frosst, Papernot and Hinton 2019, "Analyzing and Improving Representations with the Soft Nearest Neighbor Loss",
eq. 1 and 2, computed as the mean of softplus(z) over the log-odds z of picking a neighbor of another class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.losses.backends import BACKENDS, Backend
from snngan.losses.log_odds import log_odds
from snngan.losses.optimal_temperature import optimal_inverse_temperature
from snngan.losses.pairwise import (
    DISTANCES,
    Distance,
    GroupedBatch,
    PairwiseBatch,
    build_pairwise_batch,
    build_real_fake_batch,
    check_choice,
)
from snngan.losses.temperature import Temperature, TemperatureLike, as_temperature

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


def soft_nearest_neighbor_loss(
    features: Tensor,
    labels: Tensor,
    temperature: TemperatureLike = 1.0,
    distance: Distance = "sqeuclidean",
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    *,
    groups: Tensor | None = None,
    across_ranks: bool = False,
) -> Tensor:
    r"""Return how entangled the classes of a batch are: high if neighbors have other labels.

    .. math:: l_i = -\log \frac{\sum_{j \ne i,\, y_j = y_i} e^{-d_{ij}/T}}{\sum_{k \ne i} e^{-d_{ik}/T}}

    A sample that is alone in its class is not an anchor: it is left out of the mean, and its entry is 0 for
    ``reduction="none"``. A batch without anchors has loss 0. Second derivatives are not supported.

    Args:
        features: (N, ...) of any floating dtype; trailing dimensions are flattened.
        labels: integer classes (N,). Every integer is a class, including -100: leave out samples to be ignored.
        temperature: T > 0 in units of the distances, a rule such as ``snngan.RelativeTemperature(0.1)``, or
            ``"optimal"`` for the minimum over all T. Use a rule with state (``"learned"``, annealed) with
            :class:`SoftNearestNeighborLoss`, which keeps it between calls.
        distance: ``"sqeuclidean"`` or ``"cosine"`` (1 - cos; 1 from a zero vector to any other).
        reduction: ``"mean"`` or ``"sum"`` over anchors, or ``"none"`` for one value per sample.
        backend: ``"dense"`` stores N x N matrices and computes distances in float64; ``"tiled"`` needs O(N D) memory;
            ``"fused"`` needs no more, and is the fastest on a GPU, with Triton, for float32 features of up to 256
            dimensions; ``"auto"`` chooses the fastest one for these features.
        groups: integers (N,); only samples of one group are neighbors, in O(n^2 D) for each group of n. A sample alone
            of its class in its group is not an anchor. The temperature is the same for all groups: relative to the
            mean distance within groups, or the one with the lowest loss of the whole batch.
        across_ranks: combine the samples of all ranks of the default process group, whose numbers may differ. Every
            rank returns the loss of the whole batch, and gradients times the number of ranks, since
            ``DistributedDataParallel`` averages.

    Returns:
        () or, for ``reduction="none"``, (N,), in the dtype of the features, float32 for narrower ones.

    Raises:
        ValueError: shapes, dtypes or options do not fit, or ``across_ranks`` without a process group.

    Source:
        Frosst et al. 2019, eq. 1; eq. 2 for ``temperature="optimal"``.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> soft_nearest_neighbor_loss(points, torch.tensor([0, 0, 1, 1])).item() < 1e-6
        True
        >>> round(soft_nearest_neighbor_loss(points, torch.tensor([0, 1, 0, 1])).item(), 3)
        24.0
    """
    check_choice("reduction", reduction, REDUCTIONS)
    batch = build_pairwise_batch(features, labels, distance, backend, groups=groups, across_ranks=across_ranks)
    return _reduce_loss(batch, as_temperature(temperature), reduction)


def _reduce_loss(batch: PairwiseBatch | GroupedBatch, temperature: Temperature, reduction: Reduction) -> Tensor:
    losses = F.softplus(log_odds(batch, temperature(batch))).mean(0).to(batch.dtype)
    losses = losses.where(batch.is_anchor, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / batch.is_anchor.sum().clamp_min(1)


class SoftNearestNeighborLoss(nn.Module):
    """:func:`soft_nearest_neighbor_loss` as a module that keeps the state of its temperature rule.

    After each call ``num_anchors`` and ``num_left_out`` (0-dim tensors) are the numbers of samples that the loss is
    the mean of, and of samples that are alone in their class.

    Args:
        temperature: a number above 0, ``"learned"``, ``"optimal"`` or a temperature object.
        distance, reduction, backend, across_ranks: as for :func:`soft_nearest_neighbor_loss`; so are the ``groups`` of
            a call.

    Example:
        >>> criterion = SoftNearestNeighborLoss(temperature="optimal")
        >>> value = criterion(torch.randn(8, 3), torch.arange(8) % 2)
        >>> int(criterion.num_anchors)
        8
    """

    def __init__(
        self,
        temperature: TemperatureLike = 1.0,
        distance: Distance = "sqeuclidean",
        reduction: Reduction = "mean",
        backend: Backend = "auto",
        *,
        across_ranks: bool = False,
    ) -> None:
        super().__init__()
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("backend", backend, BACKENDS)
        self.temperature = as_temperature(temperature)
        self.distance, self.reduction, self.backend, self.across_ranks = distance, reduction, backend, across_ranks
        self.num_anchors = self.num_left_out = torch.tensor(0)

    def forward(self, features: Tensor, labels: Tensor, groups: Tensor | None = None) -> Tensor:
        batch = build_pairwise_batch(
            features, labels, self.distance, self.backend, groups=groups, across_ranks=self.across_ranks
        )
        is_anchor = batch.is_anchor
        self.num_anchors = is_anchor.sum()
        self.num_left_out = len(is_anchor) - self.num_anchors
        return _reduce_loss(batch, self.temperature, self.reduction)

    def extra_repr(self) -> str:
        ranks = ", across_ranks=True" if self.across_ranks else ""
        return f"distance={self.distance!r}, reduction={self.reduction!r}, backend={self.backend!r}{ranks}"


@dataclass(frozen=True)
class Entanglement:
    """How much real and synthetic samples are mixed, measured by their neighborhoods."""

    score: float
    """value / (value at T = infinity), in [0, 1]: 1 = indistinguishable at any temperature, 0 = fully separate."""
    value: float
    """The soft nearest neighbor loss at the optimal temperature, in nats (eq. 2)."""
    temperature: float
    """The optimal temperature, in units of squared distance; may be infinite."""
    real_anchors: float
    """Mean loss of the real samples; low: synthetic samples seldom come near them."""
    fake_anchors: float
    """Mean loss of the synthetic samples; low: they lie far from the data, or close to one another."""


def entanglement(real: Tensor, fake: Tensor, distance: Distance = "sqeuclidean") -> Entanglement:
    """Return the :class:`Entanglement` of ``real`` (N, ...) and ``fake`` (M, ...), with N and M at least 2.

    Raises:
        ValueError: fewer than 2 samples on a side, shapes that differ, or values that are not finite.

    Source:
        Frosst et al. 2019, eq. 2 and section 3.2.

    Example:
        >>> cloud = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> entanglement(cloud[:32], cloud[32:] + 100).score
        0.0
        >>> entanglement(cloud[:32], cloud[32:]).score > 0.9
        True
    """
    return measure_entanglement(real, fake, distance)[0]


@torch.no_grad()
def measure_entanglement(real: Tensor, fake: Tensor, distance: Distance = "sqeuclidean") -> tuple[Entanglement, Tensor]:
    """Return the :func:`entanglement` and each sample's log-odds (N + M,) of picking a neighbor of the other set."""
    if min(len(real), len(fake)) < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            "entanglement requires two sets of at least 2 samples of the same shape, "
            f"got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if not bool(real.isfinite().all() and fake.isfinite().all()):
        raise ValueError("entanglement requires finite samples, got NaN or infinite values")
    batch = build_real_fake_batch(real, fake, distance)
    inverse = optimal_inverse_temperature(batch)
    odds = log_odds(batch, inverse.reshape(1)).squeeze(0)
    losses = F.softplus(odds)
    value = losses.mean()
    at_infinity = F.softplus(batch.chance).mean()
    result = Entanglement(
        score=float((value / at_infinity).clamp(max=1)) if inverse > 0 else 1.0,
        value=float(value),
        temperature=float(1 / inverse),
        real_anchors=float(losses[: len(real)].mean()),
        fake_anchors=float(losses[len(real) :].mean()),
    )
    return result, odds
