"""Entanglement: the soft nearest neighbor score of real and synthetic features, and of the images themselves."""

from __future__ import annotations

from functools import partial

from snngan.data import to_unit_range
from snngan.losses.snnl import entanglement as entanglement_of_sides
from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue


@METRICS.register("entanglement")
@partial(
    Metric,
    values={
        f"entanglement_{space}{part}": value
        for space, where in (("features", "in features"), ("input", "in pixels"))
        for part, value in {
            "": MetricValue(f"soft nearest neighbor score {where}", "higher is better"),
            "_real_anchors": MetricValue(f"loss of real anchors {where}", "0.693 is ideal"),
            "_fake_anchors": MetricValue(f"loss of synthetic anchors {where}", "0.693 is ideal"),
        }.items()
    },
    needs=("features", "images"),
    logged_in_pixels=False,  # a run logs that of its pixels as entanglement/* already
)
def entanglement(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
    """Return score and loss of both groups of anchors in features and, where images have one shape, in pixels."""
    spaces = {"features": (real.features, fake.features)}
    if len(real.images) and real.images.shape[1:] == fake.images.shape[1:]:
        spaces["input"] = to_unit_range(real.images), to_unit_range(fake.images)
    values: dict[str, float] = {}
    for space, sides in spaces.items():
        found = entanglement_of_sides(*sides)
        values[f"entanglement_{space}"] = found.score
        values[f"entanglement_{space}_real_anchors"] = found.real_anchors
        values[f"entanglement_{space}_fake_anchors"] = found.fake_anchors
    return values
