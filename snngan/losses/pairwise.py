"""A labeled batch, prepared for sums over all pairs: everything that backends and temperature rules know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from snngan.distributed import gather_batch, gather_rows, is_distributed
from snngan.labels import integer_labels
from snngan.losses.backends import BACKENDS, Backend, choose_backend

Distance = Literal["sqeuclidean", "cosine"]
DISTANCES = ("sqeuclidean", "cosine")
BOUND_EXPONENTS = {torch.float32: (-126, 126), torch.float64: (-500, 500)}
"""The lowest and the highest exponent of ``PairwiseBatch.norm_bound``."""


@dataclass(frozen=True, eq=False)
class PairwiseBatch:
    """All pairs (anchor i, neighbor j) of N labeled samples; only ``features`` are connected to the caller's.

    With the dense backend all fields may have a leading dimension: groups of one size, without pairs between them.
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
        return self.class_sizes < self.features.shape[-2]

    @property
    def chance(self) -> Tensor:
        """(N,) float64: the log-odds of an anchor whose neighbors are of every class alike, for two classes."""
        num_same, num_other = self.class_sizes - 1, self.features.shape[-2] - self.class_sizes
        return num_other.double().log() - num_same.double().log()

    @property
    def rounds_distances(self) -> bool:
        """Whether distances are computed in float32."""
        return self.backend != "dense" and self.features.dtype == torch.float32

    @cached_property
    def distances(self) -> Tensor:
        """(N, N) float64."""
        features = self.features.detach().double()
        return squared_distances(features, features, (self.squared_norms,) * 2).mul_(self.distance_factor)

    @cached_property
    def same_class(self) -> Tensor:
        """(N, N) bool: whether j has the label of i and is another sample."""
        same = self.labels[..., None] == self.labels[..., None, :]
        same.diagonal(dim1=-2, dim2=-1).fill_(False)
        return same

    @cached_property
    def other_class(self) -> Tensor:
        """(N, N) bool: whether j has another label than i."""
        return self.labels[..., None] != self.labels[..., None, :]


@dataclass(frozen=True, eq=False)
class GroupedBatch:
    """N labeled samples in groups, of which only those of one group are neighbors, at the same temperature for all."""

    parts: tuple[PairwiseBatch, ...]
    """The groups; those of one size that the dense backend computes are one part."""
    order: Tensor
    """(N,) int64: where each sample is in the concatenated parts."""
    dtype: torch.dtype
    mean_distance: Tensor
    """() float64: over the pairs in one group."""
    norm_bound: Tensor
    """() float64: that of each part."""

    @property
    def is_anchor(self) -> Tensor:
        """(N,) bool: whether there is another sample of the class in the group."""
        return self.concatenate([part.is_anchor for part in self.parts])

    @property
    def has_other_class(self) -> Tensor:
        """(N,) bool: whether there is a sample of another class in the group."""
        return self.concatenate([part.has_other_class for part in self.parts])

    @property
    def chance(self) -> Tensor:
        """(N,) float64: that of each part."""
        return self.concatenate([part.chance for part in self.parts])

    @property
    def rounds_distances(self) -> bool:
        """Whether some distances are computed in float32."""
        return any(part.rounds_distances for part in self.parts)

    def concatenate(self, values: Sequence[Tensor]) -> Tensor:
        """Return the values (..., N) of all samples from those of each part."""
        rank = values[0].dim() - self.parts[0].labels.dim()
        return torch.cat([value.flatten(rank) for value in values], -1)[..., self.order]


def build_pairwise_batch(
    features: Tensor,
    labels: Tensor,
    distance: Distance = "sqeuclidean",
    backend: Backend = "auto",
    *,
    groups: Tensor | None = None,
    across_ranks: bool = False,
) -> PairwiseBatch | GroupedBatch:
    """Return the batch of ``features`` (N, ...) with integer ``labels`` (N,), of all ranks if ``across_ranks``.

    With integer ``groups`` (N,) only samples of one group are neighbors.

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
    if groups is not None:
        groups = integer_labels(groups, len(features), features.device, name="groups")
        labels = torch.stack([labels, groups], 1)
    local = slice(0, len(features))
    if across_ranks:
        features, labels, local = gather_batch(features, labels)
    if groups is not None and len(features) > 0:
        return _build_groups(features.flatten(1), labels[:, 0], labels[:, 1], distance, backend)
    return _build(features, labels if groups is None else labels[:, 0], distance, backend, local)


def build_real_fake_batch(
    real: Tensor,
    fake: Tensor,
    distance: Distance = "sqeuclidean",
    *,
    classes: tuple[Tensor, Tensor] | None = None,
    num_classes: int = 1,
    mean_of_real: bool = False,
    across_ranks: bool = False,
) -> PairwiseBatch | GroupedBatch:
    """Return the batch of ``real`` (N, ...), labeled 0, followed by ``fake`` (M, ...), labeled 1.

    Relative temperatures are multiples of the mean distance of all samples, or of the real ones if ``mean_of_real``.
    With ``across_ranks`` the batch contains the samples of all ranks: real and fake of rank 0, of rank 1, ...

    Args:
        real: (N, ...).
        fake: (M, ...).
        distance: ``"sqeuclidean"`` or ``"cosine"``.
        classes: the classes (N,) and (M,), 0 to ``num_classes`` - 1, of which each has as many real samples as the
            others, and as many fake ones: only samples of one class are neighbors then.
        num_classes: number of classes.
        mean_of_real: whether relative temperatures are multiples of the mean distance of the real samples.
        across_ranks: whether the batch is spread over the ranks of the default process group.

    Raises:
        ValueError: as for :func:`build_pairwise_batch`.
    """
    features = torch.cat([real.flatten(1), fake.flatten(1)])
    labels = torch.zeros(len(features), dtype=torch.int64, device=real.device)
    labels[len(real) :] = 1
    if classes is not None:  # sorted by label within each class
        labels = labels + 2 * torch.cat(classes)
    local = slice(0, len(features))
    if across_ranks:
        features, labels, local = gather_batch(features, labels)
    if classes is not None:
        rows = labels.argsort(stable=True).view(num_classes, -1)
        num_real = rows.shape[1] * len(real) // (len(real) + len(fake))  # of each class, the same share on every rank
        needs_grad = slice(0 if real.requires_grad else num_real, rows.shape[1])
        of_real = slice(0, num_real) if mean_of_real else slice(None)
        return _group(features, labels % 2, [rows], distance, "auto", needs_grad, of_real)
    needs_grad = local if real.requires_grad else slice(local.start + len(real), local.stop)
    mean_rows: slice | Tensor = slice(None)
    if mean_of_real:  # a mask would make a GPU wait
        mean_rows = labels == 0 if across_ranks else slice(0, len(real))
    return _build(features, labels, distance, "auto", needs_grad, mean_rows, num_classes=2)


def _build_groups(
    features: Tensor, labels: Tensor, groups: Tensor, distance: Distance, backend: Backend
) -> GroupedBatch:
    """Return the batch of features (N, D) whose neighbors are in one group."""
    check_choice("backend", backend, BACKENDS)
    _, groups, sizes = groups.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    sizes_by_sample = sizes[groups]
    sorted_rows = groups.argsort(stable=True)
    rows = [sorted_rows[sizes_by_sample[sorted_rows] == size].view(-1, size) for size in sizes.unique().tolist()]
    return _group(features, labels, rows, distance, backend)


def _group(
    features: Tensor,
    labels: Tensor,
    rows: Sequence[Tensor],
    distance: Distance,
    backend: Backend,
    needs_grad: slice = slice(None),
    mean_rows: slice = slice(None),
) -> GroupedBatch:
    """Return the batch of features (N, D) in the groups whose ``rows`` (groups, n) are given, one tensor per size n.

    ``needs_grad`` and ``mean_rows`` say which of the n samples of each group need a gradient, and which ones the mean
    distance is of.
    """
    parts, pairs = [], []
    for of_size in rows:
        size = of_size.shape[1]
        backend_of_size = choose_backend(size, features.shape[1], features.dtype, features.device, backend)
        each = [of_size] if backend_of_size == "dense" else list(of_size)
        parts += [_build(features[one], labels[one], distance, backend_of_size, needs_grad, mean_rows) for one in each]
        counted = len(range(size)[mean_rows])
        pairs += [one.numel() // size * counted * (counted - 1) for one in each]
    totals = [part.mean_distance * count for part, count in zip(parts, pairs, strict=True)]
    mean = torch.stack(totals).sum() / max(1, sum(pairs))
    bound = torch.stack([part.norm_bound for part in parts]).amax()
    return GroupedBatch(
        parts=tuple(replace(part, mean_distance=mean, norm_bound=bound) for part in parts),
        order=torch.cat([of_size.flatten() for of_size in rows]).argsort(),
        dtype=parts[0].dtype,
        mean_distance=mean,
        norm_bound=bound,
    )


def _build(
    features: Tensor,
    labels: Tensor,
    distance: Distance,
    backend: Backend,
    needs_grad: slice,
    mean_rows: slice | Tensor = slice(None),
    num_classes: int | None = None,
) -> PairwiseBatch:
    """Return the batch of features (N, ...), or (groups, N, D) for the dense backend.

    If ``num_classes`` is known, the labels are 0 to ``num_classes`` - 1.
    """
    check_choice("distance", distance, DISTANCES)
    check_choice("backend", backend, BACKENDS)
    features = features.flatten(labels.dim())
    count, dims = features.shape[-2:]
    backend = choose_backend(count, dims, features.dtype, features.device, backend)
    dtype = torch.promote_types(features.dtype, torch.float32)
    working_dtype = torch.float64 if backend == "dense" else dtype
    if distance == "cosine":
        # Autograd keeps this copy: the caller may overwrite the original.
        features = features.to(torch.float64, copy=True)
        norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        features = features / torch.where(norms > 0, norms, 1.0)
        features = (features - features.detach().mean(-2, keepdim=True)).to(working_dtype)
        # No position on the sphere has distance 1 to all others, as a zero vector has.
        squared_norms, factor = _squared_norms(features.detach()) + (norms.detach() == 0), 0.5
    else:
        features = features.to(working_dtype)
        features = features - (_column_sums(features.detach()) / max(1, count)).to(working_dtype)
        squared_norms, factor = _squared_norms(features.detach()), 1.0
    if backend == "dense":  # without waiting for a GPU, as for known classes
        class_sizes = (labels[..., None] == labels[..., None, :]).sum(-1)
    else:
        if num_classes is None:
            _, labels, counts = labels.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        else:
            counts = (labels[:, None] == torch.arange(num_classes, device=labels.device)).sum(0)
        labels, class_sizes = labels.int(), counts[labels]
    largest_norm = squared_norms.amax().sqrt() if squared_norms.numel() else squared_norms.new_zeros(())
    return PairwiseBatch(
        features=features,
        squared_norms=squared_norms,
        labels=labels,
        class_sizes=class_sizes,
        needs_grad=needs_grad,
        distance_factor=factor,
        dtype=dtype,
        backend=backend,
        mean_distance=factor
        * _mean_squared_distance(features.detach()[..., mean_rows, :], squared_norms[..., mean_rows, :]),
        norm_bound=torch.exp2(torch.frexp(largest_norm).exponent.clamp(*BOUND_EXPONENTS[dtype]).double()),
    )


def _mean_squared_distance(features: Tensor, squared_norms: Tensor) -> Tensor:
    """Return the mean squared distance () within ``features`` (..., N, D), in O(N D) operations."""
    count = features.shape[-2]
    products = _column_sums(features).square().sum((-2, -1)) - _squared_norms(features).sum((-2, -1))  # ordered pairs
    totals = 2 * (count - 1) * squared_norms.sum((-2, -1)) - 2 * products
    mean: Tensor = totals.clamp_min(0).mean() / max(1, count * (count - 1))
    return mean


def _squared_norms(features: Tensor) -> Tensor:
    """Return the squared norms (..., N, 1) of ``features`` (..., N, D) in float64."""
    norms = [torch.linalg.vector_norm(r, dim=-1, keepdim=True, dtype=torch.float64) for r in _split(features)]
    return torch.cat(norms, -2).square_()


def _column_sums(features: Tensor) -> Tensor:
    """Return the sum (..., 1, D) of ``features`` (..., N, D) in float64."""
    total = features.new_zeros((*features.shape[:-2], 1, features.shape[-1]), dtype=torch.float64)
    for rows in _split(features):
        total += rows.sum(-2, keepdim=True, dtype=torch.float64)
    return total


def _split(features: Tensor) -> Sequence[Tensor]:
    """Return ``features`` (..., N, D) in parts: on a CPU torch copies what it sums in float64."""
    return torch.split(features, max(1, features.shape[-2]) if features.is_cuda else 512, -2)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless the ``value`` of argument ``name`` is one of its ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def squared_distances(left: Tensor, right: Tensor, squares: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the squared Euclidean distances (..., N, M) of ``left`` (..., N, D) and ``right`` (..., M, D).

    They come from one matrix product. In float32 that loses every digit of near-duplicates, and a low temperature
    magnifies the loss; in float64 what is lost is below the rounding of float32.

    Args:
        left: float64, centered as ``right`` is.
        right: float64.
        squares: the squared norms (..., N, 1) and (..., M, 1), by default computed.
    """
    if squares is None:
        own = left.square().sum(-1, keepdim=True)
        squares = own, own if right is left else right.square().sum(-1, keepdim=True)
    return (left @ right.mT).mul_(-2).add_(squares[0]).add_(squares[1].mT).clamp_min_(0)


def mean_distance(distances: Tensor) -> Tensor:
    """Return the mean () of a distance matrix (N, N) over pairs of different samples."""
    return distances.sum() / max(1, len(distances) * (len(distances) - 1))


def split_classes(rows: Tensor, classes: Tensor | None, num_classes: int) -> Tensor:
    """Return the rows (n, D) of all ranks as (1, N, D), or by class (num_classes, N / num_classes, D).

    Each of ``classes`` (n,) must be as frequent as the others.
    """
    if classes is None:
        return gather_rows(rows)[None]
    if is_distributed():
        rows, classes, _ = gather_batch(rows, classes)
    return rows[classes.argsort(stable=True)].view(num_classes, -1, rows.shape[1])
