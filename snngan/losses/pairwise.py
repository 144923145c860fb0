"""A labeled batch, prepared for sums over all pairs: everything that backends and temperature rules know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from snngan.distributed import gather_batch
from snngan.labels import integer_labels
from snngan.losses.backends import BACKENDS, Backend, choose_backend

Distance = Literal["sqeuclidean", "cosine"]
DISTANCES = ("sqeuclidean", "cosine")
BOUND_EXPONENTS = {torch.float32: (-126, 126), torch.float64: (-500, 500)}
"""The lowest and the highest exponent of ``PairwiseBatch.norm_bound``."""


@dataclass(frozen=True, eq=False)
class PairwiseBatch:
    """All pairs (anchor i, neighbor j) of N labeled samples; only ``features`` are connected to the caller's.

    An *anchor* is a sample that has another sample of its class; the loss is the mean over the anchors. The distance of
    a pair is distance_factor * (squared_norms_i + squared_norms_j - 2 x_i x_j).
    """

    features: Tensor
    """(N, D) centered, and before that scaled to length 1 for the cosine distance; float64 for the dense backend,
    else ``dtype``."""
    squared_norms: Tensor
    """(N, 1) float64; one more for a zero vector, whose cosine distance to all others is 1."""
    labels: Tensor
    """(N,) integers; unless the backend is dense, int32 from 0 to the number of classes - 1."""
    class_sizes: Tensor
    """(N,) int64: how many samples have the label of each sample, including itself."""
    needs_grad: slice
    """The samples for which a gradient may be needed; the work for the others is skipped."""
    distance_factor: float
    """0.5 for the cosine distance, else 1."""
    dtype: torch.dtype
    """The precision of sums over neighbors and of gradients: float64 for float64 features, else float32."""
    backend: Backend
    """``"dense"``, ``"tiled"`` or ``"fused"``."""
    mean_distance: Tensor
    """() float64: what relative temperatures are multiples of."""
    norm_bound: Tensor
    """() float64: the power of two above the largest norm. Squares of features / norm_bound neither over- nor
    underflow."""

    @property
    def is_anchor(self) -> Tensor:
        """(N,) bool: whether there is another sample of the class."""
        return self.class_sizes > 1

    @property
    def has_other_class(self) -> Tensor:
        """(N,) bool: whether there is a sample of another class."""
        return self.class_sizes < len(self.labels)

    @cached_property
    def distances(self) -> Tensor:
        """(N, N) float64."""
        features = self.features.detach().double()
        return squared_distances(features, features, (self.squared_norms,) * 2).mul_(self.distance_factor)

    @cached_property
    def same_class(self) -> Tensor:
        """(N, N) bool: whether j has the label of i and is another sample."""
        return (self.labels[:, None] == self.labels).fill_diagonal_(False)

    @cached_property
    def other_class(self) -> Tensor:
        """(N, N) bool: whether j has another label than i."""
        return self.labels[:, None] != self.labels


def build_pairwise_batch(
    features: Tensor,
    labels: Tensor,
    distance: Distance = "sqeuclidean",
    backend: Backend = "auto",
    *,
    across_ranks: bool = False,
) -> PairwiseBatch:
    """Return the batch of ``features`` (N, ...) with integer ``labels`` (N,), of all ranks if ``across_ranks``.

    Raises:
        ValueError: shapes or dtypes do not fit, ``distance`` or ``backend`` is unknown, the backend does not support
            such features, or ``across_ranks`` without a process group.
    """
    if not isinstance(features, Tensor):
        raise ValueError(f"features must be a tensor (N, ...), got {type(features).__name__}")
    if features.dim() < 2 or not features.is_floating_point():
        form = f"{str(features.dtype).removeprefix('torch.')} {tuple(features.shape)}"
        raise ValueError(f"features must be floating point of two dimensions (N, D) or more, got {form}")
    labels = integer_labels(labels, len(features), features.device)
    local = slice(0, len(features))
    if across_ranks:
        features, labels, local = gather_batch(features, labels)
    return _build(features, labels, distance, backend, local)


def build_real_fake_batch(
    real: Tensor,
    fake: Tensor,
    distance: Distance = "sqeuclidean",
    *,
    mean_of_real: bool = False,
    across_ranks: bool = False,
) -> PairwiseBatch:
    """Return the batch of ``real`` (N, ...), labeled 0, followed by ``fake`` (M, ...), labeled 1.

    Relative temperatures are multiples of the mean distance of all samples, or of the real ones if ``mean_of_real``.
    With ``across_ranks`` the batch contains the samples of all ranks: real and fake of rank 0, of rank 1, ...

    Raises:
        ValueError: as for :func:`build_pairwise_batch`.
    """
    features = torch.cat([real.flatten(1), fake.flatten(1)])
    labels = torch.zeros(len(features), dtype=torch.int64, device=real.device)
    labels[len(real) :] = 1
    local = slice(0, len(features))
    if across_ranks:
        features, labels, local = gather_batch(features, labels)
    needs_grad = local if real.requires_grad else slice(local.start + len(real), local.stop)
    mean_rows: slice | Tensor = slice(None)
    if mean_of_real:  # a mask would make a GPU wait
        mean_rows = labels == 0 if across_ranks else slice(0, len(real))
    return _build(features, labels, distance, "auto", needs_grad, mean_rows, num_classes=2)


def _build(
    features: Tensor,
    labels: Tensor,
    distance: Distance,
    backend: Backend,
    needs_grad: slice,
    mean_rows: slice | Tensor = slice(None),
    num_classes: int | None = None,
) -> PairwiseBatch:
    """Return the batch of flat labels; if ``num_classes`` is known, they are 0 to ``num_classes`` - 1."""
    check_choice("distance", distance, DISTANCES)
    check_choice("backend", backend, BACKENDS)
    features = features.flatten(1)
    backend = choose_backend(len(features), features.shape[1], features.dtype, features.device, backend)
    dtype = torch.promote_types(features.dtype, torch.float32)
    working_dtype = torch.float64 if backend == "dense" else dtype
    if distance == "cosine":
        # Autograd keeps this copy: the caller may overwrite the original.
        features = features.to(torch.float64, copy=True)
        norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        features = features / torch.where(norms > 0, norms, 1.0)
        features = (features - features.detach().mean(0)).to(working_dtype)
        # No position on the sphere has distance 1 to all others, as a zero vector has.
        squared_norms, factor = _squared_norms(features.detach()) + (norms.detach() == 0), 0.5
    else:
        features = features.to(working_dtype)
        features = features - (_column_sums(features.detach()) / max(1, len(features))).to(working_dtype)
        squared_norms, factor = _squared_norms(features.detach()), 1.0
    if backend == "dense":  # without waiting for a GPU, as for known classes
        class_sizes = (labels[:, None] == labels).sum(1)
    else:
        if num_classes is None:
            _, labels, counts = labels.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        else:
            counts = (labels[:, None] == torch.arange(num_classes, device=labels.device)).sum(0)
        labels, class_sizes = labels.int(), counts[labels]
    largest_norm = squared_norms.amax().sqrt() if len(squared_norms) else squared_norms.new_zeros(())
    return PairwiseBatch(
        features=features,
        squared_norms=squared_norms,
        labels=labels,
        class_sizes=class_sizes,
        needs_grad=needs_grad,
        distance_factor=factor,
        dtype=dtype,
        backend=backend,
        mean_distance=factor * _mean_squared_distance(features.detach()[mean_rows], squared_norms[mean_rows]),
        norm_bound=torch.exp2(torch.frexp(largest_norm).exponent.clamp(*BOUND_EXPONENTS[dtype]).double()),
    )


def _mean_squared_distance(features: Tensor, squared_norms: Tensor) -> Tensor:
    """Return the mean squared distance () of ``features`` (N, D) in O(N D) operations."""
    count = len(features)
    products = _column_sums(features).square().sum() - _squared_norms(features).sum()  # of all ordered pairs
    total = 2 * (count - 1) * squared_norms.sum() - 2 * products
    mean: Tensor = total.clamp_min(0) / max(1, count * (count - 1))
    return mean


def _squared_norms(features: Tensor) -> Tensor:
    """Return the squared norms (N, 1) of ``features`` (N, D) in float64."""
    norms = [torch.linalg.vector_norm(r, dim=1, keepdim=True, dtype=torch.float64) for r in _split(features)]
    return torch.cat(norms).square_()


def _column_sums(features: Tensor) -> Tensor:
    """Return the sum (D,) of ``features`` (N, D) in float64."""
    total = features.new_zeros(features.shape[1], dtype=torch.float64)
    for rows in _split(features):
        total += rows.sum(0, dtype=torch.float64)
    return total


def _split(features: Tensor) -> Sequence[Tensor]:
    """Return ``features`` (N, D) in parts: on a CPU torch copies what it sums in float64."""
    return torch.split(features, max(1, len(features)) if features.is_cuda else 512)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless the ``value`` of argument ``name`` is one of its ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def squared_distances(left: Tensor, right: Tensor, squares: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the squared Euclidean distances (N, M) of float64 ``left`` (N, D) and ``right`` (M, D), centered alike.

    They come from one matrix product. In float32 that loses every digit of near-duplicates, and a low temperature
    magnifies the loss; in float64 what is lost is below the rounding of float32.

    Args:
        left: float64.
        right: float64.
        squares: the squared norms (N, 1) and (M, 1), by default computed.
    """
    if squares is None:
        own = left.square().sum(1, keepdim=True)
        squares = own, own if right is left else right.square().sum(1, keepdim=True)
    return (left @ right.T).mul_(-2).add_(squares[0]).add_(squares[1].T).clamp_min_(0)


def mean_distance(distances: Tensor) -> Tensor:
    """Return the mean () of a distance matrix (N, N) over pairs of different samples."""
    return distances.sum() / max(1, len(distances) * (len(distances) - 1))
