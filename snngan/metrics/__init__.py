"""Metrics of synthetic images against real ones: one file each, registered by name in :data:`METRICS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from snngan.lazy import public_names
from snngan.metrics.moments import Moments
from snngan.registry import Registry

ORDER = ("fid", "kid", "prdc", "1nn", "entanglement", "copying")
"""Metrics in the order of tables; others come after these."""


@dataclass
class FeatureStatistics:
    """What a metric may use of one set of images.

    Attributes:
        moments: count, mean and covariance of the features of all images; None where no chosen metric needs them.
        features: (n, D) features of the first images, those that are compared pairwise.
        images: (n, C, H, W) these images, uint8 or 2-D points; empty where no chosen metric needs them.
        training: features and images of all training images, of which ``features`` and ``images`` were held out; None
            where no chosen metric needs them, and for synthetic images.
    """

    moments: Moments | None
    features: Tensor
    images: Tensor
    training: FeatureStatistics | None = None

    @classmethod
    def from_features(cls, features: Tensor, images: Tensor) -> FeatureStatistics:
        """Return the statistics of features (N, D) and their images (N, C, H, W)."""
        moments = Moments(features.shape[1])
        moments.update(features)
        return cls(moments, features, images)


class Estimate(NamedTuple):
    """A value with its 95 % interval; the bounds are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MetricValue:
    """How to read one number that a metric returns: what it measures, and which values are good."""

    title: str
    direction: str
    """``lower is better``, ``higher is better`` or ``NUMBER is ideal``."""


@dataclass(frozen=True)
class Metric:
    """A function of real and synthetic :class:`FeatureStatistics`, with what callers must know about it.

    Attributes:
        compute: returns values by name, given the statistics of the real and of the synthetic images.
        values: how to read each value that ``compute`` may return, by its name.
        needs: the parts of :class:`FeatureStatistics` that ``compute`` reads. With ``training`` among them, only
            ``snngan evaluate`` calls it, where the training images are known.
        min_images: smallest number of images of each side.
        logged_in_pixels: whether training logs the values where the features are pixels.

    Example:
        >>> @METRICS.register("mean_gap")                                         # doctest: +SKIP
        ... @partial(Metric, values={"mean_gap": MetricValue("distance of means", "lower is better")},
        ...          needs=("features",))
        ... def mean_gap(real, fake):
        ...     return {"mean_gap": float((real.features.mean(0) - fake.features.mean(0)).norm())}
    """

    compute: Callable[[FeatureStatistics, FeatureStatistics], Mapping[str, float | Estimate]]
    values: Mapping[str, MetricValue]
    needs: tuple[Literal["moments", "features", "images", "training"], ...]
    min_images: int = 2
    logged_in_pixels: bool = True


METRICS: Registry[Metric] = Registry("metric", "snngan.metrics", Metric)


def choose_metrics(names: Iterable[str] | None = None) -> dict[str, Metric]:
    """Return the metrics ``names``, or all, by name in the order of tables; raises ``ValueError`` for unknown names."""
    places = {name: place for place, name in enumerate(ORDER)}
    chosen = sorted(METRICS.names() if names is None else names, key=lambda name: places.get(name, len(places)))
    return {name: METRICS[name] for name in chosen}


def metric_values() -> dict[str, MetricValue]:
    """Return how to read each value of each metric, by name, in the order of tables."""
    return {name: value for metric in choose_metrics().values() for name, value in metric.values.items()}


def compute_metrics(
    metrics: Iterable[Metric], real: FeatureStatistics, fake: FeatureStatistics
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the values of ``metrics`` by name, and the 95 % intervals of those that have one."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for metric in metrics:
        for name, found in metric.compute(real, fake).items():
            values[name] = found.value if isinstance(found, Estimate) else found
            if isinstance(found, Estimate) and math.isfinite(found.low):
                intervals[name] = found.low, found.high
    return values, intervals


__getattr__, __dir__ = public_names(
    __name__,
    {
        "": "METRICS Estimate FeatureStatistics Metric MetricValue choose_metrics compute_metrics metric_values",
        "copying": "training_distances",
        "fid": "frechet_distance",
        "kid": "kernel_distance",
        "nearest_neighbor": "nearest_neighbor_accuracy",
        "prdc": "precision_recall_density_coverage",
    },
)
