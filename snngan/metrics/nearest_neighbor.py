"""1-NN accuracy: how often the nearest neighbor of an image is on its own side; 0.5 where the sides are alike."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue
from snngan.metrics.distances import NEIGHBORS, center, own_distance_rows, squared_distance_rows


def nearest_neighbor_accuracy(real: Tensor, fake: Tensor) -> tuple[float, float, float]:
    """Return the leave-one-out accuracy of a 1-NN classifier of features ``real`` (N, D) and ``fake`` (M, D).

    It is that over all images, over real ones (high: they lie away from the synthetic ones) and over synthetic ones
    (high: they lie close to one another or off the data). Both sides count alike: the first min(N, M) images of each.
    An image as near to one side as to the other counts half.

    Source:
        Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests".
    """
    size = min(len(real), len(fake))
    real, fake = (side[:size] for side in center(real, fake))
    own = torch.cat([_is_nearest_own(real, fake), _is_nearest_own(fake, real)]).double()
    return float(own.mean()), float(own[:size].mean()), float(own[size:].mean())


def _is_nearest_own(features: Tensor, others: Tensor) -> Tensor:
    """Return whether (N,) each image's nearest neighbor is on its own side; 0.5 where both are as near."""
    own = features.new_empty(len(features))
    blocks = zip(own_distance_rows(features), squared_distance_rows(features, others), strict=True)
    for (rows, within), (_, between) in blocks:
        nearest, nearest_other = within.amin(1), between.amin(1)
        own[rows] = (nearest < nearest_other).double() + (nearest == nearest_other).double() / 2
    return own


@METRICS.register("1nn")
@partial(
    Metric,
    values={
        "1nn_accuracy": MetricValue("share whose nearest neighbor is on its own side", "0.5 is ideal"),
        "1nn_accuracy_real": MetricValue("the same of real images", "0.5 is ideal"),
        "1nn_accuracy_fake": MetricValue("the same of synthetic images", "0.5 is ideal"),
    },
    needs=("features",),
    min_images=NEIGHBORS + 1,
)
def one_nearest_neighbor(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
    """Return the 1-NN accuracy of the features that are compared pairwise, over all and over each side."""
    names = ("1nn_accuracy", "1nn_accuracy_real", "1nn_accuracy_fake")
    return dict(zip(names, nearest_neighbor_accuracy(real.features, fake.features), strict=True))
