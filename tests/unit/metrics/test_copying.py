"""Distances to the nearest training images against loops, and what copies and held-out images give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from snngan.metrics import FeatureStatistics, distances
from snngan.metrics.copying import copying, training_distances
from snngan.metrics.distances import find_nearest


def vectors(count: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) + 50


def nearest_by_loops(images: Tensor, training: Tensor, k: int) -> tuple[list[list[float]], list[list[int]]]:
    found = [sorted((float((a.double() - b.double()).norm()), n) for n, b in enumerate(training)) for a in images]
    return [[distance for distance, _ in each[:k]] for each in found], [[n for _, n in each[:k]] for each in found]


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_nearest_equal_loops(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a block of training images holds fewer than k."""
    monkeypatch.setattr(distances, "ROWS", 16)
    images, training = vectors(21, 0), vectors(37, 1)
    found, indices = find_nearest(images, training, k)
    expected, expected_indices = nearest_by_loops(images, training, k)
    assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert indices.tolist() == expected_indices


def test_images_have_the_distances_of_their_pixels() -> None:
    images, training = (torch.full((1, 1, 2, 2), level, dtype=torch.uint8) for level in (0, 255))
    assert find_nearest(images, training)[0].item() == pytest.approx(4)  # four pixels from -1 to 1


@pytest.mark.parametrize(("num_real", "num_fake"), [(30, 30), (30, 41), (50, 30)])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.3])
def test_values_equal_loops(num_real: int, num_fake: int, scale: float) -> None:
    training, real, fake = vectors(60, 0), vectors(num_real, 1), vectors(num_fake, 2, scale)
    near, near_fake = (np.ravel(nearest_by_loops(side[:30], training, 1)[0]) for side in (real, fake))
    bound = np.quantile(near, 0.05)
    expected = np.median(near_fake) / np.median(near), sum(each < bound for each in near_fake) / 30
    assert training_distances(training, real, fake) == pytest.approx(expected)


def test_copies_and_held_out_images() -> None:
    training, real, fake = vectors(900, 0), vectors(1000, 1), vectors(1000, 2)
    assert training_distances(training, real, training) == pytest.approx((0, 1), abs=1e-5)
    ratio, share = training_distances(training, real, fake)
    assert ratio == pytest.approx(1, abs=4 * 0.025)  # standard error of the ratio of two medians of 1000 distances
    assert share == pytest.approx(0.05, abs=4 * 0.01)  # that of the share: (2 * 0.05 * 0.95 / 1000) ** 0.5
    some_copies = torch.cat([training[:100], fake[100:]])
    ratio, share = training_distances(training, real, some_copies)
    assert ratio > 0.8
    assert share == pytest.approx(0.1 + 0.9 * 0.05, abs=0.04)


def test_values_by_space() -> None:
    """Where the features are the pixels, these are measured once; images of two shapes have no distance in pixels."""

    def statistics(seed: int, shape: tuple[int, ...] = (1, 1, 3)) -> FeatureStatistics:
        return FeatureStatistics(None, vectors(30, seed), vectors(30, seed + 9).view(-1, *shape))

    def values(parts: list[Tensor]) -> tuple[float, float]:
        return training_distances(parts[2], parts[0], parts[1])

    sides = statistics(0), statistics(1), statistics(2)
    real, fake, training = sides
    real.training = training
    found = copying.compute(real, fake)
    assert (found["nearest_features"], found["copies_features"]) == values([each.features for each in sides])
    assert (found["nearest_input"], found["copies_input"]) == values([each.images for each in sides])
    assert set(copying.compute(real, statistics(1, (1, 3, 1)))) == {"nearest_features", "copies_features"}
    real.training = FeatureStatistics(None, training.images, training.images)
    real.images = fake.images = torch.empty(0)
    found = copying.compute(real, fake)
    assert found["nearest_features"] == found["nearest_input"]
    assert found["copies_features"] == found["copies_input"]
