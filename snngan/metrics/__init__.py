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


@dataclass
class FeatureStatistics:
    """What a metric may use of one set of images.

    Attributes:
        moments: count, mean and covariance of the features of all images; None where no chosen metric needs them.
        features: (n, D) features of the first images, those that are compared pairwise.
        images: (n, C, H, W) these images, uint8 or 2-D points; empty where no chosen metric needs them.
    """

    moments: Moments | None
    features: Tensor
    images: Tensor

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


class Sizes(NamedTuple):
    """How much a metric is given: what its memory depends on."""

    counts: tuple[int, int]
    """Number of synthetic and of real images."""
    dims: int
    """Number of features of an image."""
    pairwise_count: int
    """Number of images of each side that are compared pairwise."""
    pixels: int
    """Number of values of an image: channels x height x width."""


@dataclass(frozen=True)
class MetricValue:
    """How to read one number that a metric returns."""

    title: str
    """What it measures, for tables and plots."""
    direction: str
    """``lower is better``, ``higher is better`` or ``NUMBER is ideal``."""
    low: float = 0.0
    """Lowest possible value."""
    high: float = math.inf
    """Highest possible value."""


@dataclass(frozen=True)
class Metric:
    """A function of real and synthetic :class:`FeatureStatistics`, with what callers must know about it.

    Attributes:
        compute: returns values by name, given the statistics of the real and of the synthetic images.
        values: how to read each value that ``compute`` may return, by its name.
        needs: the parts of :class:`FeatureStatistics` that ``compute`` reads.
        peak_bytes: returns a lower bound of the memory that ``compute`` takes beside the statistics.
        min_images: smallest number of images of each side.
        works_in_pixels: whether the values are logged in training where the features are pixels.
        position: place in tables; lower comes first.

    Example:
        >>> @METRICS.register("mean-gap")                                         # doctest: +SKIP
        ... @partial(Metric, values={"mean_gap": MetricValue("distance of means", "lower is better")},
        ...          needs=("features",))
        ... def mean_gap(real, fake):
        ...     return {"mean_gap": float((real.features.mean(0) - fake.features.mean(0)).norm())}
    """

    compute: Callable[[FeatureStatistics, FeatureStatistics], Mapping[str, float | Estimate]]
    values: Mapping[str, MetricValue]
    needs: tuple[Literal["moments", "features", "images"], ...]
    peak_bytes: Callable[[Sizes], float] = lambda sizes: 0.0
    min_images: int = 2
    works_in_pixels: bool = True
    position: int = 100


METRICS: Registry[Metric] = Registry("metric", "snngan.metrics", Metric)


def choose_metrics(names: Iterable[str] | None = None) -> dict[str, Metric]:
    """Return the metrics ``names``, or all of them, by name in the order of tables.

    Raises:
        ValueError: a name is unknown.
    """
    found = {name: METRICS[name] for name in (METRICS.names() if names is None else names)}
    return dict(sorted(found.items(), key=lambda item: item[1].position))


def metric_values() -> dict[str, MetricValue]:
    """Return how to read each value of each metric, by name, in the order of tables."""
    return {name: value for metric in choose_metrics().values() for name, value in metric.values.items()}


def compute_metrics(
    metrics: Iterable[Metric], real: FeatureStatistics, fake: FeatureStatistics
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the values of ``metrics`` by name, and the 95 % intervals of those that have one."""
    found = {name: value for metric in metrics for name, value in metric.compute(real, fake).items()}
    values = {name: value.value if isinstance(value, Estimate) else value for name, value in found.items()}
    estimates = {name: value for name, value in found.items() if isinstance(value, Estimate)}
    return values, {name: (low, high) for name, (_, low, high) in estimates.items() if math.isfinite(low)}


__getattr__, __dir__ = public_names(
    __name__,
    {
        "": "METRICS Estimate FeatureStatistics Metric MetricValue Sizes choose_metrics compute_metrics metric_values",
        "fid": "frechet_distance",
        "kid": "kernel_distance",
        "nearest_neighbor": "nearest_neighbor_accuracy",
        "prdc": "precision_recall_density_coverage",
    },
)
