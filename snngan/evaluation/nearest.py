"""The sheet of samples beside their nearest training images, which shows what the metric ``copying`` measures."""

from __future__ import annotations

from pathlib import Path

import torch

from snngan.data.grids import draw_grid, save_png
from snngan.metrics import FeatureStatistics
from snngan.metrics.distances import find_nearest

ROWS = 10
"""Number of the samples nearest to training images, and of the first samples."""
NUM_NEAREST = 3
"""Number of training images beside each sample, in each space."""


def save_nearest(path: Path, fake: FeatureStatistics, training: FeatureStatistics) -> None:
    """Write a picture with a row for each of the samples nearest to training images, then for each of the first ones.

    A row has the sample, its nearest training images by the distance of features and, after another copy of it, those
    by the distance of pixels. An existing file is replaced.

    Raises:
        ValueError: the file cannot be written.
    """
    distances = find_nearest(fake.features, training.features)[0].flatten()
    chosen = torch.cat([distances.argsort(stable=True)[:ROWS], torch.arange(len(distances))[:ROWS]])
    num_nearest = min(NUM_NEAREST, len(training.images))
    cells = []
    for sides in ((fake.features, training.features), (fake.images, training.images)):
        indices = find_nearest(sides[0][chosen], sides[1], num_nearest)[1]
        cells += [fake.images[chosen, None], training.images[indices]]
    rows = torch.cat(cells, 1)
    try:
        save_png(draw_grid(rows.flatten(0, 1), columns=rows.shape[1]), path)
    except OSError as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error
