"""What every registered metric must satisfy, and that a metric of one's own works everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch

from snngan.evaluation.features import Pixels
from snngan.evaluation.measure import evaluate_sources
from snngan.evaluation.sources import array_source
from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue, choose_metrics, compute_metrics
from snngan.training.tags import describe_tag


def statistics(count: int, shift: float, seed: int) -> FeatureStatistics:
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift
    return FeatureStatistics.from_features(features, features.view(-1, 1, 2, 3))


def real_statistics(count: int) -> FeatureStatistics:
    return replace(statistics(count, 0, 0), training=statistics(200, 0, 3))


@pytest.mark.parametrize("name", METRICS.names())
def test_values_are_described_and_better_ones_are_better(name: str) -> None:
    real, near, far = real_statistics(60), statistics(60, 0, 1), statistics(60, 2, 2)
    near_values, far_values = (compute_metrics([METRICS[name]], real, fake)[0] for fake in (near, far))
    assert set(near_values) == set(METRICS[name].values)
    for key, value in METRICS[name].values.items():
        assert describe_tag(key) == f"{value.title}; {value.direction}"
        word, _, rest = value.direction.partition(" ")
        if rest == "is better":
            assert (near_values[key] > far_values[key]) == (word == "higher")
        else:
            assert rest == "is ideal"
            assert abs(near_values[key] - float(word)) < abs(far_values[key] - float(word))


@pytest.mark.parametrize("name", METRICS.names())
def test_only_what_is_declared_is_read(name: str) -> None:
    metric = METRICS[name]
    sides = real_statistics(40), statistics(30, 0, 1)
    expected = metric.compute(*sides)
    for side in sides:
        side.moments = side.moments if "moments" in metric.needs else None
        side.features = side.features if "features" in metric.needs else torch.empty(0, 6)
        side.images = side.images if "images" in metric.needs else torch.empty(0)
        side.training = side.training if "training" in metric.needs else None
    assert metric.compute(*sides) == expected


@pytest.fixture
def mean_gap() -> Iterator[None]:
    @METRICS.register("mean_gap")
    @partial(Metric, values={"mean_gap": MetricValue("distance of the means", "lower is better")}, needs=("features",))
    def compute(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
        return {"mean_gap": float((real.features.mean(0) - fake.features.mean(0)).norm())}

    yield
    del METRICS._entries["mean_gap"]


@pytest.mark.usefixtures("mean_gap")
def test_a_registered_metric_is_used_everywhere_after_the_others() -> None:
    assert tuple(choose_metrics()) == ("fid", "kid", "prdc", "1nn", "entanglement", "copying", "mean_gap")
    real, fake = (array_source("some", torch.full((9, 1, 2, 2), level, dtype=torch.uint8)) for level in (0, 255))
    found = evaluate_sources(fake, real, Pixels(), count=9)
    assert found.metrics["mean_gap"] == 4
    assert any(line.split() == ["mean_gap", "(pixels)", "4", "lower", "is", "better"] for line in found.lines())
    assert describe_tag("metrics/pixels/mean_gap") == "distance of the means; lower is better; in pixels"
