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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snngan.losses.autograd import first_derivatives_only
from snngan.losses.backends.precision import full_precision
from snngan.losses.pairwise import PairwiseBatch

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


def log_odds(batch: PairwiseBatch, inverse_temperatures: Tensor) -> Tensor:
    """Return the log-odds (K, N) of ``batch`` at K inverse temperatures (K,)."""
    # What the function saves has no connection with the features; this has.
    link = batch.features[:0].clone()
    odds: Tensor = _LogOdds.apply(link, batch.features, batch, inverse_temperatures)
    return odds


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


class _Layout(NamedTuple):
    """The samples of a batch, sorted by class. All tensors except ``order`` are (N,) and sorted."""

    order: Tensor | None
    """(N,) the positions in the batch, or None if it is sorted."""
    labels: Tensor
    is_anchor: Tensor
    has_other: Tensor
    is_constant: Tensor
    """bool: needs no gradient."""
    blocks: list[_Block]

    @property
    def is_active(self) -> Tensor:
        """bool: the log-odds are finite and depend on the features."""
        return self.is_anchor & self.has_other

    def sort(self, values: Tensor) -> Tensor:
        """Return ``values`` (N, ...), which are in the order of the batch, sorted by class."""
        return values if self.order is None else values[self.order]

    def unsort(self, values: Tensor) -> Tensor:
        """Return ``values`` (N, ...), which are sorted by class, in the order of the batch."""
        return values if self.order is None else torch.empty_like(values).index_copy_(0, self.order, values)


def _sort_by_class(batch: PairwiseBatch) -> _Layout:
    labels, is_anchor, has_other = batch.labels, batch.is_anchor, batch.has_other
    is_constant = torch.ones_like(is_anchor)
    is_constant[batch.needs_grad] = False
    order = None if bool((labels[1:] >= labels[:-1]).all()) else labels.argsort(stable=True)
    if order is not None:
        labels, is_anchor, has_other, is_constant = (
            values[order] for values in (labels, is_anchor, has_other, is_constant)
        )
    _, counts = labels.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    blocks = list(_cut_into_blocks(counts.tolist(), CUDA_TILE if labels.is_cuda else TILE))
    constant = torch.stack([is_constant[block.rows].all() for block in blocks]).tolist()
    blocks = [block._replace(needs_grad=not each) for block, each in zip(blocks, constant, strict=True)]
    return _Layout(order, labels, is_anchor, has_other, is_constant, blocks)


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
    """Return [x_i, 1, |x_i|^2] (N, D + 2) of the ``features`` (N, D), divided by ``batch.unit`` and sorted by class.

    With the squared norms as columns, one product gives the whole distance.
    """
    augmented = features.new_empty(len(features), features.shape[1] + 2)
    for start in range(0, len(features), TILE):
        rows = slice(start, start + TILE)
        source = rows if layout.order is None else layout.order[rows]
        augmented[rows, :-2] = features[source] / batch.unit
        augmented[rows, -2] = 1
        augmented[rows, -1] = batch.squared_norms[source, 0] / batch.unit.square()
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
        self.lowest = LOWEST_EXPONENT[augmented.dtype]

    def pairs(self, *, only_needs_grad: bool = False) -> Iterator[tuple[_Block, _Block, Tensor]]:
        """Yield each unordered pair of blocks with its weights, which the next pair overwrites."""
        for number, rows in enumerate(self.layout.blocks):
            left = self.scale_left(rows)
            for columns in self.layout.blocks[number:]:
                if only_needs_grad and not (rows.needs_grad or columns.needs_grad):
                    continue
                for part, others in _split_diagonal(rows) if rows == columns else [(rows, columns)]:
                    weights = self.exponents(left[part.start - rows.start : part.stop - rows.start], others)
                    weights.clamp_(self.lowest, 0).exp_()
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
            exponents = (own[:, :-2] @ others[:, :-2].T).mul_(-2)
            exponents.add_(own[:, -1:]).add_(others[:, -1]).clamp_min_(0).mul_(-self.exact_rate)
            is_self = rows[:, None] == torch.arange(columns.start, columns.stop, device=rows.device)
            exponents.masked_fill_(is_self, -torch.inf)
            yield columns, exponents, self.layout.labels[rows, None] == self.layout.labels[columns]


class _LogOdds(torch.autograd.Function):
    """Log-odds (K, N) in float64. ``link`` (0, D) is connected with the features: see ``first_derivatives_only``."""

    @staticmethod
    def forward(ctx: Any, link: Tensor, features: Tensor, batch: PairwiseBatch, inverses: Tensor) -> Tensor:
        layout = _sort_by_class(batch)
        augmented = _augment(features, batch, layout)
        inverses = inverses * batch.unit.square()
        same, other = augmented.new_empty(2, len(inverses), len(features), dtype=torch.float64)
        underflowing = torch.empty_like(same, dtype=torch.bool)
        threshold = UNDERFLOW[features.dtype]
        for k, inverse in enumerate(inverses):
            tiles = _Tiles(augmented, batch.factor, inverse, layout)
            with full_precision(features.device):
                same[k], other[k] = (sums.log() for sums in _sum_weights(tiles))
            underflowing[k] = layout.is_active & ((same[k] < threshold) | (other[k] < threshold))
            for rows in _split_rows(underflowing[k]):
                same[k, rows], other[k, rows] = _log_sum_weights(tiles, rows)
        ctx.save_for_backward(link, augmented, same, other, underflowing, inverses, batch.unit)
        ctx.layout, ctx.factor = layout, batch.factor
        odds = (other - same).masked_fill_(~layout.has_other, -torch.inf).masked_fill_(~layout.is_anchor, 0.0)
        return layout.unsort(odds.T).T

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        _, augmented, *saved, inverses, unit = ctx.saved_tensors
        layout, factor = ctx.layout, ctx.factor
        gradient = torch.zeros_like(augmented[:, :-2])
        largest = inverses.amax()
        for inverse, grad_k, same, other, underflowing in zip(inverses, grad, *saved, strict=True):
            tiles = _Tiles(augmented, factor, inverse, layout)
            share = torch.where(largest > 0, inverse / largest, 0.0)
            slope = (layout.sort(grad_k) * share).where(layout.is_active, 0.0)
            # The slope of an anchor's log-odds by the weight of a neighbor of its class, and of another.
            direct = ~underflowing & (slope != 0)
            slope_same = (slope * torch.exp(-same)).where(direct, 0.0).to(augmented.dtype)
            slope_other = (-slope * torch.exp(-other)).where(direct, 0.0).to(augmented.dtype)
            with full_precision(augmented.device):
                if bool(direct.any()):
                    _add_gradient(tiles, slope_same, slope_other, gradient)
                # Products of other shapes round differently. Where that shows, use the row groups of the forward pass.
                shows = tiles.exact_rate * augmented[:, -1].amax() > EXACT_UP_TO
                for rows in _split_rows(underflowing & ((slope != 0) | shows)):
                    _add_exact_gradient(tiles, rows, slope[rows], same[rows], other[rows], gradient)
        gradient.mul_(2 * factor * largest / unit).masked_fill_(layout.is_constant[:, None], 0.0)
        return None, layout.unsort(gradient), None, None


def _split_rows(mask: Tensor) -> list[Tensor]:
    """Return the positions where ``mask`` (N,) is true, in groups."""
    positions = mask.nonzero().squeeze(1)
    return list(torch.split(positions, UNDERFLOW_ROWS)) if len(positions) else []


def _sum_weights(tiles: _Tiles) -> tuple[Tensor, Tensor]:
    """Return the sums (N,) of the weights of each anchor's own class and of the others, in float64."""
    same, other = tiles.augmented.new_zeros(2, len(tiles.augmented), dtype=torch.float64)
    for rows, columns, weights in tiles.pairs():
        if rows == columns and rows.label is None:
            same_class = tiles.same_class(rows)
            same[rows.rows] += (weights * same_class).sum(1)
            other[rows.rows] += weights.masked_fill_(same_class, 0.0).sum(1)
            continue
        sums = same if rows.label is not None and rows.label == columns.label else other
        sums[rows.rows] += weights.sum(1)
        if rows != columns:
            sums[columns.rows] += weights.sum(0)
    return same, other


def _log_sum_weights(tiles: _Tiles, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms (n,) of both sums for the anchors ``rows`` (n,), computed in the log domain."""
    same, other = torch.full((2, len(rows)), -torch.inf, dtype=torch.float64, device=rows.device)
    for _, exponents, same_class in tiles.exact_exponents(rows):
        same = torch.logaddexp(same, exponents.masked_fill(~same_class, -torch.inf).logsumexp(1))
        other = torch.logaddexp(other, exponents.masked_fill_(same_class, -torch.inf).logsumexp(1))
    return same, other


def _add_gradient(tiles: _Tiles, slope_same: Tensor, slope_other: Tensor, gradient: Tensor) -> None:
    """Add to ``gradient`` (N, D) the sum over j of S_ij (x_i - x_j), S_ij = weight_ij * (slope_i + slope_j)."""
    features, with_ones = tiles.augmented[:, :-2], tiles.augmented[:, :-1]
    high_dim = features.shape[1] >= HIGH_DIM
    totals = torch.zeros_like(slope_same)
    # In few dimensions S @ x is a product with twice as many columns, without weighting the tile first.
    doubled = {
        id(slope): torch.cat([with_ones, with_ones * slope[:, None]], 1)
        for slope in (() if high_dim else (slope_same, slope_other))
    }
    buffer = torch.empty_like(tiles.buffer)
    for rows, columns, weights in tiles.pairs(only_needs_grad=True):
        mixed = rows == columns and rows.label is None
        slope = slope_same if rows.label is not None and rows.label == columns.label else slope_other
        weigh_first = mixed or high_dim
        if weigh_first:
            slopes = torch.add(
                slope[rows.rows, None], slope[columns.rows], out=buffer[: weights.numel()].view_as(weights)
            )
            if mixed:
                both_same = slope_same[rows.rows, None] + slope_same[columns.rows]
                slopes = torch.where(tiles.same_class(rows), both_same, slopes)
            weights = slopes.mul_(weights)
        sides = [(rows, columns, weights)]
        if rows != columns:
            sides.append((columns, rows, weights.T))
        for block, others, tile in sides:
            if not block.needs_grad:
                continue
            if weigh_first:
                gradient[block.rows].addmm_(tile, features[others.rows], alpha=-1)
                totals[block.rows] += tile.sum(1)
            else:
                plain, weighted = (tile @ doubled[id(slope)][others.rows]).chunk(2, dim=1)
                sums = plain * slope[block.rows, None] + weighted
                gradient[block.rows] -= sums[:, :-1]
                totals[block.rows] += sums[:, -1]
    gradient.addcmul_(totals[:, None], features)


def _add_exact_gradient(
    tiles: _Tiles, rows: Tensor, slope: Tensor, log_same: Tensor, log_other: Tensor, gradient: Tensor
) -> None:
    """Add to ``gradient`` (N, D) the part that comes from the log-odds of the anchors ``rows`` (n,)."""
    features = tiles.augmented[:, :-2]
    own, slope, log_same, log_other = features[rows], slope[:, None], log_same[:, None], log_other[:, None]
    for columns, exponents, same_class in tiles.exact_exponents(rows):
        weights = (exponents - torch.where(same_class, log_same, log_other)).clamp_max_(0).exp_()
        weights = weights.mul_(torch.where(same_class, slope, -slope)).to(features.dtype)
        gradient.index_add_(0, rows, own * weights.sum(1, keepdim=True) - weights @ features[columns])
        gradient[columns] += features[columns] * weights.sum(0)[:, None] - weights.T @ own


class TiledNeighbors:
    """Sums over the neighbors of a batch's anchors; see ``Neighbors`` in ``optimal_temperature.py``.

    Each pass over the pairs computes them at many temperatures. Distances have the dtype of the features.
    """

    octaves = 4

    def __init__(self, batch: PairwiseBatch) -> None:
        self._layout = _sort_by_class(batch)
        augmented = _augment(batch.features.detach(), batch, self._layout)
        self._tiles = _Tiles(augmented, batch.factor, torch.ones_like(batch.scale), self._layout)
        self._nearest = augmented.new_full((2, len(augmented)), -torch.inf)  # of the class, of the others; negative
        farthest = augmented.new_zeros(())
        for anchors, dim, kind, mask, negative in self._sides():
            farthest = torch.minimum(farthest, negative.amin())
            part = negative if mask is None else negative.where(mask, -torch.inf)
            nearest = self._nearest[kind, anchors]
            torch.maximum(nearest, part.amax(dim).clamp_max(0), out=nearest)
        self.nearest_same, self.nearest_other = (-self._nearest[:, self._layout.is_active]).double()
        self._nearest.masked_fill_(self._nearest == -torch.inf, 0.0)
        self.num_same = (self._layout.sort(batch.class_sizes)[self._layout.is_active] - 1).double()
        self.farthest = -float(farthest)

    def rounded(self) -> TiledNeighbors:
        return self

    def sums(self, inverses: Sequence[float]) -> Tensor:
        augmented = self._tiles.augmented
        sums = augmented.new_zeros((len(inverses), 4, len(augmented)), dtype=torch.float64)
        lowest = self._tiles.lowest / 2  # vanishes in a sum with the nearest neighbor's 1
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

        Neighbors lie along dimension ``dim`` of the tile. ``kind`` is 0 for the same class and 1 for others; a mask
        says which pairs are of that kind, where not all are.
        """
        for number, rows in enumerate(self._layout.blocks):
            left = self._tiles.scale_left(rows)
            for columns in self._layout.blocks[number:]:
                with full_precision(left.device):
                    negative = self._tiles.exponents(left, columns)
                if rows == columns:
                    same_class = self._tiles.same_class(rows)
                    if rows.label is None:
                        yield rows.rows, 1, 1, ~same_class, negative
                    yield rows.rows, 1, 0, same_class.fill_diagonal_(False), negative
                    continue
                kind = 0 if rows.label is not None and rows.label == columns.label else 1
                yield rows.rows, 1, kind, None, negative
                yield columns.rows, 0, kind, None, negative
