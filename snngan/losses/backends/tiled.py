"""The log-odds of a batch in tiles: O(N D) memory, and one exponential per unordered pair in each pass.

Samples are sorted by class, so that nearly every tile holds pairs of one kind and needs no mask. Distances, and with
them the weights exp(-d/T), are symmetric: a tile above the diagonal serves both of its sides. The forward pass keeps
two sums per anchor, from which the backward pass computes the weights again.

Sums of exp(-d/T) underflow for an anchor whose neighbors of one kind are all farther away than about 60 T. Those
anchors, few unless T is low, are computed again in the log domain and in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from snngan.losses.backends import LogOdds
from snngan.losses.backends.loss_curve import LossCurve
from snngan.losses.backends.precision import full_precision
from snngan.losses.pairwise import PairwiseBatch, squared_distances

TILE = 1024
"""Samples along a side of a tile: 4 MiB of float32, which stay in a processor's cache."""
CUDA_TILE = 4096
"""The same on a GPU, which smaller products do not fill."""
PART_ROWS = 256
"""Rows of a tile processed at a time where they are read many times: they stay in a processor's first-level cache."""
SMALLEST_PART = 256
"""Size from which half a block on the diagonal is a tile by itself."""
LOWEST_EXPONENT = {torch.float32: -87.0, torch.float64: -708.0}
"""Exponents are clamped to this: smaller terms vanish in the sums, and subnormal numbers are slow."""
UNDERFLOW = {torch.float32: -60.0, torch.float64: -650.0}
"""Anchors whose log-sums are below this are computed in the log domain."""
UNDERFLOW_ROWS = 256
"""How many of them are computed at a time."""
HIGHEST_RATE = 1e15
"""Largest 1/T in units of the features, where squared distances are at most 4: float32 must hold the products."""
EXACT_UP_TO = 1e10
"""Largest squared norm over T up to which the rounding of float64 distances does not show in the weights."""
HIGH_DIM = 64
"""Dimensions from which weighting a tile costs less than multiplying the weighted features with it."""
SAME, OTHER = 0, 1
"""Kinds of pairs: of one class, or of two."""


class _Block(NamedTuple):
    """Samples ``start`` to ``stop`` of a batch that is sorted by class."""

    start: int
    stop: int
    label: int | None
    """Their class, or None for several whole classes."""
    needs_grad: bool = True
    """Whether some of them need a gradient."""

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    def kind_of_pairs(self, other: _Block) -> int:
        """Return ``SAME`` or ``OTHER``: which all pairs with another block are of."""
        return SAME if self.label is not None and self.label == other.label else OTHER


class _Layout:
    """The samples of a batch, sorted by class and cut into blocks."""

    def __init__(self, batch: PairwiseBatch) -> None:
        labels, is_constant = batch.labels, torch.ones_like(batch.is_anchor)
        is_constant[batch.needs_grad] = False
        is_sorted = bool((labels[1:] >= labels[:-1]).all())
        self.order = None if is_sorted else labels.argsort(stable=True)
        self.labels, class_sizes, self.is_constant = map(self.sort, (labels, batch.class_sizes, is_constant))
        self.is_anchor, self.has_other = class_sizes > 1, class_sizes < len(labels)
        self.is_active = self.is_anchor & self.has_other  # the log-odds are finite and depend on the features
        _, counts = self.labels.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
        blocks = list(_cut_into_blocks(counts.tolist(), CUDA_TILE if labels.is_cuda else TILE))
        constant = torch.stack([self.is_constant[block.rows].all() for block in blocks]).tolist()
        self.blocks = [block._replace(needs_grad=not each) for block, each in zip(blocks, constant, strict=True)]

    def sort(self, values: Tensor) -> Tensor:
        """Return ``values`` (N, ...), which are in the order of the batch, sorted by class."""
        return values if self.order is None else values[self.order]

    def unsort(self, values: Tensor) -> Tensor:
        """Return ``values`` (N, ...), which are sorted by class, in the order of the batch."""
        return values if self.order is None else torch.empty_like(values).index_copy_(0, self.order, values)


def _cut_into_blocks(counts: list[int], tile: int) -> Iterator[_Block]:
    """Cut classes of ``counts`` samples into blocks of ``tile`` or less: split large classes, join small ones."""
    start, end = 0, 0  # of the small classes that are not in a block yet
    for label, count in enumerate(counts):
        if count > tile // 4 or end + count - start > tile:
            if end > start:
                yield _Block(start, end, None)
            start = end
        if count > tile // 4:
            pieces = math.ceil(count / tile)
            cuts = [end + count * piece // pieces for piece in range(pieces + 1)]
            for piece in range(pieces):
                yield _Block(cuts[piece], cuts[piece + 1], label)
            start = end + count
        end += count
    if end > start:
        yield _Block(start, end, None)


def _split_diagonal(block: _Block) -> Iterator[tuple[_Block, _Block]]:
    """Cut the unordered pairs within a block of one class into tiles that contain few pairs twice."""
    middle = (block.start + block.stop) // 2
    if block.label is None or middle - block.start < SMALLEST_PART:
        yield block, block
        return
    first, second = block._replace(stop=middle), block._replace(start=middle)
    yield from _split_diagonal(first)
    yield first, second
    yield from _split_diagonal(second)


def _augment(features: Tensor, batch: PairwiseBatch, layout: _Layout) -> Tensor:
    """Return [x_i, 1, |x_i|^2] (N, D + 2) of the ``features``, divided by ``norm_bound`` and sorted by class.

    With the squared norms as columns, one product gives the whole distance.
    """
    augmented = features.new_empty(len(features), features.shape[1] + 2)
    for start in range(0, len(features), TILE):
        rows = slice(start, start + TILE)
        source = rows if layout.order is None else layout.order[rows]
        augmented[rows, :-2] = features[source] / batch.norm_bound
        augmented[rows, -2] = 1
        augmented[rows, -1] = batch.squared_norms[source, 0] / batch.norm_bound.square()
    return augmented


class _Tiles:
    """The weights exp(-d/T) of a batch, one tile at a time: d = factor * (|x_i|^2 + |x_j|^2 - 2 x_i x_j).

    ``augmented`` (N, D + 2) is the result of :func:`_augment`, and ``inverse`` is 1/T in the same unit.
    """

    def __init__(self, augmented: Tensor, factor: float, inverse: Tensor, layout: _Layout) -> None:
        self.augmented, self.layout = augmented, layout
        self.exact_rate = factor * inverse
        # Above this rate only duplicates have a weight, and other anchors are computed in the log domain.
        self.rate = self.exact_rate.clamp(max=HIGHEST_RATE).to(augmented.dtype)
        side = max((block.stop - block.start for block in layout.blocks), default=0)
        self.buffer = augmented.new_empty(side * side)

    def pairs(self, *, only_needs_grad: bool = False) -> Iterator[tuple[_Block, _Block, Tensor]]:
        """Yield each unordered pair of blocks with its weights, which the next pair overwrites."""
        for number, rows in enumerate(self.layout.blocks):
            left = self.scale_left(rows)
            for columns in self.layout.blocks[number:]:
                if only_needs_grad and not (rows.needs_grad or columns.needs_grad):
                    continue
                for part, others in _split_diagonal(rows) if rows == columns else [(rows, columns)]:
                    weights = self.exponents(left[part.start - rows.start : part.stop - rows.start], others)
                    weights.clamp_(LOWEST_EXPONENT[weights.dtype], 0).exp_()
                    if part == others:
                        weights.diagonal().zero_()
                    yield part, others, weights

    def scale_left(self, rows: _Block) -> Tensor:
        """Return the left factor of the product that gives -d/T of ``rows`` and other blocks."""
        block = self.augmented[rows.rows]
        left = block * (2 * self.rate)
        left[:, -2] = -self.rate * block[:, -1]
        left[:, -1] = -self.rate
        return left

    def exponents(self, left: Tensor, columns: _Block) -> Tensor:
        """Return -d/T between two blocks, the first given by its :meth:`scale_left`, in the buffer."""
        height, width = len(left), columns.stop - columns.start
        tile = self.buffer[: height * width].view(height, width)
        return torch.mm(left, self.augmented[columns.rows].T, out=tile)

    def same_class(self, block: _Block) -> Tensor:
        """Return which samples of one block have one label (n, n), bool, including each with itself."""
        labels = self.layout.labels[block.rows]
        return labels[:, None] == labels

    def exact_exponents(self, rows: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield, for all columns in turn, -d/T of ``rows`` (n,) in float64 and which pairs have one label."""
        own = self.augmented[rows].double()
        for start in range(0, len(self.augmented), 4 * TILE):
            columns = slice(start, min(start + 4 * TILE, len(self.augmented)))
            others = self.augmented[columns].double()
            distances = squared_distances(own[:, :-2], others[:, :-2], (own[:, -1:], others[:, -1:]))
            exponents = distances.mul_(-self.exact_rate)
            is_self = rows[:, None] == torch.arange(columns.start, columns.stop, device=rows.device)
            exponents.masked_fill_(is_self, -torch.inf)
            yield columns, exponents, self.layout.labels[rows, None] == self.layout.labels[columns]


def tiled_log_odds(batch: PairwiseBatch, inverses: Tensor) -> LogOdds:
    """Compute log-odds as ``LogOdds`` describes."""
    layout = _Layout(batch)
    augmented = _augment(batch.features, batch, layout)
    inverses = inverses * batch.norm_bound.square()
    log_sums = augmented.new_empty(len(inverses), 2, len(augmented), dtype=torch.float64)
    underflowing = torch.empty_like(log_sums[:, 0], dtype=torch.bool)
    for k, inverse in enumerate(inverses):
        tiles = _Tiles(augmented, batch.distance_factor, inverse, layout)
        with full_precision(augmented.device):
            log_sums[k] = _sum_weights(tiles).log()
        underflowing[k] = layout.is_active & (log_sums[k] < UNDERFLOW[augmented.dtype]).any(0)
        for rows in _split_rows(underflowing[k]):
            log_sums[k, :, rows] = _log_sum_weights(tiles, rows)
    odds = (log_sums[:, OTHER] - log_sums[:, SAME]).masked_fill_(~layout.has_other, -torch.inf)
    odds.masked_fill_(~layout.is_anchor, 0.0)
    saved = [augmented, inverses, batch.norm_bound, log_sums, underflowing]
    return layout.unsort(odds.T).T, saved, partial(_gradients, layout, batch.distance_factor)


def _gradients(layout: _Layout, distance_factor: float, grad: Tensor, *saved: Tensor) -> Iterator[Tensor]:
    augmented, inverses, norm_bound, *by_inverse = saved
    gradient, largest = torch.zeros_like(augmented[:, :-2]), inverses.amax()
    for inverse, grad_k, log_sums, underflowing in zip(inverses, grad, *by_inverse, strict=True):
        tiles = _Tiles(augmented, distance_factor, inverse, layout)
        share = torch.where(largest > 0, inverse / largest, 0.0)
        slope = (layout.sort(grad_k) * share).where(layout.is_active, 0.0)
        # The slope of an anchor's log-odds by the weight of a neighbor of its class, and of another.
        direct = ~underflowing & (slope != 0)
        by_weight = (torch.stack([slope, -slope]) * torch.exp(-log_sums)).where(direct, 0.0)
        with full_precision(augmented.device):
            if bool(direct.any()):
                _add_gradient(tiles, by_weight.to(augmented.dtype), gradient)
            # Products of other shapes round differently. Where that shows, use the row groups of the forward pass.
            shows = tiles.exact_rate * augmented[:, -1].amax() > EXACT_UP_TO
            for rows in _split_rows(underflowing & ((slope != 0) | shows)):
                _add_exact_gradient(tiles, rows, slope[rows, None], log_sums[:, rows, None], gradient)
    gradient.mul_(2 * distance_factor * largest / norm_bound).masked_fill_(layout.is_constant[:, None], 0.0)
    yield layout.unsort(gradient)


def _split_rows(mask: Tensor) -> list[Tensor]:
    """Return the positions where ``mask`` (N,) is true, in groups."""
    positions = mask.nonzero().squeeze(1)
    return list(torch.split(positions, UNDERFLOW_ROWS)) if len(positions) else []


def _sum_weights(tiles: _Tiles) -> Tensor:
    """Return the sums (2, N) of the weights of each anchor's own class and of the others, in float64."""
    sums = tiles.augmented.new_zeros(2, len(tiles.augmented), dtype=torch.float64)
    for rows, columns, weights in tiles.pairs():
        if rows == columns and rows.label is None:
            same_class = tiles.same_class(rows)
            sums[SAME, rows.rows] += (weights * same_class).sum(1)
            sums[OTHER, rows.rows] += weights.masked_fill_(same_class, 0.0).sum(1)
            continue
        kind = rows.kind_of_pairs(columns)
        sums[kind, rows.rows] += weights.sum(1)
        if rows != columns:
            sums[kind, columns.rows] += weights.sum(0)
    return sums


def _log_sum_weights(tiles: _Tiles, rows: Tensor) -> Tensor:
    """Return the logarithms (2, n) of both sums for the anchors ``rows`` (n,), computed in the log domain."""
    log_sums = torch.full((2, len(rows)), -torch.inf, dtype=torch.float64, device=rows.device)
    for _, exponents, same_class in tiles.exact_exponents(rows):
        parts = [exponents.masked_fill(mask, -torch.inf).logsumexp(1) for mask in (~same_class, same_class)]
        log_sums = torch.logaddexp(log_sums, torch.stack(parts))
    return log_sums


def _add_gradient(tiles: _Tiles, slopes: Tensor, gradient: Tensor) -> None:
    """Add to ``gradient`` (N, D) the sum over j of S_ij (x_i - x_j), where S_ij = weight_ij * (slope_i + slope_j).

    ``slopes`` (2, N) are for pairs of one class and of two.
    """
    features, with_ones = tiles.augmented[:, :-2], tiles.augmented[:, :-1]
    is_high_dim = features.shape[1] >= HIGH_DIM
    totals, buffer = torch.zeros_like(slopes[0]), torch.empty_like(tiles.buffer)
    # In few dimensions S @ x is a product with twice as many columns, without weighting the tile first.
    doubled = [] if is_high_dim else [torch.cat([with_ones, with_ones * slope[:, None]], 1) for slope in slopes]
    for rows, columns, weights in tiles.pairs(only_needs_grad=True):
        kind, is_mixed = rows.kind_of_pairs(columns), rows == columns and rows.label is None
        slope = slopes[kind]
        weigh_first = is_mixed or is_high_dim
        if weigh_first:
            tile = buffer[: weights.numel()].view_as(weights)
            torch.add(slope[rows.rows, None], slope[columns.rows], out=tile)
            if is_mixed:
                both_same = slopes[SAME, rows.rows, None] + slopes[SAME, rows.rows]
                tile = torch.where(tiles.same_class(rows), both_same, tile)
            weights = tile.mul_(weights)
        sides = [(rows, columns, weights), (columns, rows, weights.T)]
        for block, others, tile in sides[:1] if rows == columns else sides:
            if not block.needs_grad:
                continue
            if weigh_first:
                gradient[block.rows].addmm_(tile, features[others.rows], alpha=-1)
                totals[block.rows] += tile.sum(1)
            else:
                plain, weighted = (tile @ doubled[kind][others.rows]).chunk(2, dim=1)
                sums = plain * slope[block.rows, None] + weighted
                gradient[block.rows] -= sums[:, :-1]
                totals[block.rows] += sums[:, -1]
    gradient.addcmul_(totals[:, None], features)


def _add_exact_gradient(tiles: _Tiles, rows: Tensor, slope: Tensor, log_sums: Tensor, gradient: Tensor) -> None:
    """Add to ``gradient`` (N, D) the part of the anchors ``rows`` (n,); ``slope`` (n, 1), ``log_sums`` (2, n, 1)."""
    features = tiles.augmented[:, :-2]
    own = features[rows]
    for columns, exponents, same_class in tiles.exact_exponents(rows):
        weights = (exponents - torch.where(same_class, log_sums[SAME], log_sums[OTHER])).clamp_max_(0).exp_()
        weights = weights.mul_(torch.where(same_class, slope, -slope)).to(features.dtype)
        gradient.index_add_(0, rows, own * weights.sum(1, keepdim=True) - weights @ features[columns])
        gradient[columns] += features[columns] * weights.sum(0)[:, None] - weights.T @ own


class TiledCurve(LossCurve):
    """The loss curve from tiles, each evaluated at many temperatures. Distances have the dtype of the features."""

    octaves = 4

    def __init__(self, batch: PairwiseBatch) -> None:
        layout = self._layout = _Layout(batch)
        augmented = _augment(batch.features.detach(), batch, layout)
        self._tiles = _Tiles(augmented, batch.distance_factor, torch.ones_like(batch.mean_distance), layout)
        self._nearest = augmented.new_full((2, len(augmented)), -torch.inf)  # of the class, of the others; negative
        farthest = augmented.new_zeros(())
        for anchors, dim, kind, mask, negative in self._sides():
            farthest = torch.minimum(farthest, negative.amin())
            part = negative if mask is None else negative.where(mask, -torch.inf)
            nearest = self._nearest[kind, anchors]
            torch.maximum(nearest, part.amax(dim).clamp_max(0), out=nearest)
        nearest = -self._nearest[:, layout.is_active].double()
        self.num_anchors, self.gap = int(layout.is_anchor.sum()), nearest[OTHER] - nearest[SAME]
        self._nearest.masked_fill_(self._nearest == -torch.inf, 0.0)
        self.num_same = (layout.sort(batch.class_sizes)[layout.is_active] - 1).double()
        self.farthest = -float(farthest)

    def sums(self, inverses: Sequence[float]) -> Tensor:
        augmented = self._tiles.augmented
        sums = augmented.new_zeros((len(inverses), 4, len(augmented)), dtype=torch.float64)
        lowest = LOWEST_EXPONENT[augmented.dtype] / 2  # vanishes in a sum with the nearest neighbor's 1
        height = CUDA_TILE if augmented.is_cuda else PART_ROWS
        for anchors, dim, kind, mask, negative in self._sides():
            for start in range(0, len(negative), height):
                rows = slice(start, min(start + height, len(negative)))
                at = slice(anchors.start + rows.start, anchors.start + rows.stop) if dim else anchors
                excess = (negative[rows] - self._nearest[kind, at].unsqueeze(dim)).clamp_max_(0)
                weights = torch.empty_like(excess)
                for number, inverse in enumerate(inverses):
                    torch.mul(excess, inverse, out=weights).clamp_min_(lowest).exp_()
                    if mask is not None:
                        weights.mul_(mask[rows])
                    sums[number, kind, at] += weights.sum(dim)
                    sums[number, 2 + kind, at] -= weights.mul_(excess).sum(dim)
        return sums[:, :, self._layout.is_active]

    def _sides(self) -> Iterator[tuple[slice, int, int, Tensor | None, Tensor]]:
        """Yield anchors and their negative distances to some neighbors, which the next item overwrites.

        Neighbors lie along dimension ``dim`` of the tile. ``kind`` is ``SAME`` or ``OTHER``; a mask says which pairs
        are of that kind, where not all are.
        """
        for number, rows in enumerate(self._layout.blocks):
            left = self._tiles.scale_left(rows)
            for columns in self._layout.blocks[number:]:
                with full_precision(left.device):
                    negative = self._tiles.exponents(left, columns)
                if rows == columns:
                    same_class = self._tiles.same_class(rows)
                    if rows.label is None:
                        yield rows.rows, 1, OTHER, ~same_class, negative
                    yield rows.rows, 1, SAME, same_class.fill_diagonal_(False), negative
                else:
                    kind = rows.kind_of_pairs(columns)
                    yield rows.rows, 1, kind, None, negative
                    yield columns.rows, 0, kind, None, negative
