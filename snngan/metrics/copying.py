"""Copying: whether samples are nearer to training images than held-out images are."""

from __future__ import annotations

from functools import partial

from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue

SHARE = 0.05
"""The share of held-out images that counts as near to training images."""


@METRICS.register("copying")
@partial(
    Metric,
    values={
        f"{name}_{space}": MetricValue(f"{title} {where}", direction)
        for space, where in (("features", "in features"), ("input", "in pixels"))
        for name, title, direction in (
            ("nearest", "distance to training images over that of held-out ones", "1 is ideal"),
            ("copies", "share of samples as near as 5 % of held-out images", "0.05 is ideal"),
        )
    },
    needs=("train",),
    logged_in_pixels=False,
)
def copying(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
    """Return how near samples are to training images, compared with held-out images, in features and in pixels.

    ``nearest`` is the ratio of the median distances to the nearest training image: below 1, samples are nearer than
    held-out images. ``copies`` is the share of samples that are nearer than all but 5 % of the held-out images: the
    share of copies, where these are few.
    Source: Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models", compares the same
    distances.
    """
    values: dict[str, float] = {}
    for space, held_out in real.nearest.items():
        samples = fake.nearest[space]
        values[f"nearest_{space}"] = float(samples.median() / held_out.median())
        values[f"copies_{space}"] = float((samples < held_out.quantile(SHARE)).double().mean())
    return values
