from __future__ import annotations

import pytest
import torch
from torch import Tensor

from snngan.metrics import distances
from snngan.metrics.nearest_neighbor import nearest_neighbor_accuracy
from snngan.metrics.prdc import precision_recall_density_coverage


def values_by_loops(real: Tensor, fake: Tensor, k: int) -> list[float]:
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
def test_equal_loops(counts: tuple[int, int], shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ROWS", 16)
    rng = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(count, 3, generator=rng) for count in counts)
    prdc = precision_recall_density_coverage(real, fake + shift, k=3)
    assert list(prdc) == ["precision", "recall", "density", "coverage"]
    found = [*prdc.values(), *nearest_neighbor_accuracy(real, fake + shift)]
    assert found == pytest.approx(values_by_loops(real, fake + shift, 3))


def test_equal_sets() -> None:
    features = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    found = precision_recall_density_coverage(features, features)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert nearest_neighbor_accuracy(features, features)[0] == 0  # the nearest neighbor is the copy on the other side


def test_constant_images_are_as_near_to_one_side_as_to_the_other() -> None:
    assert nearest_neighbor_accuracy(torch.ones(10, 2), torch.ones(12, 2)) == (0.5, 0.5, 0.5)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="5 nearest neighbors need 6 images per side, got 5 and 9"):
        precision_recall_density_coverage(torch.zeros(5, 2), torch.zeros(9, 2))
