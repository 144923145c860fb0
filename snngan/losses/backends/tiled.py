"""The log-odds of a batch in tiles: O(N D) memory, and one exponential for each unordered pair in each direction.

Points are put in order of class, so that nearly every tile holds pairs of one kind and needs no mask. Distances, and
with them the weights exp(-d/T), are symmetric: a tile above the diagonal serves both of its sides. The forward pass
keeps two sums for each anchor, from which the backward pass makes the weights anew.

Sums of exp(-d/T) without a shift vanish for an anchor whose neighbors of one kind are all farther than some 60 T.
Those anchors, few unless T is cold, are done again one row at a time in the log domain and in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from snngan.losses.autograd import first_derivatives_only

if TYPE_CHECKING:
    from snngan.losses.pairwise import Pairs

TILE = 1024
"""Points along a side of a tile: 4 MiB of float32, which stays in a processor's cache."""
CUDA_TILE = 4096
"""The same on a GPU, which smaller products do not fill."""
PART_ROWS = 256
"""Rows of a tile taken at a time where it is read many times over: they stay in a processor's nearest cache."""
SMALLEST_PART = 256
"""Points from which half a block on the diagonal is a tile of its own."""
LOWEST = {torch.float32: -87.0, torch.float64: -708.0}
"""Exponents are held above this: what lies below is lost in the sums, and subnormal numbers are slow."""
COLD = {torch.float32: -60.0, torch.float64: -650.0}
"""Log-sums below this are taken in the log domain."""
COLD_ROWS = 256
HIGHEST_RATE = 1e15
"""Of 1/T in the unit of the points, where squared distances are at most 4: float32 must hold the products."""
COLDEST = 1e10
"""The largest squared length over T up to which the rounding of float64 distances is lost in the weights."""
WIDE = 64
"""Dimensions from which weighting a tile costs less than multiplying the weighted points with it."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep products of float32 matrices in float32, whatever autocast and torch's switches for others say outside."""
    change: Callable[[str], None] = torch.set_float32_matmul_precision
    highest = "highest"
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it refuses where the switches of torch 2.9 were used
        backends: Any = torch.backends
        matmul = (backends.cuda if device.type == "cuda" else backends.mkldnn).matmul
        before, highest = matmul.fp32_precision, "ieee"
        change = partial(setattr, matmul, "fp32_precision")
    with torch.autocast(device.type, enabled=False):
        if before == highest:
            yield
            return
        change(highest)
        try:
            yield
        finally:
            change(before)


class Block(NamedTuple):
    """Points ``start`` to ``stop`` in order of class."""

    start: int
    stop: int
    label: int | None
    """Their class, or None for several whole classes."""
    moving: bool = True
    """Some of them want a gradient."""


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


def layout_of(labels: Tensor, moving: slice) -> Layout:
    """Return the :class:`Layout` of integer ``labels`` (N,), of which only the points ``moving`` want a gradient."""
    in_order = bool((labels[1:] >= labels[:-1]).all())
    order = None if in_order else labels.argsort(stable=True)
    ordered = labels if order is None else labels[order]
    fixed = torch.ones_like(labels, dtype=torch.bool)
    fixed[moving] = False
    _, counts = ordered.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    members = counts.repeat_interleave(counts)
    fixed = fixed if order is None else fixed[order]
    blocks = list(_blocks(counts.tolist(), CUDA_TILE if labels.is_cuda else TILE))
    still = torch.stack([fixed[block.start : block.stop].all() for block in blocks]).tolist()
    blocks = [block._replace(moving=not stays) for block, stays in zip(blocks, still, strict=True)]
    return Layout(order, ordered, members, blocks, fixed)


def _blocks(counts: list[int], tile: int) -> Iterator[Block]:
    """Cut classes of ``counts`` members into blocks of ``tile`` or less: large ones into several, small ones joined."""
    start, end = 0, 0  # of the small classes that wait to be joined
    for label, count in enumerate(counts):
        if count > tile // 4 or end + count - start > tile:
            if end > start:
                yield Block(start, end, None)
            start = end
        if count > tile // 4:
            pieces = math.ceil(count / tile)
            cuts = [end + count * piece // pieces for piece in range(pieces + 1)]
            for piece in range(pieces):
                yield Block(cuts[piece], cuts[piece + 1], label)
            start = end + count
        end += count
    if end > start:
        yield Block(start, end, None)


class _Tiles:
    """The weights exp(-d/T) of a batch, a tile at a time: d = factor * (squares_i + squares_j - 2 x_i x_j).

    ``augmented`` (N, D + 2) is what :func:`_augmented` makes of the points in order of class, and ``inverse`` is 1/T
    in the same unit.
    """

    def __init__(self, augmented: Tensor, factor: float, inverse: Tensor, layout: Layout) -> None:
        self.augmented, self.layout = augmented, layout
        # At a colder T all neighbors but duplicates have weight 0, and such anchors are taken in the log domain.
        self.rate = (factor * inverse).clamp(max=HIGHEST_RATE).to(augmented.dtype)
        side = max((block.stop - block.start for block in layout.blocks), default=0)
        self.room = augmented.new_empty(side * side)
        self.lowest = LOWEST[augmented.dtype]

    def pairs(self, *, moving: bool = False) -> Iterator[tuple[Block, Block, Tensor]]:
        """Yield each unordered pair of blocks, or those that move, with its weights; the next overwrites the last."""
        for number, rows in enumerate(self.layout.blocks):
            left = self.left(rows)
            for columns in self.layout.blocks[number:]:
                if moving and not (rows.moving or columns.moving):
                    continue
                for part, others in _parts(rows) if rows == columns else [(rows, columns)]:
                    upper = left[part.start - rows.start : part.stop - rows.start]
                    yield part, others, self._weights(upper, part, others)

    def _weights(self, left: Tensor, rows: Block, columns: Block) -> Tensor:
        """Return exp(-d/T) between two blocks, 0 from a point to itself."""
        weights = self.exponents(left, columns).clamp_(self.lowest, 0).exp_()
        if rows == columns:
            weights.diagonal().zero_()
        return weights

    def left(self, rows: Block) -> Tensor:
        """Return what, multiplied with the augmented points of other blocks, gives -d/T."""
        block = self.augmented[rows.start : rows.stop]
        left = block * (2 * self.rate)
        left[:, -2] = -self.rate * block[:, -1]
        left[:, -1] = -self.rate
        return left

    def exponents(self, left: Tensor, columns: Block) -> Tensor:
        """Return -d/T between two blocks, the first given by its :meth:`left`."""
        height, width = len(left), columns.stop - columns.start
        tile = self.room[: height * width].view(height, width)
        return torch.mm(left, self.augmented[columns.start : columns.stop].T, out=tile)

    def alike(self, block: Block) -> Tensor:
        """Return where two points of one block of several classes are of one class (n, n), bool."""
        labels = self.layout.labels[block.start : block.stop]
        return labels[:, None] == labels


def _augmented(points: Tensor, squares: Tensor, unit: Tensor, layout: Layout) -> Tensor:
    """Return ``points`` (N, D) and ``squares`` (N, 1), divided by ``unit``, in order of class: [x_i, 1, squares_i].

    The squared lengths ride along in the product of points, which then gives the whole distance.
    """
    augmented = points.new_empty(len(points), points.shape[1] + 2)
    for start in range(0, len(points), TILE):
        to = slice(start, start + TILE)
        place = to if layout.order is None else layout.order[to]
        augmented[to, :-2] = points[place] / unit
        augmented[to, -2] = 1
        augmented[to, -1] = squares[place, 0] / unit.square()
    return augmented


def _parts(block: Block) -> Iterator[tuple[Block, Block]]:
    """Cut the unordered pairs within a block of one class into tiles, few of whose pairs come twice."""
    middle = (block.start + block.stop) // 2
    if block.label is None or middle - block.start < SMALLEST_PART:
        yield block, block
        return
    first, second = block._replace(stop=middle), block._replace(start=middle)
    yield from _parts(first)
    yield first, second
    yield from _parts(second)


def _sums(tiles: _Tiles) -> tuple[Tensor, Tensor]:
    """Return the sums (N,) of the weights of each anchor's own class and of the others, in float64."""
    same, other = tiles.augmented.new_zeros(2, len(tiles.augmented), dtype=torch.float64)
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
    """Log-odds z (K, N) in float64 of ``points`` (N, D) at K inverse temperatures (K,); once differentiable.

    ``link`` (0, D) is connected with the points; see :func:`first_derivatives_only`.
    """

    @staticmethod
    def forward(
        ctx: Any, link: Tensor, points: Tensor, squares: Tensor, unit: Tensor, layout: Layout, factor: float,
        inverses: Tensor,
    ) -> Tensor:  # fmt: skip
        augmented = _augmented(points, squares, unit, layout)
        inverses = inverses * unit.square()
        same, other = augmented.new_empty(2, len(inverses), len(points), dtype=torch.float64)
        cold = torch.empty_like(same, dtype=torch.bool)
        for turn, inverse in enumerate(inverses):
            with full_precision(points.device):
                same[turn], other[turn] = (sums.log() for sums in _sums(_Tiles(augmented, factor, inverse, layout)))
            threshold = COLD[points.dtype]
            cold[turn] = layout.anchors & layout.has_other & ((same[turn] < threshold) | (other[turn] < threshold))
            for rows in _groups(cold[turn]):
                same[turn, rows], other[turn, rows] = _cold_sums(augmented, factor, inverse, layout, rows)
        ctx.save_for_backward(link, augmented, same, other, cold, inverses, unit)
        ctx.layout, ctx.factor = layout, factor
        odds = (other - same).masked_fill_(~layout.has_other, -torch.inf).masked_fill_(~layout.anchors, 0.0)
        return _to_batch(odds.T, layout).T

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None, None, None, None]:
        _, augmented, *kept, inverses, unit = ctx.saved_tensors
        layout, factor = ctx.layout, ctx.factor
        gradient = torch.zeros_like(augmented[:, :-2])
        coldest = inverses.amax()
        for inverse, of_z, same, other, cold in zip(inverses, grad, *kept, strict=True):
            share = torch.where(coldest > 0, inverse / coldest, 0.0)
            slope = (_in_order(of_z, layout) * share).where(layout.anchors & layout.has_other, 0.0)
            # What the weight of a pair counts for in each anchor's log-odds; the cold ones have their turn below.
            warm = ~cold & (slope != 0)
            of_same = (slope * torch.exp(-same)).where(warm, 0.0).to(augmented.dtype)
            of_other = (-slope * torch.exp(-other)).where(warm, 0.0).to(augmented.dtype)
            with full_precision(augmented.device):
                if bool(warm.any()):
                    _pull(_Tiles(augmented, factor, inverse, layout), of_same, of_other, gradient)
                # Products of other shapes round otherwise: where that would show, the groups are the forward pass's.
                shows = inverse * factor * augmented[:, -1].amax() > COLDEST
                for rows in _groups(cold & ((slope != 0) | shows)):
                    sums = same[rows], other[rows]
                    _cold_pull(augmented, factor, inverse, layout, rows, slope[rows], sums, gradient)
        gradient.mul_(2 * factor * coldest / unit).masked_fill_(layout.fixed[:, None], 0.0)
        return None, _to_batch(gradient, layout), None, None, None, None, None


def _groups(cold: Tensor) -> list[Tensor]:
    """Return the places of the cold anchors, some at a time."""
    places = cold.nonzero().squeeze(1)
    return list(torch.split(places, COLD_ROWS)) if len(places) else []


def _in_order(values: Tensor, layout: Layout) -> Tensor:
    """Return ``values`` (N, ...) of the batch in order of class."""
    return values if layout.order is None else values[layout.order]


def _to_batch(values: Tensor, layout: Layout) -> Tensor:
    """Return ``values`` (N, ...), which are in order of class, in the order of the batch."""
    return values if layout.order is None else torch.empty_like(values).index_copy_(0, layout.order, values)


def _pull(tiles: _Tiles, of_same: Tensor, of_other: Tensor, gradient: Tensor) -> None:
    """Add to ``gradient`` (N, D) the sum over j of S_ij (x_i - x_j), S_ij = weight_ij * (of_i + of_j)."""
    points, plain = tiles.augmented[:, :-2], tiles.augmented[:, :-1]
    wide = points.shape[1] >= WIDE
    totals = torch.zeros_like(of_same)
    # Thin points: S @ x in two products' worth of columns, and no pass over the tile to weight it.
    spread = {} if wide else {id(of): torch.cat([plain, plain * of[:, None]], 1) for of in (of_same, of_other)}
    room = torch.empty_like(tiles.room)
    for rows, columns, weights in tiles.pairs(moving=True):
        mixed = rows == columns and rows.label is None
        of = of_same if rows.label is not None and rows.label == columns.label else of_other
        at, to = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        if mixed or wide:
            factors = torch.add(of[at, None], of[to], out=room[: weights.numel()].view_as(weights))
            if mixed:
                factors = torch.where(tiles.alike(rows), of_same[at, None] + of_same[to], factors)
            weights = factors.mul_(weights)
        sides = [(at, to, weights, rows.moving)]
        if rows != columns:
            sides.append((to, at, weights.T, columns.moving))
        for here, there, tile, moves in sides:
            if not moves:
                continue
            if mixed or wide:
                gradient[here].addmm_(tile, points[there], alpha=-1)
                totals[here] += tile.sum(1)
            else:
                own, others = (tile @ spread[id(of)][there]).chunk(2, dim=1)
                own = own * of[here, None] + others
                gradient[here] -= own[:, :-1]
                totals[here] += own[:, -1]
    gradient.addcmul_(totals[:, None], points)


def _cold_exponents(
    augmented: Tensor, factor: float, inverse: Tensor, layout: Layout, rows: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield, for columns of the batch in turn, -d/T of ``rows`` (n,) in float64 and which are of their class."""
    mine = augmented[rows].double()
    for start in range(0, len(augmented), 4 * TILE):
        to = slice(start, min(start + 4 * TILE, len(augmented)))
        others = augmented[to].double()
        products = mine[:, :-2] @ others[:, :-2].T
        exponents = products.mul_(-2).add_(mine[:, -1:]).add_(others[:, -1]).clamp_min_(0)
        exponents.mul_(-factor * inverse)
        own = rows[:, None] == torch.arange(to.start, to.stop, device=rows.device)
        exponents.masked_fill_(own, -torch.inf)
        yield to, exponents, layout.labels[rows, None] == layout.labels[to]


def _cold_sums(
    augmented: Tensor, factor: float, inverse: Tensor, layout: Layout, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logs (n,) of both sums of some anchors, taken in the log domain."""
    same, other = torch.full((2, len(rows)), -torch.inf, dtype=torch.float64, device=rows.device)
    for _, exponents, alike in _cold_exponents(augmented, factor, inverse, layout, rows):
        same = torch.logaddexp(same, exponents.masked_fill(~alike, -torch.inf).logsumexp(1))
        other = torch.logaddexp(other, exponents.masked_fill_(alike, -torch.inf).logsumexp(1))
    return same, other


def _cold_pull(
    augmented: Tensor, factor: float, inverse: Tensor, layout: Layout, rows: Tensor, slope: Tensor,
    log_sums: tuple[Tensor, Tensor], gradient: Tensor,
) -> None:  # fmt: skip
    """Add to ``gradient`` (N, D) what the log-odds of some anchors pull at them and at their neighbors."""
    log_same, log_other = (each[:, None] for each in log_sums)
    points = augmented[:, :-2]
    slope, mine = slope[:, None], points[rows]
    for to, exponents, alike in _cold_exponents(augmented, factor, inverse, layout, rows):
        weights = (exponents - torch.where(alike, log_same, log_other)).clamp_max_(0).exp_()
        weights.mul_(torch.where(alike, slope, -slope))
        weights = weights.to(points.dtype)
        gradient.index_add_(0, rows, mine * weights.sum(1, keepdim=True) - weights @ points[to])
        gradient[to] += points[to] * weights.sum(0)[:, None] - weights.T @ mine


class TiledNeighbors:
    """Sums over the neighbors of a batch's anchors, for the optimal temperature: many temperatures a pass.

    Each is taken above the anchor's nearest neighbor of the kind, so it holds at any T. Distances are in the dtype of
    the points, in units of ``pairs.unit ** 2``.
    """

    octaves = 4

    def __init__(self, pairs: Pairs) -> None:
        self.layout = layout_of(pairs.labels, pairs.moving)
        augmented = _augmented(pairs.points.detach(), pairs.squares, pairs.unit, self.layout)
        self._tiles = _Tiles(augmented, pairs.factor, torch.ones_like(pairs.scale), self.layout)
        self._active = self.layout.anchors & self.layout.has_other
        self._nearest = augmented.new_full((2, len(augmented)), -torch.inf)  # of the class, of the others; negative
        farthest = augmented.new_zeros(())
        for anchors, over, kind, mask, negative in self._sides():
            farthest = torch.minimum(farthest, negative.amin())
            part = negative if mask is None else negative.where(mask, -torch.inf)
            nearest = self._nearest[kind, anchors]
            torch.maximum(nearest, part.amax(over).clamp_max(0), out=nearest)
        self.nearest_same, self.nearest_other = (-self._nearest[:, self._active]).double()
        self._nearest.masked_fill_(self._nearest == -torch.inf, 0.0)
        self.num_same = (self.layout.members[self._active] - 1).double()
        self.farthest = -float(farthest)

    def rounded(self) -> TiledNeighbors:
        return self

    def sums(self, inverses: Sequence[float]) -> Tensor:
        augmented = self._tiles.augmented
        sums = augmented.new_zeros((len(inverses), 4, len(augmented)), dtype=torch.float64)
        lowest = self._tiles.lowest / 2  # lost beside the nearest neighbor's 1
        height = CUDA_TILE if augmented.is_cuda else PART_ROWS
        for anchors, over, kind, mask, negative in self._sides():
            for start in range(0, len(negative), height):
                rows = slice(start, min(start + height, len(negative)))
                at = slice(anchors.start + rows.start, anchors.start + rows.stop) if over else anchors
                excess = (negative[rows] - self._nearest[kind, at].unsqueeze(over)).clamp_max_(0)
                weights = torch.empty_like(excess)
                for number, inverse in enumerate(inverses):
                    torch.mul(excess, inverse, out=weights).clamp_min_(lowest).exp_()
                    if mask is not None:
                        weights.mul_(mask[rows])
                    sums[number, kind, at] += weights.sum(over)
                    sums[number, 2 + kind, at] -= weights.mul_(excess).sum(over)
        return sums[:, :, self._active]

    def _sides(self) -> Iterator[tuple[slice, int, int, Tensor | None, Tensor]]:
        """Yield anchors and their negative distances from some neighbors of one kind; the next overwrites the last.

        Neighbors lie along dimension ``over`` of the tile. The kind is 0 for the same class and 1 for others; a mask
        says which pairs are of it, where not all are.
        """
        for number, rows in enumerate(self.layout.blocks):
            left, at = self._tiles.left(rows), slice(rows.start, rows.stop)
            for columns in self.layout.blocks[number:]:
                with full_precision(left.device):
                    negative = self._tiles.exponents(left, columns)
                if rows == columns:
                    alike = self._tiles.alike(rows)
                    if rows.label is None:
                        yield at, 1, 1, ~alike, negative
                    yield at, 1, 0, alike.fill_diagonal_(False), negative
                    continue
                kind = 0 if rows.label is not None and rows.label == columns.label else 1
                yield at, 1, kind, None, negative
                yield slice(columns.start, columns.stop), 0, kind, None, negative
