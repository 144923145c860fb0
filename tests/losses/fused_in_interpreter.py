"""The kernels of the fused backend in Triton's interpreter; ``test_fused.py`` runs this file in a separate process.

Triton reads TRITON_INTERPRET when it is imported, which another test may have done already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference.batches import NAMES, make_batch
from reference.snnl_loops import distances_loop, log_odds_loop, mean_distance_loop
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from triton.runtime import interpreter
from triton.runtime.errors import OutOfResources

from snngan import RelativeTemperature, SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from snngan.losses.backends import fused, fused_kernels
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import build_pairwise_batch, build_real_fake_batch

FACTORS = [1e-3, 1e-2, 0.3, 1e6]
"""Temperatures, as multiples of the batch's mean distance."""


@pytest.fixture(autouse=True, scope="module")
def backend() -> None:
    """Replace the fixture of the directory: these tests name their backends."""


@pytest.fixture(autouse=True, scope="module")
def loops() -> Iterator[None]:
    """Let Triton 3.6 loop to a bound under NumPy 2.4, which no longer converts an array of one element to a number."""
    patch_tensor = interpreter._patch_lang_tensor

    def with_index(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        change = scope[0].set_attr if scope else setattr  # Triton 3.4 has no scope
        change(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", with_index)
        yield


def random_batch(count: int, dims: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=rng)
    return torch.randn(count, dims, generator=rng) + 0.3 * labels[:, None], labels


def named_batch(name: str, dims: int) -> tuple[Tensor, Tensor]:
    """Return a named batch, rotated into ``dims`` dimensions if it has fewer."""
    features, labels = make_batch(name)
    if features.shape[1] > dims:
        return features[:, :dims], labels
    rotation, _ = torch.linalg.qr(
        torch.randn(dims, features.shape[1], generator=torch.Generator().manual_seed(1)).double()
    )
    return (features.double() @ rotation.T).float(), labels


@pytest.mark.parametrize(
    ("distance", "dims"),
    [("sqeuclidean", 5), ("cosine", 5), ("sqeuclidean", 24)],
    ids=["sqeuclidean", "cosine", "high-dim"],
)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_agree_with_the_loops(name: str, distance: Any, dims: int) -> None:
    features, labels = named_batch(name, 100 if name == "sparse" else dims)
    exact = features.double().requires_grad_()
    distances = distances_loop(exact, distance)
    mean = mean_distance_loop(distances)
    for factor in FACTORS:
        losses = [F.softplus(z) for z in log_odds_loop(distances, labels, factor * mean).values()]
        expected = torch.stack(losses).mean() if losses else exact.sum() * 0
        (slope,) = torch.autograd.grad(expected, exact, retain_graph=True)
        leaf = features.clone().requires_grad_()
        value = soft_nearest_neighbor_loss(leaf, labels, factor * mean, distance, backend="fused")
        value.backward()  # type: ignore[no-untyped-call]
        tolerance = 1e-5 * expected.item() + 4e-8 / factor + 1e-6
        assert abs(value.item() - expected.item()) <= tolerance, f"T = {factor} x mean"
        assert leaf.grad is not None
        if factor >= 0.01:
            # float32 loses slopes below 1e-30.
            assert (leaf.grad - slope).abs().max().item() <= 1e-4 * slope.abs().max().item() + 1e-30, factor


def odds_and_gradient(
    features: Tensor, labels: Tensor, distance: Any, backend: Any, factor: float
) -> tuple[Tensor, Tensor]:
    """Return the log-odds (N,) and the gradient (N, D) of a weighted sum of them."""
    leaf = features.clone().requires_grad_()
    batch = build_pairwise_batch(leaf, labels, distance, backend)
    odds = log_odds(batch, (1 / (factor * batch.scale)).reshape(1)).squeeze(0)
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
        rounding = 5e-7 * exact.squared_norms.max().item() / (factor * exact.scale.item())
        assert_close(odds, expected, rtol=1e-6, atol=1e-6 + rounding)
        if factor >= 0.01:
            assert_close(slope.double(), expected_slope, rtol=0, atol=1e-4 * expected_slope.abs().max().item())


@pytest.mark.parametrize(
    ("count", "dims", "classes"),
    [(70, 2, 2), (70, 10, 10), (37, 10, 50), (17, 16, 2), (64, 17, 2), (131, 100, 10), (131, 100, 50), (40, 256, 2)],
)
def test_sizes_and_classes(count: int, dims: int, classes: int) -> None:
    check(*random_batch(count, dims, classes))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dims", [3, 40])
def test_one_or_two_points(count: int, dims: int) -> None:
    features = torch.randn(count, dims, generator=torch.Generator().manual_seed(0))
    for labels in (torch.zeros(count).int(), torch.arange(count)):
        for temperature in (1.0, math.inf):
            leaf = features.clone().requires_grad_()
            value = soft_nearest_neighbor_loss(leaf, labels, temperature, backend="fused")
            value.backward()  # type: ignore[no-untyped-call]
            assert value.item() == 0
            assert leaf.grad is not None
            assert not leaf.grad.any()


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


@pytest.mark.parametrize("dims", [3, 40])
def test_samples_that_need_no_gradient_get_none(dims: int) -> None:
    features, labels = random_batch(80, dims, 2)
    whole = None
    for rows in (slice(0, 80), slice(9, 80), slice(40, 57), slice(80, 80)):
        leaf = features.clone().requires_grad_()
        batch = replace(build_pairwise_batch(leaf, labels, backend="fused"), needs_grad=rows)
        odds = log_odds(batch, 1 / batch.scale.reshape(1)).squeeze(0)
        (slope,) = torch.autograd.grad(odds.square().sum(), batch.features)
        whole = slope.clone() if whole is None else whole
        assert_close(slope[rows], whole[rows])
        slope[rows] = 0
        assert not slope.any()


@pytest.mark.parametrize("dims", [5, 40])
def test_bfloat16_gives_the_loss_of_float32(dims: int) -> None:
    features, labels = random_batch(30, dims, 3)
    narrow = features.bfloat16()
    values = [soft_nearest_neighbor_loss(x, labels, 3.0, backend="fused") for x in (narrow, narrow.float())]
    assert_close(*values, rtol=0, atol=0)


@pytest.mark.parametrize("dims", [5, 40])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e15])
def test_scaling_features_and_temperature_changes_nothing(scale: float, dims: int) -> None:
    features, labels = random_batch(20, dims, 3)
    values, slopes = [], []
    for unit in (1.0, scale):
        leaf = (features * unit).requires_grad_()
        batch = build_pairwise_batch(
            leaf.double(), labels, backend="tiled"
        )  # float32 cannot represent squares of 1e-25
        fused_pairs = build_pairwise_batch(leaf, labels, backend="fused")
        odds = log_odds(fused_pairs, 1 / (0.1 * batch.scale.reshape(1)))
        values.append(odds)
        slopes.append(torch.autograd.grad(odds.square().sum(), leaf)[0] * unit)
    assert_close(*values, rtol=1e-5, atol=1e-5)
    assert_close(*slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [3, 40])
def test_infinite_temperature_counts_neighbors(dims: int) -> None:
    features, labels = random_batch(30, dims, 4)
    sizes = (labels[:, None] == labels).sum(1)
    for temperature in (math.inf, 1e30):
        losses = soft_nearest_neighbor_loss(features, labels, temperature, reduction="none", backend="fused")
        assert_close(losses, torch.log((30 - 1) / (sizes - 1.0)))


@pytest.mark.parametrize("dims", [3, 40])
@pytest.mark.parametrize("rule", [1e-20, 1e-6, 1e9, math.inf, RelativeTemperature(1e-12), "optimal", "learned"])
def test_gradient_is_finite_at_any_temperature(rule: Any, dims: int) -> None:
    features, labels = random_batch(20, dims, 3)
    features[5:8] = features[4]
    leaf = features.requires_grad_()
    SoftNearestNeighborLoss(rule, backend="fused")(leaf, labels).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_optimal_temperature_agrees_with_the_tiled_backend() -> None:
    features, labels = random_batch(60, 10, 2)
    values = [soft_nearest_neighbor_loss(features, labels, "optimal", backend=b) for b in ("fused", "tiled")]  # type: ignore[arg-type]
    assert_close(*values)


@pytest.mark.parametrize("dims", [1, 30])
def test_nan_stays_nan(dims: int) -> None:
    features, labels = torch.arange(4.0)[:, None].repeat(1, dims), torch.arange(4) % 2
    features[0, 0] = math.nan
    assert soft_nearest_neighbor_loss(features, labels, 1.0, backend="fused").isnan()


def test_second_derivatives_are_refused() -> None:
    features, labels = random_batch(20, 3, 2)
    leaf = features.requires_grad_()
    loss = soft_nearest_neighbor_loss(leaf, labels, 1.0, backend="fused")
    (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        slope.square().sum().backward()


def test_real_and_fake_samples_agree_with_the_tiled_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = random_batch(60, 3, 1)[0].split(30)
    inverses = torch.tensor([0.5, 0.0], dtype=torch.float64)
    monkeypatch.setattr("snngan.losses.backends.MAX_DENSE_SAMPLES", 0)
    batch = build_real_fake_batch(real, fake)
    assert batch.backend == "tiled"  # "auto" takes "fused" on a GPU only
    assert_close(log_odds(replace(batch, backend="fused"), inverses), log_odds(batch, inverses), rtol=1e-5, atol=1e-5)


def test_blocks_shrink_to_the_memory_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, tried = fused_kernels.sum_gradient, []

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
    least = 32
    check(features, labels)
    assert tried == 2 * [(128, 1), (64, 2), (32, 3)]  # at each T
    least = 0
    with pytest.raises(OutOfResources):
        check(features, labels)
