"""The loss within groups: compared with the loops, with separate batches, and with one batch without groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference.snnl_loops import distances_loop, mean_distance_loop, snnl_loop
from torch import Tensor
from torch.testing import assert_close

from snngan import RelativeTemperature, SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import DISTANCES, build_pairwise_batch, build_real_fake_batch

pytestmark = pytest.mark.usefixtures("backend")
COUNT = 24
GROUPS = {
    "one": torch.zeros(COUNT, dtype=torch.int64),
    "two": torch.arange(COUNT) % 2,
    "ten of unequal sizes": (torch.arange(COUNT) * 7 % 23) % 10 - 3,
    "a large and a small one": (torch.arange(COUNT) < 3).long() * 5,
    "one side each": torch.arange(COUNT) // 6 % 2 * 10 + torch.arange(COUNT) // 12,
    "of one sample": torch.arange(COUNT),
}


def make_samples() -> tuple[Tensor, Tensor]:
    labels = torch.arange(COUNT) // 6 % 2
    rng = torch.Generator().manual_seed(0)
    return torch.randn(COUNT, 5, generator=rng, dtype=torch.float64) + labels[:, None], labels


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 50.0])
@pytest.mark.parametrize("name", GROUPS)
def test_loss_and_gradient_agree_with_the_loops(name: str, temperature: float, distance: Any) -> None:
    features, labels = make_samples()
    leaf, reference = features.clone().requires_grad_(), features.clone().requires_grad_()
    losses = snnl_loop(distances_loop(reference, distance), labels, temperature, GROUPS[name])
    expected = torch.stack([losses.get(i, features.sum() * 0) for i in range(COUNT)])
    weights = torch.linspace(1, 2, COUNT, dtype=torch.float64)
    found = soft_nearest_neighbor_loss(leaf, labels, temperature, distance, "none", groups=GROUPS[name])
    assert_close(found, expected, rtol=1e-9, atol=1e-8)
    mean = soft_nearest_neighbor_loss(features, labels, temperature, distance, groups=GROUPS[name])
    assert_close(mean, expected.detach().sum() / max(1, len(losses)), rtol=1e-9, atol=1e-8)
    if losses:
        (found @ weights).backward()
        (expected @ weights).backward()
        assert_close(leaf.grad, reference.grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", GROUPS)
def test_relative_temperatures_are_multiples_of_the_mean_within_groups(name: str) -> None:
    features, labels = make_samples()
    groups = GROUPS[name]
    distances = distances_loop(features)
    pairs = [(i, j) for i in range(COUNT) for j in range(COUNT) if i != j and groups[i] == groups[j]]
    mean = sum(float(distances[i][j]) for i, j in pairs) / max(1, len(pairs))
    batch = build_pairwise_batch(features, labels, groups=groups)
    assert float(batch.mean_distance) == pytest.approx(mean, rel=1e-9)
    if name == "one":
        assert mean == pytest.approx(mean_distance_loop(distances))
    if mean > 0:
        found = soft_nearest_neighbor_loss(features, labels, RelativeTemperature(0.1, 0.5), groups=groups)
        both = [soft_nearest_neighbor_loss(features, labels, factor * mean, groups=groups) for factor in (0.1, 0.5)]
        assert_close(found, sum(both) / 2)


@pytest.mark.parametrize("name", GROUPS)
def test_the_optimal_temperature_is_that_of_all_groups(name: str) -> None:
    features, labels = make_samples()
    found = soft_nearest_neighbor_loss(features, labels, "optimal", groups=GROUPS[name])
    grid = torch.logspace(-2, 4, 120).tolist()
    lowest = min(float(soft_nearest_neighbor_loss(features, labels, t, groups=GROUPS[name])) for t in grid)
    assert lowest * 0.99 - 1e-6 <= float(found) <= lowest + 1e-6


def test_one_group_is_a_batch_without_groups() -> None:
    features, labels = make_samples()
    for rule in (0.7, RelativeTemperature(0.2), "optimal"):
        without = soft_nearest_neighbor_loss(features, labels, rule)
        assert_close(soft_nearest_neighbor_loss(features, labels, rule, groups=GROUPS["one"]), without)


def test_module_counts_anchors_within_groups() -> None:
    features, labels = make_samples()
    criterion = SoftNearestNeighborLoss("learned")
    criterion(features, labels, GROUPS["of one sample"])
    assert (int(criterion.num_anchors), int(criterion.num_left_out)) == (0, COUNT)
    criterion(features, labels, GROUPS["two"])
    assert int(criterion.num_anchors) == COUNT


def test_empty_batch() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert soft_nearest_neighbor_loss(torch.zeros(0, 3), nothing, groups=nothing) == 0


@pytest.mark.parametrize("groups", [torch.zeros(3, dtype=torch.int64), torch.rand(COUNT), ["a"] * COUNT])
def test_wrong_groups_are_refused(groups: Any) -> None:
    with pytest.raises(ValueError, match="groups must be integers"):
        soft_nearest_neighbor_loss(*make_samples(), groups=groups)


@pytest.mark.parametrize("mean_of_real", [False, True])
def test_real_and_fake_samples_of_classes_equal_a_batch_of_each_class(mean_of_real: bool) -> None:
    """At a relative temperature of all, that is the mean of the distances in each class; sides may differ in size."""
    rng = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(count, 5, generator=rng, dtype=torch.float64) for count in (18, 9))
    classes = torch.arange(18) % 3, torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2])
    leaf, other = fake.clone().requires_grad_(), fake.clone().requires_grad_()
    batch = build_real_fake_batch(real, leaf, classes=classes, num_classes=3, mean_of_real=mean_of_real)
    parts = [build_real_fake_batch(real[classes[0] == each], other[classes[1] == each], mean_of_real=mean_of_real)
             for each in range(3)]  # fmt: skip
    mean = torch.stack([part.mean_distance for part in parts]).mean()
    assert_close(batch.mean_distance, mean)
    inverses = 1 / (torch.tensor([0.1, 0.5], dtype=torch.float64) * mean)
    odds, of_parts = log_odds(batch, inverses), [log_odds(part, inverses) for part in parts]
    for each, part in enumerate(of_parts):
        assert_close(odds[:, torch.cat(classes) == each], part)
    assert_close(batch.chance[:18], torch.full((18,), 3 / 5, dtype=torch.float64).log())
    assert_close(batch.chance[18:], torch.full((9,), 6 / 2, dtype=torch.float64).log())
    odds.square().sum().backward()
    torch.stack([part.square().sum() for part in of_parts]).sum().backward()
    assert_close(leaf.grad, other.grad)


def test_chance_is_the_log_odds_of_equal_distributions() -> None:
    """At an infinite temperature every neighbor counts alike."""
    batch = build_real_fake_batch(torch.randn(7, 2), torch.randn(4, 2))
    assert_close(log_odds(batch, torch.zeros(1, dtype=torch.float64))[0], batch.chance)
