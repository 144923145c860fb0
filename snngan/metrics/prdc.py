"""Precision, recall, density and coverage: who lies within reach of whom in a feature space."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from snngan.metrics import METRICS, FeatureStatistics, Metric, MetricValue
from snngan.metrics.distances import NEIGHBORS, center, own_distance_rows, squared_distance_rows


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = NEIGHBORS) -> dict[str, float]:
    """Return the four metrics of features ``real`` (N, D) and ``fake`` (M, D).

    The reach of an image is the distance of its k-th nearest neighbor on its own side.

    - precision: share of synthetic images within reach of a real one (Kynkaanniemi et al. 2019, eq. 1 and 2)
    - recall: share of real images within reach of a synthetic one
    - density: mean number of real images with a given synthetic one within reach, over k (Naeem et al. 2020, eq. 4)
    - coverage: share of real images with a synthetic one within their reach (Naeem et al. 2020, eq. 5)

    Raises:
        ValueError: fewer than k + 1 images on a side.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{k} nearest neighbors need {k + 1} images per side, got {len(real)} and {len(fake)}")
    real, fake = center(real, fake)
    real_reach, fake_reach = (_squared_reach(side, k) for side in (real, fake))
    num_reaching = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    num_recalled, num_covered = 0, 0
    for rows, distances in squared_distance_rows(real, fake):
        inside = distances <= real_reach[rows, None]
        num_reaching += inside.sum(0)
        num_covered += int(inside.any(1).sum())
        num_recalled += int((distances <= fake_reach).any(1).sum())
    return {
        "precision": float((num_reaching > 0).double().mean()),
        "recall": num_recalled / len(real),
        "density": float(num_reaching.sum()) / (k * len(fake)),
        "coverage": num_covered / len(real),
    }


def recall_by_class(real: Tensor, fake: Tensor, labels: Tensor, k: int = NEIGHBORS) -> dict[int, float]:
    """Return the recall of each class: the share of its ``real`` images within reach of a synthetic one.

    Args:
        real: features (N, D).
        fake: features (M, D), of all classes.
        labels: (N,) integers, the classes of the real images.
        k: the reach of an image is the distance of its k-th nearest neighbor on its own side.
    """
    real, fake = center(real, fake)
    fake_reach = _squared_reach(fake, k)
    rows = [(distances <= fake_reach).any(1) for _, distances in squared_distance_rows(real, fake)]
    recalled = torch.cat(rows).double()
    return {int(each): float(recalled[labels == each].mean()) for each in labels.unique()}  # type: ignore[no-untyped-call]


def _squared_reach(features: Tensor, k: int) -> Tensor:
    """Return the squared distance (N,) of each image's k-th nearest neighbor, itself not counted."""
    return torch.cat([distances.kthvalue(k, dim=1).values for _, distances in own_distance_rows(features)])


@METRICS.register("prdc")
@partial(
    Metric,
    values={
        "precision": MetricValue("share of samples within reach of a real image", "higher is better"),
        "recall": MetricValue("share of real images within reach of a sample", "higher is better"),
        "density": MetricValue("real images that reach a sample, over 5", "1 is ideal"),
        "coverage": MetricValue("share of real images that reach a sample", "higher is better"),
    },
    needs=("features",),
    min_images=NEIGHBORS + 1,
)
def prdc(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
    """Return precision, recall, density and coverage of the features that are compared pairwise."""
    return precision_recall_density_coverage(real.features, fake.features)
