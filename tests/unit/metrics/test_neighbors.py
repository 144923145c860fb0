"""Precision, recall, density and coverage against the package prdc, and 1-NN accuracy against loops."""

from __future__ import annotations

import pytest
import torch
from prdc import compute_prdc
from torch import Tensor

from snngan.metrics import distances
from snngan.metrics.nearest_neighbor import nearest_neighbor_accuracy
from snngan.metrics.prdc import precision_recall_density_coverage


def accuracy_by_loops(side: Tensor, other: Tensor) -> float:
    size = min(len(side), len(other))
    side, other = side[:size].double(), other[:size].double()
    right = 0
    for i in range(size):
        nearest = min((side[i] - side[j]).norm() for j in range(size) if j != i)
        right += bool(nearest < min((side[i] - each).norm() for each in other))
    return right / size


@pytest.mark.parametrize("counts", [(40, 40), (25, 40), (40, 23)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 100.0])
def test_equal_references(counts: tuple[int, int], shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ROWS", 16)
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(counts[0], 3, generator=rng), torch.randn(counts[1], 3, generator=rng) + shift
    found = precision_recall_density_coverage(real, fake, k=3)
    assert found == pytest.approx(compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=3))
    own = accuracy_by_loops(real, fake), accuracy_by_loops(fake, real)
    assert nearest_neighbor_accuracy(real, fake) == pytest.approx((sum(own) / 2, *own))


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
