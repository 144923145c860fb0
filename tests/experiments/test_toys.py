"""Points of the plane: what is drawn, what is measured, and that the way is a descent."""

from __future__ import annotations

import pytest
import torch

from snngan.experiments.toy_gaussian import ToyGaussian, drawn, measured


def test_two_modes_a_class_lie_opposite_each_other() -> None:
    points, labels, mode = drawn(4000, 4, 2, 0)
    assert torch.bincount(labels).tolist() == [1000] * 4
    for label in range(4):
        first, second = (points[(labels == label) & (mode == number)].mean(0) for number in (0, 1))
        torch.testing.assert_close(first, -second, rtol=0, atol=0.15)
        assert float(first.norm()) == pytest.approx(3, abs=0.15)
    assert float(drawn(4000, 4, 1, 0)[0].std()) == pytest.approx(1, abs=0.05)


def test_what_is_measured() -> None:
    """Two classes of two far clusters each, then the same with one class's clusters joined."""
    corners = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    place = torch.arange(80) % 4
    points = corners[place] + 0.1 * torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    labels, mode = place // 2, place % 2
    found = measured(points, labels, mode)
    assert found["entanglement"] == pytest.approx(0, abs=1e-3)
    assert (found["clusters"], found["modes kept"]) == (2, 1)
    joined = points.clone()
    joined[place == 3] += torch.tensor([-9.0, 9.0])
    found = measured(joined, labels, mode)
    assert found["clusters"] == 1.5
    assert 0.4 < found["modes kept"] < 0.6
    assert "modes kept" not in measured(points, labels, mode * 0)


def test_the_way_lowers_the_loss_and_knows_no_unit_of_length() -> None:
    points, labels, mode = drawn(80, 4, 2, 1)
    experiment = ToyGaussian(seeds=1, steps=60, frames=5)
    way = experiment.way(points, labels)
    assert len(way) == 5
    assert torch.equal(way[0], points)
    values = [measured(place, labels, mode)["entanglement"] for place in way]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 2
    torch.testing.assert_close(experiment.way(points * 8, labels)[-1], way[-1] * 8, rtol=1e-3, atol=1e-3)
