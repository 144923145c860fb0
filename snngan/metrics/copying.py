"""Copying: whether samples are nearer to the training images than held-out images are."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue
from snngan.metrics.distances import find_nearest

QUANTILE = 0.05
"""A sample is close to a training image if it is closer than all but this share of the held-out images."""


def training_distances(training: Tensor, real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Return how near samples ``fake`` (N, D) are to the ``training`` images (K, D), beside held-out ones (M, D).

    Both sides count alike: the first min(N, M) images of each. With d(x) the distance of x to the nearest training
    image, the two values are

    - median of d(fake) / median of d(real). It is about 1 for samples like held-out images, below 1 for samples that
      are nearer to training images, and 0 where most of them are copies.
    - the share of samples with d(fake) below the 5 % quantile of d(real). It is about 0.05 for samples like held-out
      images, and 1 for copies; a few copies among the samples raise it, but hardly change the median.

    Source:
        Meehan et al. 2020, "A non-parametric test to detect data-copying in generative models", which compares
        the same two sets of distances by a rank test.
    """
    size = min(len(real), len(fake))
    real, fake = (find_nearest(side[:size], training)[0].flatten() for side in (real, fake))
    ratio = fake.quantile(0.5) / real.quantile(0.5)
    return float(ratio), float((fake < real.quantile(QUANTILE)).double().mean())


@METRICS.register("copying")
@partial(
    Metric,
    values={
        f"{name}_{space}": MetricValue(f"{title} {where}", direction)
        for space, where in (("features", "in features"), ("input", "in pixels"))
        for name, title, direction in (
            ("nearest", "distance to training images over that of held-out ones", "1 is ideal"),
            ("copies", "share of samples nearer to training images than 95 % of held-out ones", "0.05 is ideal"),
        )
    },
    needs=("features", "images", "training"),
    min_images=round(1 / QUANTILE),
)
def copying(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
    """Return ratio and share in features and, where images have one shape, in pixels."""
    training = real.training
    assert training is not None
    found = {"features": training_distances(training.features, real.features, fake.features)}
    if training.features is training.images:  # the features are the pixels
        found["input"] = found["features"]
    elif real.images.shape[1:] == fake.images.shape[1:]:
        found["input"] = training_distances(training.images, real.images, fake.images)
    return {
        f"{name}_{space}": value
        for space, values in found.items()
        for name, value in zip(("nearest", "copies"), values, strict=True)
    }
