"""The sheet of samples beside their nearest training images, which shows what ``copying`` measures."""

from __future__ import annotations

import torch

from snngan.data.grids import Pixels, draw_grid
from snngan.metrics import FeatureStatistics
from snngan.metrics.distances import find_nearest

ROWS = 10
"""Number of the samples nearest to training images, and of the first samples."""
COLUMNS = 3
"""Number of training images beside each sample."""


def draw_nearest(fake: FeatureStatistics, training: FeatureStatistics) -> Pixels:
    """Draw a row for each of the samples nearest to training images, and then for each of the first samples.

    A row has the sample and its nearest training images, all by the distance of features.
    """
    distances = find_nearest(fake.features, training.features)[0].flatten()
    samples = torch.cat([distances.argsort(stable=True)[:ROWS], torch.arange(len(distances))[:ROWS]])
    indices = find_nearest(fake.features[samples], training.features, min(COLUMNS, len(training.images)))[1]
    rows = torch.cat([fake.images[samples, None], training.images[indices]], 1)
    return draw_grid(rows.flatten(0, 1), columns=rows.shape[1])
