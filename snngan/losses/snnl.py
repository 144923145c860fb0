"""The soft nearest neighbor loss of a labeled batch, and the entanglement of two sets of points.

Frosst, Papernot and Hinton 2019, "Analyzing and Improving Representations with the Soft Nearest Neighbor Loss",
eq. 1 and 2, computed as the mean of softplus(z) over the log-odds z of picking a wrong-class neighbor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.losses.optimal_temperature import optimal_inverse_temperature
from snngan.losses.pairwise import BACKENDS, DISTANCES, Backend, Distance, Pairs, check_choice, log_odds, pairs_of
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
    across_ranks: bool = False,
) -> Tensor:
    r"""Return how entangled the classes of a batch are: high where neighbors bear other labels.

    .. math:: l_i = -\log \frac{\sum_{j \ne i,\, y_j = y_i} e^{-d_{ij}/T}}{\sum_{k \ne i} e^{-d_{ik}/T}}

    A point without a partner of its own class is no anchor: it is left out of the mean, and its entry is 0 under
    ``reduction="none"``. A batch with no anchor at all has loss 0. There are no second derivatives.

    Args:
        features: points (N, ...) of any floating dtype; trailing dimensions are flattened.
        labels: integer classes (N,); every integer is a class, -100 too, so leave points out that are to be ignored.
        temperature: T > 0 in the unit of the distances, a rule such as ``snngan.RelativeTemperature(0.1)``,
            or ``"optimal"`` for the minimum over all T. A rule that remembers (``"learned"``, annealed) wants
            :class:`SoftNearestNeighborLoss`, which keeps it from call to call.
        distance: ``"sqeuclidean"`` or ``"cosine"`` (1 - cos; 1 from a zero vector to any other).
        reduction: ``"mean"`` or ``"sum"`` over anchors, or ``"none"`` for one value a point.
        backend: ``"dense"``, which holds N x N matrices and takes distances in float64; ``"tiled"``, which needs
            O(N D) memory; ``"fused"``, which needs no more and is the quickest on a GPU, with Triton and for float32
            points of up to 256 dimensions; or ``"auto"``, the quickest one for these features.
        across_ranks: take the points of all ranks of ``torch.distributed``'s default group, however many each has, as
            one batch: every rank returns the loss of the whole. Gradients of a rank's points come multiplied by the
            number of ranks, so that ``DistributedDataParallel``, which averages, gives parameters that of the whole.

    Returns:
        () or, unreduced, (N,), in the dtype of the features, float32 for narrower ones.

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
    pairs = pairs_of(features, labels, distance, backend, across_ranks=across_ranks)
    return _loss(pairs, as_temperature(temperature), reduction)


def _loss(pairs: Pairs, temperature: Temperature, reduction: Reduction) -> Tensor:
    per_anchor = F.softplus(log_odds(pairs, temperature(pairs))).mean(0).to(pairs.dtype)
    per_anchor = per_anchor.where(pairs.anchors, 0.0)
    if reduction == "none":
        return per_anchor
    if reduction == "sum":
        return per_anchor.sum()
    return per_anchor.sum() / pairs.anchors.sum().clamp_min(1)


class SoftNearestNeighborLoss(nn.Module):
    """:func:`soft_nearest_neighbor_loss` as a module that keeps what its temperature rule learns.

    After each call ``num_anchors`` and ``num_left_out`` (0-dim tensors) say over how many points the loss was taken
    and how many had no partner of their own class.

    Args:
        temperature: a number above 0, ``"learned"``, ``"optimal"`` or a temperature object.
        distance, reduction, backend, across_ranks: as for :func:`soft_nearest_neighbor_loss`.

    Example:
        >>> criterion = SoftNearestNeighborLoss(temperature="optimal")
        >>> value = criterion(torch.randn(8, 3), torch.arange(8) % 2)
        >>> value.shape, int(criterion.num_anchors)
        (torch.Size([]), 8)
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

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of ``features`` (N, ...) with integer ``labels`` (N,)."""
        pairs = pairs_of(features, labels, self.distance, self.backend, across_ranks=self.across_ranks)
        self.num_anchors = pairs.anchors.sum()
        self.num_left_out = len(pairs.labels) - self.num_anchors
        return _loss(pairs, self.temperature, self.reduction)

    def extra_repr(self) -> str:
        return f"distance={self.distance!r}, reduction={self.reduction!r}, backend={self.backend!r}" + (
            ", across_ranks=True" if self.across_ranks else ""
        )


Scale = Literal["all", "real"]


def real_fake_pairs(
    real: Tensor,
    fake: Tensor,
    distance: Distance = "sqeuclidean",
    *,
    scale: Scale = "all",
    across_ranks: bool = False,
) -> Pairs:
    """Return the pairs of ``real`` (N, ...) and ``fake`` (M, ...), labeled 0 and 1 in this order.

    Relative temperatures are multiples of the mean distance of all points, or, with ``scale="real"``, of the real ones.
    ``across_ranks``, the points of all ranks are one batch, each rank's real and fake ones in turn.
    """
    labels = torch.zeros(len(real) + len(fake), dtype=torch.int64, device=real.device)
    labels[len(real) :] = 1
    points = torch.cat([real.flatten(1), fake.flatten(1)])
    pairs = pairs_of(points, labels, distance, across_ranks=across_ranks)
    if pairs.backend == "fused":  # known here, without a wait for the GPU
        ones = pairs.labels.sum()
        pairs.classes = pairs.labels.int(), torch.stack([len(pairs.labels) - ones, ones])
    if not real.requires_grad:
        pairs.moving = slice(pairs.moving.start + len(real), pairs.moving.stop)
    if scale == "real":
        pairs.scale = pairs.mean_distance(pairs.labels == 0 if across_ranks else slice(0, len(real)))
    return pairs


@dataclass(frozen=True)
class Entanglement:
    """How far real and synthetic points lie in one another's neighborhoods."""

    score: float
    """value / (value at T = infinity), in [0, 1]: 1 = not to be told apart at any temperature, 0 = fully separate."""
    value: float
    """The soft nearest neighbor loss at the optimal temperature, in nats (eq. 2)."""
    temperature: float
    """That temperature, in units of squared distance; may be infinite."""
    real_anchors: float
    """Mean loss of the real points; low: the synthetic points seldom come near them."""
    fake_anchors: float
    """Mean loss of the synthetic points; low: they lie off the data, or close to one another."""


@torch.no_grad()
def entanglement(real: Tensor, fake: Tensor, distance: Distance = "sqeuclidean") -> Entanglement:
    """Return the :class:`Entanglement` of ``real`` (N, ...) and ``fake`` (M, ...), with N and M at least 2.

    Raises:
        ValueError: fewer than 2 points on a side, shapes that differ, or points that are not finite.

    Source:
        Frosst et al. 2019, eq. 2 and section 3.2.

    Example:
        >>> cloud = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> entanglement(cloud[:32], cloud[32:] + 100).score
        0.0
        >>> entanglement(cloud[:32], cloud[32:]).score > 0.9
        True
    """
    return entanglement_of(real, fake, distance)[0]


@torch.no_grad()
def entanglement_of(real: Tensor, fake: Tensor, distance: Distance = "sqeuclidean") -> tuple[Entanglement, Tensor]:
    """Return what :func:`entanglement` does, and each point's log-odds (N + M,) of picking the other side."""
    if min(len(real), len(fake)) < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            "entanglement takes two sets of at least 2 points of one shape, "
            f"not {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if not bool(real.isfinite().all() and fake.isfinite().all()):
        raise ValueError("entanglement takes finite points: some of these are NaN or infinite")
    pairs = real_fake_pairs(real, fake, distance)
    inverse = optimal_inverse_temperature(pairs)
    odds = log_odds(pairs, inverse.reshape(1)).squeeze(0)
    losses = F.softplus(odds)
    value = losses.mean()
    same, other = (pairs.members - 1).double(), (len(losses) - pairs.members).double()
    at_infinity = F.softplus(other.log() - same.log()).mean()
    reading = Entanglement(
        score=float((value / at_infinity).clamp(max=1)) if inverse > 0 else 1.0,
        value=float(value),
        temperature=float(1 / inverse),
        real_anchors=float(losses[: len(real)].mean()),
        fake_anchors=float(losses[len(real) :].mean()),
    )
    return reading, odds
