# mypy: ignore-errors
"""The Triton kernels of :mod:`snngan.losses.backends.fused`, which explains what they compute. Importing needs Triton.

Anchors i are ``rows``, their neighbors j ``columns``; ``AXIS`` is the axis of a tile along which neighbors lie.
In few dimensions features are (D, width) and tiles (columns, rows): a thread then has whole anchors, and sums over
neighbors stay in it. In many dimensions features are (width, PADDED) and tiles (rows, columns), as matrix units need
them. All arrays are longer than ``count``, so that no block reads past the end; offsets there are ``MASKED_DISTANCE``.
"""

from __future__ import annotations

import triton
import triton.language as tl

MASKED_DISTANCE = 1e15
"""The distance of a sample to itself and to padding: no T within the bounds gives them a weight."""
_MASKED = tl.constexpr(MASKED_DISTANCE)


@triton.jit
def _load(features, rows, first, PADDED: tl.constexpr, CHUNK: tl.constexpr):
    """Return CHUNK dimensions (n, CHUNK), starting with ``first``, of high-dimensional features in float32."""
    dimensions = first + tl.arange(0, CHUNK)
    return tl.load(features + rows.to(tl.int64)[:, None] * PADDED + dimensions[None, :]).to(tl.float32)


@triton.jit
def _products(features, rows, columns, PADDED: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Return the products (n, m) of high-dimensional features, a chunk of dimensions at a time."""
    products = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for chunk in tl.static_range(PADDED // CHUNK):
        left = _load(features, rows, chunk * CHUNK, PADDED, CHUNK)
        right = _load(features, columns, chunk * CHUNK, PADDED, CHUNK)
        products = tl.dot(left, tl.trans(right), products, input_precision=PRECISION)
    return products


@triton.jit
def _differences(features, rows, columns, width, dimension):
    """Return the differences (m, n) of low-dimensional features along one dimension."""
    line = features + tl.cast(dimension, tl.int64) * width
    return tl.load(line + rows).to(tl.float32)[None, :] - tl.load(line + columns).to(tl.float32)[:, None]


@triton.jit
def _tile(
    features,
    offsets,
    labels,
    rows,
    offset_i,
    label_i,
    columns,
    width,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    LOW_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the distances of a tile, and which of its pairs have one label."""
    AXIS: tl.constexpr = 0 if LOW_DIM else 1
    distances = tl.expand_dims(offset_i, AXIS) + tl.expand_dims(tl.load(offsets + columns), 1 - AXIS)
    if LOW_DIM:
        for dimension in tl.static_range(D):
            difference = _differences(features, rows, columns, width, dimension)
            distances += difference * difference
    else:
        products = _products(features, rows, columns, PADDED, CHUNK, PRECISION)
        distances = tl.maximum(distances - 2 * products, 0.0, propagate_nan=tl.PropagateNan.ALL)
    is_self = tl.expand_dims(columns, 1 - AXIS) == tl.expand_dims(rows, AXIS)
    same_class = tl.expand_dims(tl.load(labels + columns), 1 - AXIS) == tl.expand_dims(label_i, AXIS)
    return tl.where(is_self, _MASKED, distances), same_class


@triton.jit
def add_squared_norms(
    features, offsets, result, PADDED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr
):
    """Store offsets plus squared norms of high-dimensional features, which round as their products with others do."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    products = _products(features, rows, rows, PADDED, CHUNK, PRECISION)
    squared_norms = tl.sum(tl.where(rows[:, None] == rows[None, :], products, 0.0), 1)
    tl.store(result + rows, squared_norms + tl.load(offsets + rows))


@triton.jit
def sum_weights(
    features,
    offsets,
    labels,
    rate_pointer,
    result,
    count,
    width,
    share,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LOW_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store for a share of the neighbors the nearest one's distance, of the class and of others, and both sums."""
    AXIS: tl.constexpr = 0 if LOW_DIM else 1
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    offset_i = tl.load(offsets + rows)
    label_i = tl.load(labels + rows)
    rate = tl.load(rate_pointer)
    near_same = tl.full([ROWS], _MASKED, tl.float32)
    near_other = tl.full([ROWS], _MASKED, tl.float32)
    sum_same = tl.zeros([ROWS], tl.float32)
    sum_other = tl.zeros([ROWS], tl.float32)
    begin = tl.program_id(1) * share
    for start in range(begin, tl.minimum(begin + share, count), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        distances, same_class = _tile(
            features, offsets, labels, rows, offset_i, label_i, columns, width, D, PADDED, CHUNK, LOW_DIM, PRECISION
        )
        nearer_same = tl.minimum(near_same, tl.min(tl.where(same_class, distances, _MASKED), AXIS))
        nearer_other = tl.minimum(near_other, tl.min(tl.where(same_class, _MASKED, distances), AXIS))
        nearest = tl.where(same_class, tl.expand_dims(nearer_same, AXIS), tl.expand_dims(nearer_other, AXIS))
        weights = tl.exp2((nearest - distances) * rate)
        sum_same *= tl.exp2((nearer_same - near_same) * rate)
        sum_other *= tl.exp2((nearer_other - near_other) * rate)
        sum_same += tl.sum(tl.where(same_class, weights, 0.0), AXIS)
        sum_other += tl.sum(tl.where(same_class, 0.0, weights), AXIS)
        near_same = nearer_same
        near_other = nearer_other
    target = result + tl.program_id(1).to(tl.int64) * 4 * count + rows
    tl.store(target, near_same, mask=rows < count)
    tl.store(target + count, near_other, mask=rows < count)
    tl.store(target + 2 * count, sum_same, mask=rows < count)
    tl.store(target + 3 * count, sum_other, mask=rows < count)


@triton.jit
def _slopes(distances, same_class, rate, saved, positions, width, AXIS: tl.constexpr):
    """Return the slopes, by the distances of a tile, of the log-odds of its samples on one side."""
    near_same = tl.expand_dims(tl.load(saved + positions), AXIS)
    near_other = tl.expand_dims(tl.load(saved + width + positions), AXIS)
    slope_same = tl.expand_dims(tl.load(saved + 2 * width + positions), AXIS)
    slope_other = tl.expand_dims(tl.load(saved + 3 * width + positions), AXIS)
    exponents = (tl.where(same_class, near_same, near_other) - distances) * rate
    return tl.exp2(tl.minimum(exponents, 0.0)) * tl.where(same_class, slope_same, slope_other)


@triton.jit
def sum_gradient(
    features,
    offsets,
    labels,
    rate_pointer,
    saved,
    first,
    stop,
    result,
    count,
    width,
    share,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LOW_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store for a share of the neighbors the sum of S_ij (x_i - x_j), for samples ``first`` to ``stop``."""
    AXIS: tl.constexpr = 0 if LOW_DIM else 1
    SPLIT: tl.constexpr = "tf32x3" if PRECISION == "ieee" else PRECISION
    positions = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = first + positions
    offset_i = tl.load(offsets + rows)
    label_i = tl.load(labels + rows)
    rate = tl.load(rate_pointer)
    dimensions = tl.arange(0, PADDED)
    if LOW_DIM:
        gradient = tl.zeros([PADDED, ROWS], tl.float32)
    else:
        gradient = tl.zeros([ROWS, PADDED], tl.float32)
        total = tl.zeros([ROWS], tl.float32)
    begin = tl.program_id(1) * share
    for start in range(begin, tl.minimum(begin + share, count), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        distances, same_class = _tile(
            features, offsets, labels, rows, offset_i, label_i, columns, width, D, PADDED, CHUNK, LOW_DIM, PRECISION
        )
        slopes = _slopes(distances, same_class, rate, saved, rows, width, AXIS)
        slopes += _slopes(distances, same_class, rate, saved, columns, width, 1 - AXIS)
        if LOW_DIM:
            for dimension in tl.static_range(D):
                added = tl.sum(slopes * _differences(features, rows, columns, width, dimension), 0)
                gradient = tl.where((dimensions == dimension)[:, None], gradient + added[None, :], gradient)
        else:
            total += tl.sum(slopes, 1)
            gradient = tl.dot(slopes, _load(features, columns, 0, PADDED, PADDED), gradient, input_precision=SPLIT)
    target = result + tl.program_id(1).to(tl.int64) * (stop - first) * D
    row_offsets = positions.to(tl.int64) * D
    if LOW_DIM:
        inside = (rows < stop)[None, :] & (dimensions < D)[:, None]
        tl.store(target + row_offsets[None, :] + dimensions[:, None], gradient, mask=inside)
    else:
        inside = (rows < stop)[:, None] & (dimensions < D)[None, :]
        gradient = total[:, None] * _load(features, rows, 0, PADDED, PADDED) - gradient
        tl.store(target + row_offsets[:, None] + dimensions[None, :], gradient, mask=inside)
