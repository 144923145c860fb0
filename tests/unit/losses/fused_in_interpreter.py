"""The kernels of the fused backend in Triton's interpreter; ``test_fused.py`` runs this file in a separate process.

Triton reads TRITON_INTERPRET when it is imported, which another test may have done already.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference.batches import NAMES, make_batch
from torch import Tensor
from torch.testing import assert_close
from triton.runtime.errors import OutOfResources

from snngan import RelativeTemperature, SoftNearestNeighborLoss
from snngan.losses.backends import fused, fused_kernels
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import build_pairwise_batch

pytestmark = pytest.mark.usefixtures("backend")


def random_batch(count: int, dims: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=rng)
    return torch.randn(count, dims, generator=rng) + 0.3 * labels[:, None], labels


def odds_and_gradient(
    features: Tensor, labels: Tensor, distance: Any, backend: Any, factor: float
) -> tuple[Tensor, Tensor]:
    """Return the log-odds (N,) and the gradient (N, D) of a weighted sum of them."""
    leaf = features.clone().requires_grad_()
    batch = build_pairwise_batch(leaf, labels, distance, backend)
    odds = log_odds(batch, (1 / (factor * batch.mean_distance)).reshape(1)).squeeze(0)
    weights = torch.linspace(-1, 2, len(features), dtype=torch.float64)
    (slope,) = torch.autograd.grad((odds * weights).where(odds.isfinite(), 0.0).sum(), leaf)
    return odds, slope


def check(features: Tensor, labels: Tensor, distance: Any = "sqeuclidean") -> None:
    """Compare every log-odds and the gradient with the dense backend in float64."""
    exact = build_pairwise_batch(features.double(), labels, distance)
    for factor in (1e-3, 0.1):
        odds, slope = odds_and_gradient(features, labels, distance, "fused", factor)
        expected, expected_slope = odds_and_gradient(features.double(), labels, distance, "dense", factor)
        # Distances round to a few parts in 1e7 of the squared norms, and 1/T magnifies that.
        rounding = 5e-7 * exact.squared_norms.max().item() / (factor * exact.mean_distance.item())
        assert_close(odds, expected, rtol=1e-6, atol=1e-6 + rounding)
        if factor >= 0.01:
            assert_close(slope.double(), expected_slope, rtol=0, atol=1e-4 * expected_slope.abs().max().item())


@pytest.mark.parametrize(
    ("count", "dims", "classes"),
    [(70, 2, 2), (70, 10, 10), (37, 10, 50), (17, 16, 2), (64, 17, 2), (131, 100, 10), (131, 100, 50), (40, 256, 2)],
)
def test_sizes_and_classes(count: int, dims: int, classes: int) -> None:
    check(*random_batch(count, dims, classes))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sparse"])
def test_named_batches_rotated_into_24_dimensions(name: str) -> None:
    features, labels = make_batch(name)
    rotation, _ = torch.linalg.qr(torch.randn(24, 5, generator=torch.Generator().manual_seed(1)).double())
    check((features.double() @ rotation.T).float(), labels)


@pytest.mark.parametrize("dims", [40, 200])
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_every_precision(precision: str, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies in float32 for each; only a GPU distinguishes them."""
    monkeypatch.setattr(fused, "PRECISION", precision)
    features, labels = random_batch(70, dims, 3)
    check(features, labels)
    check(features, labels, "cosine")


@pytest.mark.parametrize("processors", [0, 1000])
@pytest.mark.parametrize("dims", [3, 40])
def test_neighbors_may_be_split_over_programs(dims: int, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_num_processors", lambda device: processors)
    check(*random_batch(90, dims, 3))


@pytest.mark.parametrize("dims", [3, 40])
def test_zero_vectors_have_cosine_distance_1_to_all(dims: int) -> None:
    features, labels = random_batch(30, dims, 2)
    features[[2, 11, 20]] = 0
    labels[[2, 11]] = torch.tensor([0, 1])
    check(features, labels, "cosine")


@pytest.mark.parametrize("rule", [1e-20, 1e-6, 1e9, torch.inf, RelativeTemperature(1e-12), "optimal", "learned"])
def test_gradient_in_many_dimensions_is_finite_at_any_temperature(rule: Any) -> None:
    features, labels = random_batch(20, 40, 3)
    features[5:8] = features[4]
    leaf = features.requires_grad_()
    SoftNearestNeighborLoss(rule, backend="fused")(leaf, labels).backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()


def test_blocks_shrink_to_the_memory_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, tried, least = fused_kernels.sum_gradient, [], 32

    class Small:
        def __getitem__(self, grid: Any) -> Any:
            def launch(*arguments: Any, **options: Any) -> None:
                tried.append((options["ROWS"], grid[0]))
                if options["ROWS"] > least:
                    raise OutOfResources(229376, 101376, "shared memory")
                kernel[grid](*arguments, **options)

            return launch

    monkeypatch.setattr(fused_kernels, "sum_gradient", Small())
    features, labels = random_batch(70, 40, 2)
    check(features, labels)
    assert tried == 2 * [(128, 1), (64, 2), (32, 3)]  # at each T
    least = 0
    with pytest.raises(OutOfResources):
        check(features, labels)
