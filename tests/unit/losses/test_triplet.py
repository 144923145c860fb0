"""The triplet loss compared with three loops, its gradient, and batches without a triplet."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snngan.losses.triplet import triplet_loss


def by_loops(features: Tensor, labels: Tensor, margin: float, distance: str) -> float:
    features, terms = features.flatten(1).double(), []
    for a in range(len(features)):
        for p in range(len(features)):
            for n in range(len(features)):
                if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
                    continue
                if distance == "cosine":
                    near, far = (1 - torch.cosine_similarity(features[a], features[other], 0) for other in (p, n))
                else:
                    near, far = ((features[a] - features[other]).square().sum() for other in (p, n))
                terms.append(max(0.0, float(near - far) + margin))
    return sum(terms) / max(1, len(terms))


@given(
    seed=st.integers(0, 2**16), count=st.integers(2, 14), classes=st.integers(1, 4), margin=st.floats(0, 5),
    distance=st.sampled_from(["sqeuclidean", "cosine"]), shift=st.sampled_from([0.0, 100.0])
)  # fmt: skip
def test_it_agrees_with_three_loops(
    seed: int, count: int, classes: int, margin: float, distance: str, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 3, 2, generator=generator, dtype=torch.float64) + shift
    features[0] = 0.0  # has no direction
    labels = torch.randint(0, classes, (count,), generator=generator)
    value = triplet_loss(features, labels, margin, distance)  # type: ignore[arg-type]
    assert float(value) == pytest.approx(by_loops(features, labels, margin, distance), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
def test_gradient(distance: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(9) % 3
    assert torch.autograd.gradcheck(lambda x: triplet_loss(x, labels, 1.0, distance), features)  # type: ignore[arg-type]


def test_without_a_triplet_loss_and_gradient_are_0() -> None:
    for labels in ([0, 0, 0], [0, 1, 2]):
        features = torch.randn(3, 2, requires_grad=True)
        value = triplet_loss(features, torch.tensor(labels))
        value.backward()
        assert value.item() == 0
        assert features.grad is not None
        assert not features.grad.any()


def test_dtypes_and_invalid_arguments() -> None:
    features, labels = torch.randn(6, 2), torch.arange(6) % 2
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert triplet_loss(features.to(dtype), labels).dtype == torch.promote_types(dtype, torch.float32)
    for margin in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="margin must be a finite number"):
            triplet_loss(features, labels, margin)
    with pytest.raises(ValueError, match="labels must be integers"):
        triplet_loss(features, labels[:5])
