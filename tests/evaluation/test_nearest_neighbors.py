from __future__ import annotations

import pytest
import torch
from snngan.evaluation.nearest_neighbors import neighbor_figures
from torch import Tensor

from snngan.evaluation import nearest_neighbors as neighbors


def figures_loop(real: Tensor, fake: Tensor, k: int) -> list[float]:
    def distance(x: Tensor, y: Tensor) -> float:
        return (x.double() - y.double()).square().sum().item()

    def reach(side: Tensor, i: int) -> float:
        return sorted(distance(side[i], side[j]) for j in range(len(side)) if j != i)[k - 1]

    real_reach = [reach(real, i) for i in range(len(real))]
    fake_reach = [reach(fake, i) for i in range(len(fake))]
    near = [[distance(x, y) for y in fake] for x in real]
    precision = sum(any(near[i][j] <= real_reach[i] for i in range(len(real))) for j in range(len(fake))) / len(fake)
    recall = sum(any(near[i][j] <= fake_reach[j] for j in range(len(fake))) for i in range(len(real))) / len(real)
    density = sum(near[i][j] <= real_reach[i] for i in range(len(real)) for j in range(len(fake))) / (k * len(fake))
    coverage = sum(min(row) <= reach for row, reach in zip(near, real_reach, strict=True)) / len(real)
    size = min(len(real), len(fake))
    own = []
    for side, other in ((real[:size], fake[:size]), (fake[:size], real[:size])):
        right = 0
        for i in range(size):
            nearest = min(distance(side[i], side[j]) for j in range(size) if j != i)
            right += nearest < min(distance(side[i], y) for y in other)
        own.append(right / size)
    return [precision, recall, density, coverage, sum(own) / 2, *own]


@pytest.mark.parametrize("counts", [(40, 40), (25, 40), (40, 23)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 100.0])
def test_they_are_those_of_the_loops(counts: tuple[int, int], shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "ROWS", 16)
    rng = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(count, 3, generator=rng) for count in counts)
    found = neighbor_figures(real, fake + shift, k=3)
    names = ("precision", "recall", "density", "coverage", "accuracy", "real_accuracy", "fake_accuracy")
    assert [getattr(found, name) for name in names] == pytest.approx(figures_loop(real, fake + shift, 3))


def test_the_same_points_twice_are_perfect_and_indistinguishable() -> None:
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    found = neighbor_figures(points, points)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.accuracy == 0  # each point's nearest is its twin on the other side


def test_constant_images_are_as_near_to_one_side_as_to_the_other() -> None:
    found = neighbor_figures(torch.ones(10, 2), torch.ones(12, 2))
    assert found.accuracy == 0.5


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="6 points a side, not 5 and 9"):
        neighbor_figures(torch.zeros(5, 2), torch.zeros(9, 2))
