"""Points of the plane: their distribution, their measures, and their path to a lower loss."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from snngan.experiments.points import (
    ToyGaussian,
    TripletComparison,
    mean_squared_distance,
    measure_modes,
    ringness,
    sample_points,
)


def test_two_modes_a_class_lie_opposite_each_other() -> None:
    points, labels, mode = sample_points(4000, 4, 2, 0)
    assert torch.bincount(labels).tolist() == [1000] * 4
    for label in range(4):
        first, second = (points[(labels == label) & (mode == number)].mean(0) for number in (0, 1))
        torch.testing.assert_close(first, -second, rtol=0, atol=0.15)
        assert float(first.norm()) == pytest.approx(3, abs=0.15)
    assert float(sample_points(4000, 4, 1, 0)[0].std()) == pytest.approx(1, abs=0.05)


def test_measures() -> None:
    """Two classes of two far clusters each, then the same with one class's clusters joined."""
    corners = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    place = torch.arange(80) % 4
    points = corners[place] + 0.1 * torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    labels, mode = place // 2, place % 2
    found = measure_modes(points, labels, mode)
    assert found["entanglement"] == pytest.approx(0, abs=1e-3)
    assert (found["clusters"], found["modes kept"]) == (2, 1)
    joined = points.clone()
    joined[place == 3] += torch.tensor([-9.0, 9.0])
    found = measure_modes(joined, labels, mode)
    assert found["clusters"] == 1.5
    assert 0.4 < found["modes kept"] < 0.6
    assert "modes kept" not in measure_modes(points, labels, mode * 0)


def test_descent_lowers_the_loss_and_is_independent_of_the_unit() -> None:
    points, labels, mode = sample_points(80, 4, 2, 1)
    experiment = ToyGaussian(seeds=1, steps=60, frames=5)
    path = experiment.descend(points, labels)
    assert len(path) == 5
    assert torch.equal(path[0], points)
    values = [measure_modes(place, labels, mode)["entanglement"] for place in path]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 2
    torch.testing.assert_close(experiment.descend(points * 8, labels)[-1], path[-1] * 8, rtol=1e-3, atol=1e-3)


def test_ring_and_disc_differ_by_radius_variance_over_area() -> None:
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(4000, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    disc = ring * torch.rand(4000, 1, generator=generator).sqrt()
    assert ringness(ring + 5) == pytest.approx(0, abs=1e-3)
    assert ringness(disc) == pytest.approx(1 / (18 * math.pi), rel=0.05)
    assert ringness(7 * disc) == pytest.approx(ringness(disc), rel=1e-4)
    assert ringness(torch.stack([torch.arange(9.0), torch.arange(9.0)], 1)) > 1e3  # on a line: no area


def test_all_points_move_by_the_same_distance_down_or_up_the_loss() -> None:
    points, labels, _ = sample_points(40, 4, 1, 0)
    experiment = TripletComparison(seeds=1, steps=30, frames=200)
    unit = mean_squared_distance(points)
    for name, loss in experiment.losses(points, labels).items():
        for sign in (1, -1):
            path = experiment.move(points, loss, sign)
            if "optimal" not in name:  # where the start may be a maximum already
                assert sign * float(loss(path[-1])) < sign * float(loss(points))
            for number, (before, after) in enumerate(pairwise(path)):
                moved = (after - before).norm(dim=1)
                rest = 0.025 * math.sqrt(unit) * (1 - number / 30)
                assert float(moved.amax()) <= rest * 1.001
                if "optimal" not in name:  # all but points whose gradient vanishes
                    assert float(moved.median()) == pytest.approx(rest, rel=1e-3)
            larger = experiment.losses(points * 8, labels)[name]
            end = experiment.move(points * 8, larger, sign)[-1]
            torch.testing.assert_close(end, path[-1] * 8, rtol=1e-2, atol=1e-2)
