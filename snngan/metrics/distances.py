"""Squared distances of feature vectors in float64, a block of rows at a time: memory is O(N D)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from snngan.data import to_unit_range

ROWS = 1024
"""Rows of a block."""
NEIGHBORS = 5
"""The reach of an image is the distance of its 5th nearest neighbor."""


def center(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and (M, D) in float64 less their common mean, which keeps distances exact."""
    mean = torch.cat([real, fake]).double().mean(0)
    return real.double() - mean, fake.double() - mean


def squared_distance_rows(left: Tensor, right: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows with the squared distances (n, M) of these rows of ``left`` (N, D) to ``right`` (M, D)."""
    lengths = right.square().sum(1)
    for start in range(0, len(left), ROWS):
        rows = slice(start, min(start + ROWS, len(left)))
        block = left[rows]
        distances = (block @ right.T).mul_(-2).add_(block.square().sum(1, keepdim=True)).add_(lengths)
        yield rows, distances.clamp_min_(0)


def find_nearest(images: Tensor, training: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Return the distances (N, k) of images to their ``k`` nearest training images, nearest first, and their indices.

    Args:
        images: (N, ...) images, uint8 or float in [-1, 1], or their features.
        training: (M, ...) the same of the training images, M >= k.
        k: number of neighbors.
    """
    vectors = to_unit_range(images).flatten(1).double()
    mean = vectors.mean(0)
    vectors = vectors - mean
    nearest = vectors.new_full((len(images), k), torch.inf)
    indices = torch.zeros_like(nearest, dtype=torch.int64)
    for start in range(0, len(training), ROWS):
        block = to_unit_range(training[start : start + ROWS]).flatten(1).double() - mean
        for rows, distances in squared_distance_rows(vectors, block):
            found, columns = distances.topk(min(k, len(block)), largest=False)
            candidates = torch.cat([indices[rows], columns + start], 1)
            nearest[rows], order = torch.cat([nearest[rows], found], 1).topk(k, largest=False)
            indices[rows] = candidates.gather(1, order)
    return nearest.sqrt(), indices


def own_distance_rows(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows with the squared distances (n, N) within ``features`` (N, D), infinite to itself."""
    for rows, distances in squared_distance_rows(features, features):
        distances[:, rows].fill_diagonal_(torch.inf)
        yield rows, distances
