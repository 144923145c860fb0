"""The log-odds of a batch in tiles: O(N D) memory, and one exponential for each unordered pair in each direction.

Points are put in order of class, so that nearly every tile holds pairs of one kind and needs no mask. Distances, and
with them the weights exp(-d/T), are symmetric: a tile above the diagonal serves both of its sides. The forward pass
keeps two sums for each anchor, from which the backward pass makes the weights anew.

Sums of exp(-d/T) without a shift vanish for an anchor whose neighbours of one kind are all farther than some 60 T.
Those anchors, few unless T is cold, are done again one row at a time in the log domain and in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from snngan.losses.pairs import Pairs

TILE = 1024
"""Points along a side of a tile: 4 MiB of float32, which stays in a processor's cache."""
LOWEST = {torch.float32: -87.0, torch.float64: -708.0}
"""Exponents are held above this: what lies below is lost in the sums, and subnormal numbers are slow."""
COLD = {torch.float32: -60.0, torch.float64: -650.0}
"""Log-sums below this are taken in the log domain."""
COLD_ROWS = 256
WIDE = 64
"""Dimensions from which weighting a tile costs less than multiplying the weighted points with it."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep products of float32 matrices in float32, whatever autocast and the TF32 switch say outside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Block(NamedTuple):
    """Rows ``start`` to ``stop`` of the points in order of class; ``label`` None: of several whole classes."""

    start: int
    stop: int
    label: int | None


class Layout(NamedTuple):
    """A batch's points in order of class. All tensors are (N,) in that order, but ``order``."""

    order: Tensor | None
    """(N,) their places in the batch, or None where they are in order already."""
    labels: Tensor
    members: Tensor
    """int64: how many points are of the class."""
    blocks: list[Block]
    fixed: Tensor
    """bool: wants no gradient."""

    @property
    def anchors(self) -> Tensor:
        """bool: there is another point of the class."""
        return self.members > 1

    @property
    def has_other(self) -> Tensor:
        """bool: there is a point of another class."""
        return self.members < len(self.labels)


def layout_of(labels: Tensor, num_fixed: int = 0) -> Layout:
    """Return the :class:`Layout` of integer ``labels`` (N,), of which the first ``num_fixed`` points are fixed."""
    in_order = bool((labels[1:] >= labels[:-1]).all())
    order = None if in_order else labels.argsort(stable=True)
    ordered = labels if order is None else labels[order]
    fixed = torch.arange(len(labels), device=labels.device) < num_fixed
    _, counts = ordered.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    members = counts.repeat_interleave(counts)
    blocks = list(_blocks(counts.tolist(), TILE))
    return Layout(order, ordered, members, blocks, fixed if order is None else fixed[order])


def _blocks(counts: list[int], tile: int) -> Iterator[Block]:
    """Cut classes of ``counts`` members into blocks of ``tile`` or less: large ones into several, small ones joined."""
    start, end = 0, 0  # of the small classes that wait to be joined
    for label, count in enumerate(counts):
        if count > tile // 2 or end + count - start > tile:
            if end > start:
                yield Block(start, end, None)
            start = end
        if count > tile // 2:
            pieces = math.ceil(count / tile)
            cuts = [end + count * piece // pieces for piece in range(pieces + 1)]
            for piece in range(pieces):
                yield Block(cuts[piece], cuts[piece + 1], label)
            start = end + count
        end += count
    if end > start:
        yield Block(start, end, None)


class _Tiles:
    """The weights exp(-d/T) of a batch, a tile at a time.

    ``points`` (N, D) and ``squares`` (N, 1) are those of :class:`Pairs` in order of class:
    d = factor * (squares_i + squares_j - 2 x_i x_j).
    """

    def __init__(self, points: Tensor, squares: Tensor, factor: float, inverse: Tensor, layout: Layout) -> None:
        rate = (factor * inverse).to(points.dtype)
        ones = torch.ones_like(squares)
        # One product gives the exponent: squared lengths ride along as two more dimensions.
        self.left = torch.cat([points * (2 * rate), -rate * squares, -rate * ones], 1)
        self.right = torch.cat([points, ones, squares], 1)
        self.layout = layout
        side = max((block.stop - block.start for block in layout.blocks), default=0)
        self._room = points.new_empty(side * side)
        self.lowest = LOWEST[points.dtype]

    def pairs(self) -> Iterator[tuple[Block, Block, Tensor]]:
        """Yield each unordered pair of blocks with the weights between them; the next tile overwrites the last."""
        for number, rows in enumerate(self.layout.blocks):
            for columns in self.layout.blocks[number:]:
                yield rows, columns, self.weights(rows, columns)

    def weights(self, rows: Block, columns: Block) -> Tensor:
        """Return exp(-d/T) between two blocks, 0 from a point to itself."""
        weights = self.exponents(rows, columns).clamp_(self.lowest, 0).exp_()
        if rows == columns:
            weights.diagonal().zero_()
        return weights

    def exponents(self, rows: Block, columns: Block) -> Tensor:
        """Return -d/T between two blocks."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        tile = self._room[: height * width].view(height, width)
        return torch.mm(self.left[rows.start : rows.stop], self.right[columns.start : columns.stop].T, out=tile)

    def alike(self, block: Block) -> Tensor:
        """Return where two points of one block of several classes are of one class (n, n), bool."""
        labels = self.layout.labels[block.start : block.stop]
        return labels[:, None] == labels


def _sums(tiles: _Tiles, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums (N,) of the weights of each anchor's own class and of the others, in float64."""
    same, other = points.new_zeros(2, len(points), dtype=torch.float64)
    for rows, columns, weights in tiles.pairs():
        if rows == columns and rows.label is None:
            alike = tiles.alike(rows)
            same[rows.start : rows.stop] += (weights * alike).sum(1)
            other[rows.start : rows.stop] += weights.masked_fill_(alike, 0.0).sum(1)
            continue
        sums = same if rows.label is not None and rows.label == columns.label else other
        sums[rows.start : rows.stop] += weights.sum(1)
        if rows != columns:
            sums[columns.start : columns.stop] += weights.sum(0)
    return same, other


class TiledLogOdds(torch.autograd.Function):
    """Log-odds z (N,) in float64 of ``points`` (N, D), centred or of unit length; once differentiable."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, squares: Tensor, layout: Layout, factor: float, inverse: Tensor) -> Tensor:
        ordered, squares = _in_order(points, layout), _in_order(squares, layout)
        with full_precision(points.device):
            same, other = _sums(_Tiles(ordered, squares, factor, inverse, layout), ordered)
        log_same, log_other = same.log(), other.log()
        threshold = COLD[points.dtype]
        cold = layout.anchors & layout.has_other & ((log_same < threshold) | (log_other < threshold))
        for rows in torch.split(cold.nonzero().squeeze(1), COLD_ROWS):
            log_same[rows], log_other[rows] = _cold_sums(ordered, squares, factor, inverse, layout, rows)
        odds = (log_other - log_same).masked_fill_(~layout.has_other, -torch.inf).masked_fill_(~layout.anchors, 0.0)
        ctx.save_for_backward(ordered, squares, log_same, log_other, cold, inverse)
        ctx.layout, ctx.factor = layout, factor
        return _to_batch(odds, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        ordered, squares, log_same, log_other, cold, inverse = ctx.saved_tensors
        layout, factor = ctx.layout, ctx.factor
        slope = (_in_order(grad, layout) * inverse).where(layout.anchors & layout.has_other, 0.0)
        # What the weight of a pair counts for in each anchor's log-odds; the cold ones have their turn below.
        warm = ~cold & (slope != 0)
        of_same = (slope * torch.exp(-log_same)).where(warm, 0.0).to(ordered.dtype)
        of_other = (-slope * torch.exp(-log_other)).where(warm, 0.0).to(ordered.dtype)
        gradient = torch.zeros_like(ordered)
        if bool(warm.any()):
            with full_precision(ordered.device):
                _pull(_Tiles(ordered, squares, factor, inverse, layout), ordered, of_same, of_other, gradient)
        for rows in torch.split((cold & (slope != 0)).nonzero().squeeze(1), COLD_ROWS):
            kept = (log_same[rows], log_other[rows])
            with full_precision(ordered.device):
                _cold_pull(ordered, squares, factor, inverse, layout, rows, slope[rows], kept, gradient)
        gradient.mul_(2 * factor).masked_fill_(layout.fixed[:, None], 0.0)
        return _to_batch(gradient, layout), None, None, None, None


def _in_order(values: Tensor, layout: Layout) -> Tensor:
    """Return ``values`` (N, ...) of the batch in order of class."""
    return values if layout.order is None else values[layout.order]


def _to_batch(values: Tensor, layout: Layout) -> Tensor:
    """Return ``values`` (N, ...), which are in order of class, in the order of the batch."""
    return values if layout.order is None else torch.empty_like(values).index_copy_(0, layout.order, values)


def _pull(tiles: _Tiles, points: Tensor, of_same: Tensor, of_other: Tensor, gradient: Tensor) -> None:
    """Add to ``gradient`` (N, D) the sum over j of S_ij (x_i - x_j), S_ij = weight_ij * (of_i + of_j)."""
    fixed = tiles.layout.fixed
    moving = {block: not bool(fixed[block.start : block.stop].all()) for block in tiles.layout.blocks}
    wide = points.shape[1] >= WIDE
    totals = torch.zeros_like(points[:, 0])
    room = torch.empty_like(tiles._room) if wide else None
    ones = torch.ones_like(points[:, :1])
    plain = torch.cat([points, ones], 1)
    # Thin points: S @ x in two products' worth of columns, and no pass over the tile to weight it.
    spread = {} if wide else {id(of): torch.cat([plain, plain * of[:, None]], 1) for of in (of_same, of_other)}
    for number, rows in enumerate(tiles.layout.blocks):
        for columns in tiles.layout.blocks[number:]:
            if not (moving[rows] or moving[columns]):
                continue
            weights = tiles.weights(rows, columns)
            at, to = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
            mixed = rows == columns and rows.label is None
            of = of_same if rows.label is not None and rows.label == columns.label else of_other
            if mixed or wide:
                sums = (
                    of[at, None] + of[to]
                    if room is None or mixed
                    else torch.add(of[at, None], of[to], out=room[: weights.numel()].view_as(weights))
                )
                if mixed:
                    sums = torch.where(tiles.alike(rows), of_same[at, None] + of_same[to], sums)
                sums.mul_(weights)
                if moving[rows]:
                    gradient[at].addmm_(sums, points[to], alpha=-1)
                    totals[at] += sums.sum(1)
                if rows != columns and moving[columns]:
                    gradient[to].addmm_(sums.T, points[at], alpha=-1)
                    totals[to] += sums.sum(0)
                continue
            sides = [(at, to, weights)] if rows == columns else [(at, to, weights), (to, at, weights.T)]
            for here, there, tile in sides:
                if moving[rows if here is at else columns]:
                    both = tile @ spread[id(of)][there]
                    own, others = both.chunk(2, dim=1)
                    own = own * of[here, None] + others
                    gradient[here] -= own[:, :-1]
                    totals[here] += own[:, -1]
    gradient.addcmul_(totals[:, None], points)


def _cold_exponents(
    points: Tensor, squares: Tensor, factor: float, inverse: Tensor, layout: Layout, rows: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield, for columns of the batch in turn, -d/T of ``rows`` (n,) in float64 and which are of their class."""
    mine, lengths = points[rows].double(), squares[rows].double()
    for start in range(0, len(points), 4 * TILE):
        to = slice(start, min(start + 4 * TILE, len(points)))
        exponents = (mine @ points[to].double().T).mul_(-2).add_(lengths).add_(squares[to].double().T).clamp_min_(0)
        exponents.mul_(-factor * inverse)
        own = rows[:, None] == torch.arange(to.start, to.stop, device=rows.device)
        exponents.masked_fill_(own, -torch.inf)
        yield to, exponents, layout.labels[rows, None] == layout.labels[to]


def _cold_sums(
    points: Tensor, squares: Tensor, factor: float, inverse: Tensor, layout: Layout, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logs (n,) of both sums of some anchors, taken in the log domain."""
    same, other = torch.full((2, len(rows)), -torch.inf, dtype=torch.float64, device=points.device)
    for _, exponents, alike in _cold_exponents(points, squares, factor, inverse, layout, rows):
        same = torch.logaddexp(same, exponents.masked_fill(~alike, -torch.inf).logsumexp(1))
        other = torch.logaddexp(other, exponents.masked_fill_(alike, -torch.inf).logsumexp(1))
    return same, other


def _cold_pull(
    points: Tensor, squares: Tensor, factor: float, inverse: Tensor, layout: Layout, rows: Tensor, slope: Tensor,
    log_sums: tuple[Tensor, Tensor], gradient: Tensor,
) -> None:  # fmt: skip
    """Add to ``gradient`` (N, D) what the log-odds of some anchors pull at them and at their neighbours."""
    log_same, log_other = (each[:, None] for each in log_sums)
    slope, mine = slope[:, None], points[rows]
    for to, exponents, alike in _cold_exponents(points, squares, factor, inverse, layout, rows):
        weights = (exponents - torch.where(alike, log_same, log_other)).exp_().mul_(torch.where(alike, slope, -slope))
        weights = weights.to(points.dtype)
        gradient.index_add_(0, rows, mine * weights.sum(1, keepdim=True) - weights @ points[to])
        gradient[to] += points[to] * weights.sum(0)[:, None] - weights.T @ mine


class TiledNeighbours:
    """Sums over the neighbours of a batch's anchors, for the optimal temperature: several temperatures a pass.

    Each is taken above the anchor's nearest neighbour of the kind, so it holds at any T. Distances are in the dtype of
    the points.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.layout = layout_of(pairs.labels)
        points, squares = (_in_order(part.detach(), self.layout) for part in (pairs.points, pairs.squares))
        one = torch.ones((), dtype=torch.float64, device=points.device)
        self._tiles = _Tiles(points, squares, pairs.factor, one, self.layout)
        self._active = self.layout.anchors & self.layout.has_other
        self._nearest = points.new_full((2, len(points)), -torch.inf)  # of the same class, of the others; negative
        farthest = points.new_zeros(())
        for rows, columns, negative in self._rows_and_columns():
            farthest = torch.minimum(farthest, negative.amin())
            if rows == columns:
                negative.diagonal().fill_(-torch.inf)
            for kind, mask in self._kinds(rows, columns):
                part = negative if mask is None else negative.masked_fill(~mask, -torch.inf)
                nearest = self._nearest[kind, rows.start : rows.stop]
                torch.maximum(nearest, part.amax(1).clamp_max(0), out=nearest)
        self.nearest_same, self.nearest_other = (-self._nearest[:, self._active]).double()
        self._nearest.masked_fill_(self._nearest == -torch.inf, 0.0)
        self.num_same = (self.layout.members[self._active] - 1).double()
        self.farthest = -float(farthest)

    def rounded(self) -> TiledNeighbours:
        return self

    def sums(self, inverses: Sequence[float]) -> Tensor:
        points = self._tiles.left
        sums = points.new_zeros((len(inverses), 4, len(points)), dtype=torch.float64)
        for rows, columns, negative in self._rows_and_columns():
            at = slice(rows.start, rows.stop)
            for kind, mask in self._kinds(rows, columns):
                excess = (negative - self._nearest[kind, at, None]).clamp_max_(0)
                for number, inverse in enumerate(inverses):
                    weights = excess.mul(inverse).clamp_min_(self._tiles.lowest / 2).exp_()
                    if mask is not None:
                        weights.masked_fill_(~mask, 0.0)
                    if rows == columns:
                        weights.diagonal().zero_()
                    sums[number, kind, at] += weights.sum(1)
                    sums[number, 2 + kind, at] -= weights.mul_(excess).sum(1)
        return sums[:, :, self._active]

    def _rows_and_columns(self) -> Iterator[tuple[Block, Block, Tensor]]:
        """Yield each ordered pair of blocks with the negative distances between them, overwritten by the next."""
        for rows in self.layout.blocks:
            for columns in self.layout.blocks:
                with full_precision(self.layout.labels.device):
                    negative = self._tiles.exponents(rows, columns)
                yield rows, columns, negative

    def _kinds(self, rows: Block, columns: Block) -> list[tuple[int, Tensor | None]]:
        """Return the kinds of neighbours (0: same class, 1: another) in a tile, each with its mask if there are two."""
        if rows == columns and rows.label is None:
            alike = self._tiles.alike(rows)
            return [(0, alike), (1, ~alike)]
        return [(0 if rows.label is not None and rows.label == columns.label else 1, None)]
