"""Labeled batches as pairs of points, and the log-odds of picking a wrong-class neighbor: the core of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from snngan.distributed import gathered
from snngan.labels import integer_labels
from snngan.losses.autograd import first_derivatives_only
from snngan.losses.backends import fused
from snngan.losses.backends.tiled import TiledLogOdds, full_precision, layout_of

Distance = Literal["sqeuclidean", "cosine"]
DISTANCES = ("sqeuclidean", "cosine")
Backend = Literal["auto", "dense", "tiled", "fused"]
BACKENDS = ("auto", "dense", "tiled", "fused")
DENSE_UP_TO = 512
"""Points up to which the dense backend is the quicker one."""
UNITS = {torch.float32: (-126, 126), torch.float64: (-500, 500)}
"""The exponents of two within which points are scaled."""


class Pairs:
    """All ordered pairs (anchor i, neighbor j) of a batch of N labeled points.

    Attributes:
        points: (N, D), connected to the features and centered; for the cosine distance of unit length before that.
            float64 for the dense backend, else float32, or float64 for float64 features.
        squares: (N, 1) float64, without gradient: distances = factor * (squares_i + squares_j - 2 points_i points_j).
        labels: (N,) integers.
        moving: the points that may want a gradient; the others' part of the work is saved.
        factor: 0.5 for the cosine, else 1.
        dtype: the precision of sums over neighbors and of gradients: float64 for float64 features, else float32.
        backend: "dense", "tiled" or "fused".
        scale: () float64: the mean distance that relative temperatures are multiples of, without gradient.
        unit: () float64: the power of two next above the length of the longest point. What is computed in float32 is
            computed with points / unit, so that no square over- or underflows.
    """

    def __init__(
        self, points: Tensor, squares: Tensor, labels: Tensor, moving: slice, factor: float, dtype: torch.dtype,
        backend: str,
    ) -> None:  # fmt: skip
        self.points, self.squares, self.labels, self.moving = points, squares, labels, moving
        self.factor, self.dtype, self.backend = factor, dtype, backend
        self.scale = self.mean_distance(slice(None))
        longest = squares.amax().sqrt() if len(squares) else squares.new_zeros(())
        self.unit = torch.exp2(torch.frexp(longest).exponent.clamp(*UNITS[dtype]).double())

    def mean_distance(self, some: slice | Tensor) -> Tensor:
        """Return the mean distance () of ``some`` points, a slice or a mask (N,), in O(N D)."""
        points, squares = self.points.detach()[some], self.squares[some]
        count = len(points)
        products = column_sums(points).square().sum() - squared_lengths(points).sum()  # of all ordered pairs
        total = self.factor * (2 * (count - 1) * squares.sum() - 2 * products)
        mean: Tensor = total.clamp_min(0) / max(1, count * (count - 1))
        return mean

    @cached_property
    def members(self) -> Tensor:
        """(N,) int64: how many points bear the label of each, itself included."""
        if self.backend == "dense":  # no wait for a GPU
            return (self.labels[:, None] == self.labels).sum(1)
        classes, counts = self.classes
        members: Tensor = counts[classes]
        return members

    @cached_property
    def classes(self) -> tuple[Tensor, Tensor]:
        """The labels (N,) as int32 from 0 on, and (C,) int64 how many points bear each."""
        _, classes, counts = self.labels.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        return classes.int(), counts

    @property
    def anchors(self) -> Tensor:
        """(N,) bool: the points that have a same-class partner, over which the loss is taken."""
        return self.members > 1

    @property
    def has_other(self) -> Tensor:
        """(N,) bool: the points that have one of another class."""
        return self.members < len(self.labels)

    @cached_property
    def distances(self) -> Tensor:
        """(N, N) float64, without gradient."""
        points, squares = self.points.detach().double(), self.squares
        products = (points @ points.T).mul_(-2)
        return products.add_(squares).add_(squares.T).clamp_min_(0).mul_(self.factor)

    @cached_property
    def same(self) -> Tensor:
        """(N, N) bool: j bears the label of i, and is not i."""
        alike = self.labels[:, None] == self.labels
        return alike & ~torch.eye(len(alike), dtype=torch.bool, device=alike.device)

    @cached_property
    def other(self) -> Tensor:
        """(N, N) bool: j bears another label."""
        return self.labels[:, None] != self.labels


def pairs_of(
    features: Tensor,
    labels: Tensor,
    distance: Distance = "sqeuclidean",
    backend: Backend = "auto",
    *,
    across_ranks: bool = False,
) -> Pairs:
    """Return the :class:`Pairs` of ``features`` (N, ...) with integer ``labels`` (N,), or of those of all ranks.

    Raises:
        ValueError: the shapes do not match, the features are not floating point, ``distance`` or ``backend`` is
            unknown, the backend does not take such features, or there are no ranks.
    """
    if not isinstance(features, Tensor):
        raise ValueError(f"features must be a tensor (N, ...), got {type(features).__name__}")
    if features.dim() < 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating point, of two dimensions (N, D) or more, got {_form(features)}")
    labels = integer_labels(labels, len(features), features.device)
    check_choice("distance", distance, DISTANCES)
    check_choice("backend", backend, BACKENDS)
    own = slice(0, len(features))
    if across_ranks:
        features, labels, own = gathered(features, labels)
    if backend == "auto":
        streaming: Backend = "fused" if features.is_cuda and fused.refusal(features) is None else "tiled"
        backend = "dense" if len(features) <= DENSE_UP_TO else streaming
    elif backend == "fused" and (refusal := fused.refusal(features)):
        raise ValueError(refusal)
    dtype = torch.promote_types(features.dtype, torch.float32)
    working = torch.float64 if backend == "dense" else dtype
    if distance == "cosine":
        points, no_direction = _unit(features.flatten(1))
        points = (points - points.detach().mean(0)).to(working)
        # A zero vector is at 1 from all, which no place on the sphere is.
        squares = squared_lengths(points.detach()) + no_direction
        return Pairs(points, squares, labels, own, 0.5, dtype, backend)
    points = features.flatten(1).to(working)
    points = points - (column_sums(points.detach()) / max(1, len(points))).to(working)
    return Pairs(points, squared_lengths(points.detach()), labels, own, 1.0, dtype, backend)


def _unit(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``points`` (N, D) at unit length in float64, zero vectors as they are, and which (N, 1) those are."""
    points = points.to(torch.float64, copy=True)  # autograd keeps it, and the caller may write over its own
    lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    return points / torch.where(lengths > 0, lengths, 1.0), lengths.detach() == 0


def squared_lengths(points: Tensor) -> Tensor:
    """Return the squared lengths (N, 1) of ``points`` (N, D) in float64."""
    lengths = points.new_empty(len(points), 1, dtype=torch.float64)
    for rows, part in zip(_some(points), _some(lengths), strict=True):
        torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64, out=part)
    return lengths.square_()


def column_sums(points: Tensor) -> Tensor:
    """Return the sum (D,) of ``points`` (N, D) in float64."""
    total = points.new_zeros(points.shape[1], dtype=torch.float64)
    for rows in _some(points):
        total += rows.sum(0, dtype=torch.float64)
    return total


def _some(points: Tensor) -> Sequence[Tensor]:
    """Return ``points`` (N, D) in parts: on a CPU, torch would copy them whole to add them up in float64."""
    return torch.split(points, max(1, len(points)) if points.is_cuda else 512)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` where the argument ``name`` has a ``value`` that is none of its ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def squared_distances(points: Tensor) -> Tensor:
    """Return the squared Euclidean distances (N, N) of float64 ``points`` (N, D), which should be centered.

    They come from the Gram matrix, one matrix product. In float32 that form loses every digit of near-duplicates,
    and a cold temperature magnifies the loss; in float64 what is lost lies below float32's own rounding.
    """
    assert points.dtype == torch.float64
    squares = points.square().sum(1)
    return (points @ points.T).mul_(-2).add_(squares[:, None]).add_(squares).clamp_min_(0)


def mean_distance(distances: Tensor) -> Tensor:
    """Return the mean () of a square distance matrix (N, N) over pairs of different points."""
    count = len(distances)
    return distances.sum() / max(1, count * (count - 1))


def lowest_exponent(dtype: torch.dtype) -> float:
    """Return an exponent whose exponential is lost in a sum with 1, and is yet no subnormal number.

    Exponentials that underflow take tens of times longer on a CPU, and cold temperatures make most of them underflow.
    """
    return math.log(torch.finfo(dtype).tiny) / 2


def log_odds(pairs: Pairs, inverse_temperatures: Tensor) -> Tensor:
    r"""Return each point's log-odds z (K, N) of picking a wrong-class neighbor at K inverse temperatures (K,).

    .. math:: z_i = \log\sum_{y_k \ne y_i} e^{-d_{ik}/T} - \log\sum_{j \ne i,\, y_j = y_i} e^{-d_{ij}/T}

    It is -inf where no point bears another label, and 0 for points that are no anchors (see ``Pairs.anchors``).
    Everything stays in the log domain: no epsilon, no subtraction of a self-pair, finite gradients at any T.
    Gradients flow to the points, once: second derivatives are refused.
    """
    if len(pairs.points) == 0:
        return pairs.points.sum(1).expand(len(inverse_temperatures), 0)
    if pairs.backend == "dense":
        return torch.stack([_LogOdds.apply(pairs.points, pairs, inverse) for inverse in inverse_temperatures])
    link = pairs.points[:0].clone()  # what these backends save is not connected with the points: this is
    batch = (link, pairs.points, pairs.squares, pairs.unit)
    if pairs.backend == "tiled":
        layout = layout_of(pairs.labels, pairs.moving)
        stacked: Tensor = TiledLogOdds.apply(*batch, layout, pairs.factor, inverse_temperatures)
        return stacked
    classes = (pairs.classes[0], pairs.members)
    odds = [
        fused.FusedLogOdds.apply(*batch, *classes, pairs.factor, each, pairs.moving) for each in inverse_temperatures
    ]
    return torch.stack(odds)


class _LogOdds(torch.autograd.Function):
    """One exponential a pair forward, none backward; the only N x N array kept is the weights.

    Distances above an anchor's nearest neighbor, of its own class or of the others, are formed in float64 and only
    then rounded, so that the largest weight of each sum is 1 and z loses no digits to the size of the distances.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, pairs: Pairs, inverse: Tensor) -> Tensor:
        anchors, has_other = pairs.anchors, pairs.has_other
        nearest_same = pairs.distances.masked_fill(~pairs.same, torch.inf).amin(1).masked_fill_(~anchors, 0.0)
        nearest_other = pairs.distances.masked_fill(~pairs.other, torch.inf).amin(1).masked_fill_(~has_other, 0.0)
        shift = torch.where(pairs.same, nearest_same[:, None], nearest_other[:, None])
        weights = shift.sub_(pairs.distances).mul_(inverse).to(pairs.dtype)
        weights = weights.clamp_min_(lowest_exponent(pairs.dtype)).exp_()
        weights.diagonal().zero_()
        same = weights.mul(pairs.same).sum(1, keepdim=True).masked_fill_(~anchors[:, None], 1.0)
        other = weights.mul(pairs.other).sum(1, keepdim=True).masked_fill_(~has_other[:, None], 1.0)
        ctx.save_for_backward(points, weights, pairs.same, same, other, anchors & has_other, inverse, pairs.unit)
        ctx.factor, ctx.moving = pairs.factor, pairs.moving
        odds = (other.log() - same.log()).squeeze(1) - inverse * (nearest_other - nearest_same)
        return odds.masked_fill_(~has_other, -torch.inf).masked_fill_(~anchors, 0.0)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        points, weights, is_same, same, other, active, inverse, unit = ctx.saved_tensors
        # d z_i / d d_ij: the row sums vanish, so the anchor's own term of d |x_i - x_j|^2 does too.
        row = grad.where(active, 0.0)[:, None].to(weights.dtype)
        slopes = torch.where(is_same, row / same, -row / other).mul_(weights)
        if weights.is_cuda:  # where TF32 is allowed, a float32 product would keep three digits
            slopes = slopes.double()
        rounded = points.to(slopes.dtype, copy=True).div_(unit)
        with full_precision(points.device):
            moving = ctx.moving
            pulled = slopes.sum(0)[moving, None] * rounded[moving] - (slopes[moving] + slopes.T[moving]) @ rounded
        gradient = torch.zeros_like(points)
        gradient[moving] = pulled
        gradient.mul_(2 * ctx.factor * inverse * unit)
        return gradient, None, None
