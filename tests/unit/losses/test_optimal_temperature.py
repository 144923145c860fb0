"""The optimal temperature: no other T, low, high or infinite, gives a lower loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from reference.batches import NAMES, make_batch
from reference.snnl_loops import distances_loop, losses_at
from torch import Tensor
from torch.testing import assert_close

from snngan import LearnedTemperature, OptimalTemperature, RelativeTemperature, soft_nearest_neighbor_loss
from snngan.losses.optimal_temperature import optimal_inverse_temperature, slope_by_log_inverse
from snngan.losses.pairwise import build_pairwise_batch

pytestmark = pytest.mark.usefixtures("backend")


def sweep(features: Tensor, labels: Tensor, count: int = 10_000) -> tuple[Tensor, Tensor]:
    """Return inverse temperatures (count + 1,), 0 and 1e-7 to 1e6 over the mean distance, and the losses at them."""
    features = features.double()
    distances = (features[:, None] - features).square().sum(2)
    mean = distances.sum() / max(1, len(features) * (len(features) - 1))
    inverses = torch.logspace(-7, 6, count, dtype=torch.float64) / (mean if mean > 0 else 1)
    inverses = torch.cat([torch.zeros(1, dtype=torch.float64), inverses])
    return inverses, torch.cat([losses_at(distances, labels, part) for part in inverses.split(1000)])


def assert_no_temperature_is_better(features: Tensor, labels: Tensor, count: int = 10_000) -> None:
    _, losses = sweep(features, labels, count)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        value = soft_nearest_neighbor_loss(features.to(dtype), labels, "optimal")
        assert value.dtype == dtype
        assert value >= 0
        assert value.item() <= losses.min().item() + tolerance


def clustered(rng: torch.Generator, count: int, dims: int) -> Tensor:
    means = 10 * torch.randn(4, dims, generator=rng)
    return means[torch.randint(0, 4, (count,), generator=rng)] + torch.randn(count, dims, generator=rng)


def near_duplicated(rng: torch.Generator, count: int, dims: int) -> Tensor:
    rows = torch.randint(0, max(1, count // 2), (count,), generator=rng)
    noise = 10 ** (-3 * torch.rand(count, 1, generator=rng)) * torch.randn(count, dims, generator=rng)
    return torch.randn(count, dims, generator=rng)[rows] + noise


def heavy_tailed(rng: torch.Generator, count: int, dims: int) -> Tensor:
    features = torch.randn(count, dims, generator=rng)
    return features.sign() * (3 * features).abs().exp()


def many_scales(rng: torch.Generator, count: int, dims: int) -> Tensor:
    return 10 ** (1.5 * torch.randn(count, 1, generator=rng)) * torch.randn(count, dims, generator=rng)


def on_a_lattice(rng: torch.Generator, count: int, dims: int) -> Tensor:
    """Many equal distances, and duplicates."""
    return torch.randint(0, 4, (count, dims), generator=rng).float()


KINDS = [clustered, near_duplicated, heavy_tailed, many_scales, on_a_lattice]


@pytest.mark.parametrize("kind", KINDS)
def test_small_random_batches(kind: Callable[[torch.Generator, int, int], Tensor]) -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(8):
        count, dims, num_classes = (int(torch.randint(low, high, (), generator=rng)) for low, high in SIZES)
        features = kind(rng, count, dims)
        assert_no_temperature_is_better(features, torch.randint(0, num_classes, (count,), generator=rng))


SIZES = ((2, 13), (1, 5), (1, 5))
"""Bounds of the number of samples, of dimensions and of classes."""


@pytest.mark.parametrize("kind", KINDS)
def test_large_random_batches(kind: Callable[[torch.Generator, int, int], Tensor]) -> None:
    """Above ``SMALL_BATCH`` the grid is coarser, and in float32."""
    rng = torch.Generator().manual_seed(0)
    for num_classes in (2, 20):
        features, labels = kind(rng, 150, 3), torch.randint(0, num_classes, (150,), generator=rng)
        assert_no_temperature_is_better(features + (2 if num_classes == 2 else 0) * labels[:, None], labels, 120)


@pytest.mark.parametrize("name", NAMES)
def test_named_batches(name: str) -> None:
    assert_no_temperature_is_better(*make_batch(name), 2000)


def test_value_is_the_loss_at_the_temperature() -> None:
    for name in NAMES:
        features, labels = make_batch(name)
        inverse = optimal_inverse_temperature(build_pairwise_batch(features.double(), labels))
        assert inverse.shape == ()
        assert inverse.dtype == torch.float64
        assert 0 <= inverse < math.inf
        distances = torch.stack([torch.stack(row) for row in distances_loop(features)])
        expected = losses_at(distances, labels, inverse.reshape(1))[0]
        assert_close(soft_nearest_neighbor_loss(features.double(), labels, "optimal"), expected, rtol=1e-9, atol=1e-9)


def test_separate_classes_have_loss_0() -> None:
    features, labels = make_batch("separable")
    assert soft_nearest_neighbor_loss(features, labels, "optimal").item() == 0
    assert 0 < OptimalTemperature()(build_pairwise_batch(features, labels)).item() < math.inf


@pytest.mark.parametrize("features", [torch.ones(9, 4), torch.eye(9)], ids=["all 0", "all equal"])
def test_equal_distances_give_the_loss_of_counting(features: Tensor) -> None:
    value = soft_nearest_neighbor_loss(features, torch.arange(9) % 2, "optimal")
    assert_close(value, torch.tensor((5 * math.log(8 / 4) + 4 * math.log(8 / 3)) / 9), rtol=1e-6, atol=0)


def test_classes_that_repel_have_an_infinite_optimal_temperature() -> None:
    """The nearest neighbor of each anchor is of the other class: any finite T has a higher loss."""
    features = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert OptimalTemperature()(build_pairwise_batch(features, torch.tensor([0, 1, 0, 1]))).item() == 0
    value = soft_nearest_neighbor_loss(features, torch.tensor([0, 1, 0, 1]), "optimal")
    assert_close(value, torch.tensor(math.log(3)))


TWO_MINIMA = (
    torch.tensor([7.0, 8.0, 11.0, 23.0, 37.0, 47.0, 427.0, 509.0])[:, None],
    torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]),
)
"""Three batch and a distant one: a high T sees two clouds, a low T the batch; T between them is worse than both."""


def test_the_lower_one_of_two_minima_is_found() -> None:
    features, labels = TWO_MINIMA
    inverses, losses = sweep(features, labels)
    is_minimum = (losses[1:-1] < losses[:-2]) & (losses[1:-1] < losses[2:])
    high, low = (is_minimum.nonzero().flatten() + 1).tolist()
    assert losses[low] + 0.05 < losses[high] < losses[0] - 0.05

    found = optimal_inverse_temperature(build_pairwise_batch(features.double(), labels))
    assert_close(found, inverses[low], rtol=3e-3, atol=0)  # as close as the sweep is fine
    assert_close(soft_nearest_neighbor_loss(features, labels, "optimal").double(), losses[low], rtol=1e-5, atol=0)

    descent, batch = LearnedTemperature(1.0, step=1.0), build_pairwise_batch(features, labels)
    for _ in range(600):
        reached = descent(batch)
    assert_close(reached[0], inverses[high], rtol=3e-3, atol=0)


def test_a_narrow_minimum_is_not_skipped() -> None:
    """Two slopes within one halving of T: a grid of whole halvings ends 4e-5 above the minimum."""
    features = torch.tensor([1.0, 5.0, 31.0, 2.0, 451.0, 1.0, 10.0])[:, None]
    assert_no_temperature_is_better(features, torch.tensor([1, 1, 0, 1, 0, 0, 0]))


def test_cosine_distance() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 3
    features = torch.randn(12, 4, generator=rng) + torch.randn(3, 4, generator=rng)[labels]
    values = [
        soft_nearest_neighbor_loss(features, labels, RelativeTemperature(10.0 ** (k / 10)), "cosine")
        for k in range(-60, 60)
    ]
    optimal = soft_nearest_neighbor_loss(features, labels, "optimal", "cosine")
    assert min(values) - 0.01 < optimal <= min(values) + 1e-6


def test_slope_agrees_with_finite_differences() -> None:
    for name in NAMES:
        features, labels = make_batch(name)
        batch = build_pairwise_batch(features.double(), labels)
        inverses = torch.logspace(-3, 2, 6, dtype=torch.float64) / batch.mean_distance
        for inverse in inverses:
            steps = inverse * torch.exp(torch.tensor([-1e-4, 1e-4], dtype=torch.float64))
            low, high = losses_at(batch.distances, labels, steps)
            expected = (high - low) / 2e-4
            assert_close(slope_by_log_inverse(batch, inverse), expected, rtol=1e-5, atol=1e-7)
    assert slope_by_log_inverse(build_pairwise_batch(torch.ones(4, 2), torch.arange(4) % 2), torch.ones(())) == 0


@pytest.mark.parametrize("shape", [(5, 5), (7, 2)])
def test_equal_directions_give_the_loss_of_counting(shape: tuple[int, int]) -> None:
    """Their cosine distances are above 0 by rounding in float64, and 0 in tiles of float32."""
    features, labels = torch.ones(shape), torch.arange(shape[0]) % 2
    values = [soft_nearest_neighbor_loss(features, labels, rule, "cosine") for rule in ("optimal", math.inf)]
    assert_close(*values)
