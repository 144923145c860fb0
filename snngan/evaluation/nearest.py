"""The training images nearest to samples: their distances, and a picture of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from snngan.data import to_unit_range
from snngan.data.grids import draw_grid, save_png
from snngan.evaluation.features import Extractor
from snngan.evaluation.sources import ImageSource
from snngan.metrics.distances import squared_distance_rows

NUM_QUERIES = 1000
"""Largest number of images of each side that are compared with the training images."""
NUM_NEAREST = 3
"""Training images shown beside a sample, in each space."""
NUM_ROWS = 10
"""Rows of the picture for the samples nearest to training images, and as many for the first samples."""


@dataclass(frozen=True)
class Neighbors:
    """The nearest training images of n images in one space, nearest first."""

    distances: Tensor
    """(n, NUM_NEAREST) Euclidean."""
    rows: Tensor
    """(n, NUM_NEAREST) indices of training images."""

    def last(self, count: int) -> Neighbors:
        """Return those of the last ``count`` images."""
        return Neighbors(self.distances[-count:], self.rows[-count:])


def find_nearest(queries: Tensor, train: ImageSource, extractor: Extractor) -> dict[str, Neighbors]:
    """Return the training images nearest to images (n, C, H, W) as they are stored, in features and in pixels.

    The training images are read once, in chunks.
    """
    spaces = {"features": extractor(queries), "input": to_unit_range(queries).flatten(1)}
    best = {name: (torch.full((len(queries), 0), 0.0).double(), torch.empty(len(queries), 0).long()) for name in spaces}
    start = 0
    for chunk in train.chunks(train.limit(10**9)):
        others = {"features": extractor(chunk), "input": to_unit_range(chunk).flatten(1)}
        for name, features in spaces.items():
            center = others[name].double().mean(0)
            left, right = features.double() - center, others[name].double() - center
            distances = torch.cat([block for _, block in squared_distance_rows(left, right)])
            rows = torch.arange(start, start + len(chunk)).expand_as(distances)
            known, places = torch.cat([best[name][0], distances], 1), torch.cat([best[name][1], rows], 1)
            nearest = known.topk(min(NUM_NEAREST, known.shape[1]), 1, largest=False)
            best[name] = nearest.values, places.gather(1, nearest.indices)
        start += len(chunk)
    return {name: Neighbors(squares.sqrt(), rows) for name, (squares, rows) in best.items()}


def save_nearest(path: Path, samples: Tensor, found: Mapping[str, Neighbors], train: ImageSource) -> None:
    """Write a picture with a row for each of some ``samples`` (n, C, H, W), stored images, and their ``found`` ones.

    A row has the sample, its nearest training images in features and, after another copy of it, those in pixels. The
    first rows are the samples nearest to a training image in features, the others the first of all.

    Raises:
        ValueError: the file cannot be written.
    """
    nearest_first = found["features"].distances[:, 0].argsort()[:NUM_ROWS]
    chosen = torch.cat([nearest_first, torch.arange(min(NUM_ROWS, len(samples)))])
    cells = []
    for row in chosen.tolist():
        for neighbors in found.values():
            cells += [samples[row], *(train.read(range(each, each + 1))[0] for each in neighbors.rows[row].tolist())]
    columns = len(cells) // len(chosen)
    try:
        save_png(draw_grid(torch.stack(cells), columns), path)
    except OSError as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error
