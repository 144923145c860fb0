"""The entanglement of two sets: limits, parts, and comparison with the loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.snnl_loops import distances_loop, losses_at, mean_distance_loop, snnl_loop
from torch import Tensor
from torch.testing import assert_close

from snngan import entanglement
from snngan.losses.pairwise import DISTANCES, build_real_fake_batch

pytestmark = pytest.mark.usefixtures("backend")


def cloud(count: int, seed: int, dims: int = 3) -> Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_real", "num_fake"), [(200, 200), (200, 60), (30, 300)])
def test_two_samples_of_one_distribution_are_entangled(num_real: int, num_fake: int) -> None:
    result = entanglement(cloud(num_real, 0), cloud(num_fake, 1))
    assert 0.97 < result.score <= 1
    others = num_real + num_fake - 1
    # By chance alone, the kinds of an anchor's neighbors have the proportions of the two sets.
    assert result.real_anchors == pytest.approx(math.log(others / (num_real - 1)), rel=0.1)
    assert result.fake_anchors == pytest.approx(math.log(others / (num_fake - 1)), rel=0.1)


def test_distant_sets_have_score_0() -> None:
    result = entanglement(cloud(20, 0), cloud(30, 1) + 1000)
    assert (result.score, result.value, result.real_anchors, result.fake_anchors) == (0, 0, 0, 0)
    assert 0 < result.temperature < math.inf


def test_the_score_decreases_with_the_distance_of_the_sets() -> None:
    scores = [entanglement(cloud(100, 0), cloud(100, 1) + shift).score for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert scores[0] > 0.97 and scores[-1] < 0.05
    assert scores == sorted(scores, reverse=True)


def test_sets_that_repel_have_an_infinite_temperature() -> None:
    real, fake = torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [11.0]])
    result = entanglement(real, fake)
    assert result.score == 1
    assert result.temperature == math.inf
    assert result.value == pytest.approx(math.log(3))


def test_equal_samples() -> None:
    result = entanglement(torch.ones(4, 3), torch.ones(6, 3))
    assert result.score == 1
    assert result.temperature == math.inf
    assert result.real_anchors == pytest.approx(math.log(9 / 3))
    assert result.fake_anchors == pytest.approx(math.log(9 / 5))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("num_real", "num_fake", "shift"), [(8, 8, 1.5), (4, 11, 1.0), (12, 2, 0.5)])
def test_every_value_agrees_with_the_loops(num_real: int, num_fake: int, shift: float, distance: Any) -> None:
    real, fake = cloud(num_real, 5), cloud(num_fake, 6) + shift
    labels = torch.tensor([0] * num_real + [1] * num_fake)
    result = entanglement(real, fake, distance)
    distances = distances_loop(torch.cat([real, fake]), distance)
    losses = torch.stack(list(snnl_loop(distances, labels, result.temperature).values()))
    at_infinity = torch.stack(list(snnl_loop(distances, labels, math.inf).values())).mean()
    found = torch.tensor([result.value, result.score, result.real_anchors, result.fake_anchors], dtype=torch.float64)
    parts = [losses.mean(), losses.mean() / at_infinity, losses[:num_real].mean(), losses[num_real:].mean()]
    assert_close(found, torch.stack(parts), rtol=1e-5, atol=1e-6)
    matrix = torch.stack([torch.stack(row) for row in distances])
    inverses = torch.logspace(-3, 4, 500, dtype=torch.float64) / mean_distance_loop(distances)
    assert result.value <= losses_at(matrix, labels, inverses).min().item() + 1e-6


def test_collapsed_samples_have_low_loss() -> None:
    """The neighbors of a tight cloud amid the data are the cloud; few other samples have their own kind near."""
    wide, tight = cloud(100, 0), 0.1 * cloud(100, 2)
    collapsed, scattered = entanglement(wide, tight), entanglement(tight, wide)
    assert 0 < 10 * collapsed.fake_anchors < collapsed.real_anchors
    assert (scattered.fake_anchors, scattered.real_anchors) == pytest.approx(
        (collapsed.real_anchors, collapsed.fake_anchors), rel=1e-5
    )  # tiles round distances, up to 1000 T, to float32


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 1000), st.floats(0, 3))
def test_the_score_lies_in_0_to_1(num_real: int, num_fake: int, seed: int, shift: float) -> None:
    real, fake = cloud(num_real, seed, 2), cloud(num_fake, seed + 1, 2) + shift
    result, swapped = entanglement(real, fake), entanglement(fake, real)
    assert 0 <= result.score <= 1
    assert result.value >= 0
    assert result.temperature > 0
    assert (swapped.score, swapped.value) == pytest.approx((result.score, result.value), rel=1e-5, abs=1e-6)
    anchors = (num_real * result.real_anchors + num_fake * result.fake_anchors) / (num_real + num_fake)
    assert anchors == pytest.approx(result.value, rel=1e-5, abs=1e-7)


def test_images_and_gradients() -> None:
    real, fake = cloud(6, 0, 12).view(6, 3, 2, 2), cloud(5, 1, 12).view(5, 3, 2, 2).requires_grad_()
    assert entanglement(real, fake) == entanglement(real.flatten(1), fake.flatten(1))
    assert fake.grad is None


@pytest.mark.parametrize("mean_of_real", [False, True])
def test_relative_temperatures_are_relative_to_all_or_to_real_samples(mean_of_real: bool) -> None:
    real, fake = cloud(6, 0), cloud(5, 1) + 4
    batch = build_real_fake_batch(real, fake, mean_of_real=mean_of_real)
    measured = real if mean_of_real else torch.cat([real, fake])
    assert batch.mean_distance.item() == pytest.approx(mean_distance_loop(distances_loop(measured)))
    assert batch.is_anchor.all()
    assert batch.same_class[:6, :6].sum() == 30
    assert not batch.same_class[:6, 6:].any()


@pytest.mark.parametrize(
    ("real", "fake"), [((1, 3), (5, 3)), ((5, 3), (0, 3)), ((5, 3), (5, 4)), ((5, 2, 2), (5, 4)), ((5, 4), (5, 2, 2))]
)
def test_sets_of_different_shape_are_refused(real: tuple[int, ...], fake: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two sets of at least 2 samples of the same shape, got"):
        entanglement(torch.zeros(real), torch.zeros(fake))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    cloud = torch.randn(8, 2)
    broken = cloud.clone()
    broken[3, 1] = value
    for pair in ((cloud, broken), (broken, cloud)):
        with pytest.raises(ValueError, match="entanglement requires finite samples"):
            entanglement(*pair)
