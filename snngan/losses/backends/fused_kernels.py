# mypy: ignore-errors
"""The Triton kernels of :mod:`snngan.losses.backends.fused`, which says what they compute. To import this needs Triton.

Anchors i are ``rows``, their neighbors j ``columns``; ``OVER`` is the axis of a tile along which neighbors lie.
Thin points come as (D, width), and a tile of theirs is (columns, rows): a thread then has whole anchors, and sums over
neighbors stay in it. Wide points come as (width, PADDED), and a tile of theirs is (rows, columns), as matrix units
want it. All arrays are longer than ``count`` by so much that no block reads past their end; what lies there is ``FAR``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from snngan.losses.backends import fused

FAR = tl.constexpr(fused.FAR)


@triton.jit
def _points(points, rows, first, PADDED: tl.constexpr, CHUNK: tl.constexpr):
    """Return some dimensions (n, CHUNK), from ``first`` on, of wide points in float32."""
    dimensions = first + tl.arange(0, CHUNK)
    return tl.load(points + rows.to(tl.int64)[:, None] * PADDED + dimensions[None, :]).to(tl.float32)


@triton.jit
def _products(points, rows, columns, PADDED: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Return the products (n, m) of wide points, a chunk of dimensions at a time."""
    products = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for chunk in tl.static_range(PADDED // CHUNK):
        left = _points(points, rows, chunk * CHUNK, PADDED, CHUNK)
        right = _points(points, columns, chunk * CHUNK, PADDED, CHUNK)
        products = tl.dot(left, tl.trans(right), products, input_precision=PRECISION)
    return products


@triton.jit
def _along(points, rows, columns, width, dimension):
    """Return how far apart (m, n) thin points are along one dimension."""
    line = points + tl.cast(dimension, tl.int64) * width
    return tl.load(line + rows).to(tl.float32)[None, :] - tl.load(line + columns).to(tl.float32)[:, None]


@triton.jit
def _tile(
    points, own, labels, rows, own_i, label_i, columns, width,
    D: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr, THIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the distances of a tile, and which of its pairs are of one class."""
    OVER: tl.constexpr = 0 if THIN else 1
    distances = tl.expand_dims(own_i, OVER) + tl.expand_dims(tl.load(own + columns), 1 - OVER)
    if THIN:
        for dimension in tl.static_range(D):
            apart = _along(points, rows, columns, width, dimension)
            distances += apart * apart
    else:
        products = _products(points, rows, columns, PADDED, CHUNK, PRECISION)
        distances = tl.maximum(distances - 2 * products, 0.0, propagate_nan=tl.PropagateNan.ALL)
    itself = tl.expand_dims(columns, 1 - OVER) == tl.expand_dims(rows, OVER)
    alike = tl.expand_dims(tl.load(labels + columns), 1 - OVER) == tl.expand_dims(label_i, OVER)
    return tl.where(itself, FAR, distances), alike


@triton.jit
def lengths(
    points, own, result, PADDED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr
):
    """Store ``own`` plus the squared lengths of wide points, rounded as their products with others are."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    products = _products(points, rows, rows, PADDED, CHUNK, PRECISION)
    squares = tl.sum(tl.where(rows[:, None] == rows[None, :], products, 0.0), 1)
    tl.store(result + rows, squares + tl.load(own + rows))


@triton.jit
def sums(
    points, own, labels, rate, result, count, width, share,
    D: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    THIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store for a share of the neighbors: how near the nearest is, of the class and of others, and both sums."""
    OVER: tl.constexpr = 0 if THIN else 1
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own_i = tl.load(own + rows)
    label_i = tl.load(labels + rows)
    scale = tl.load(rate)
    near_same = tl.full([ROWS], FAR, tl.float32)
    near_other = tl.full([ROWS], FAR, tl.float32)
    sum_same = tl.zeros([ROWS], tl.float32)
    sum_other = tl.zeros([ROWS], tl.float32)
    begin = tl.program_id(1) * share
    for start in range(begin, tl.minimum(begin + share, count), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        distances, alike = _tile(
            points, own, labels, rows, own_i, label_i, columns, width, D, PADDED, CHUNK, THIN, PRECISION
        )
        nearer_same = tl.minimum(near_same, tl.min(tl.where(alike, distances, FAR), OVER))
        nearer_other = tl.minimum(near_other, tl.min(tl.where(alike, FAR, distances), OVER))
        nearest = tl.where(alike, tl.expand_dims(nearer_same, OVER), tl.expand_dims(nearer_other, OVER))
        weights = tl.exp2((nearest - distances) * scale)
        sum_same *= tl.exp2((nearer_same - near_same) * scale)
        sum_other *= tl.exp2((nearer_other - near_other) * scale)
        sum_same += tl.sum(tl.where(alike, weights, 0.0), OVER)
        sum_other += tl.sum(tl.where(alike, 0.0, weights), OVER)
        near_same = nearer_same
        near_other = nearer_other
    place = result + tl.program_id(1).to(tl.int64) * 4 * count + rows
    tl.store(place, near_same, mask=rows < count)
    tl.store(place + count, near_other, mask=rows < count)
    tl.store(place + 2 * count, sum_same, mask=rows < count)
    tl.store(place + 3 * count, sum_other, mask=rows < count)


@triton.jit
def _slopes(distances, alike, scale, kept, places, width, AXIS: tl.constexpr):
    """Return the slopes, along the distances of a tile, of the log-odds of its points on one side."""
    near_same = tl.expand_dims(tl.load(kept + places), AXIS)
    near_other = tl.expand_dims(tl.load(kept + width + places), AXIS)
    of_same = tl.expand_dims(tl.load(kept + 2 * width + places), AXIS)
    of_other = tl.expand_dims(tl.load(kept + 3 * width + places), AXIS)
    exponents = (tl.where(alike, near_same, near_other) - distances) * scale
    return tl.exp2(tl.minimum(exponents, 0.0)) * tl.where(alike, of_same, of_other)


@triton.jit
def pull(
    points, own, labels, rate, kept, first, stop, result, count, width, share,
    D: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    THIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store for a share of the neighbors the sum of S_ij (x_i - x_j), of points ``first`` to ``stop``."""
    OVER: tl.constexpr = 0 if THIN else 1
    SPLIT: tl.constexpr = "tf32x3" if PRECISION == "ieee" else PRECISION
    places = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = first + places
    own_i = tl.load(own + rows)
    label_i = tl.load(labels + rows)
    scale = tl.load(rate)
    dimensions = tl.arange(0, PADDED)
    if THIN:
        pulled = tl.zeros([PADDED, ROWS], tl.float32)
    else:
        pulled = tl.zeros([ROWS, PADDED], tl.float32)
        total = tl.zeros([ROWS], tl.float32)
    begin = tl.program_id(1) * share
    for start in range(begin, tl.minimum(begin + share, count), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        distances, alike = _tile(
            points, own, labels, rows, own_i, label_i, columns, width, D, PADDED, CHUNK, THIN, PRECISION
        )
        slopes = _slopes(distances, alike, scale, kept, rows, width, OVER)
        slopes += _slopes(distances, alike, scale, kept, columns, width, 1 - OVER)
        if THIN:
            for dimension in tl.static_range(D):
                added = tl.sum(slopes * _along(points, rows, columns, width, dimension), 0)
                pulled = tl.where((dimensions == dimension)[:, None], pulled + added[None, :], pulled)
        else:
            total += tl.sum(slopes, 1)
            pulled = tl.dot(slopes, _points(points, columns, 0, PADDED, PADDED), pulled, input_precision=SPLIT)
    place = result + tl.program_id(1).to(tl.int64) * (stop - first) * D
    lines = places.to(tl.int64) * D
    if THIN:
        inside = (rows < stop)[None, :] & (dimensions < D)[:, None]
        tl.store(place + lines[None, :] + dimensions[:, None], pulled, mask=inside)
    else:
        inside = (rows < stop)[:, None] & (dimensions < D)[None, :]
        pulled = total[:, None] * _points(points, rows, 0, PADDED, PADDED) - pulled
        tl.store(place + lines[:, None] + dimensions[None, :], pulled, mask=inside)
