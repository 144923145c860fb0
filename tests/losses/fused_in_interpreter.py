"""The fused backend's kernels through Triton's interpreter; ``test_fused.py`` runs this file in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, which another test may have done already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reference.batches import NAMES, batch
from reference.snnl_loops import distances_loop, log_odds_loop, mean_distance_loop
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from triton.runtime import interpreter
from triton.runtime.errors import OutOfResources

from snngan import RelativeTemperature, SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from snngan.losses.backends import fused, fused_kernels
from snngan.losses.backends.fused import FusedLogOdds
from snngan.losses.pairwise import log_odds, pairs_of
from snngan.losses.snnl import real_fake_pairs

FACTORS = [1e-3, 1e-2, 0.3, 1e6]
"""Temperatures, as multiples of the batch's mean distance."""


@pytest.fixture(autouse=True, scope="module")
def backend() -> None:
    """Stand in for that of the directory: these tests name their backends."""


@pytest.fixture(autouse=True, scope="module")
def loops() -> Iterator[None]:
    """Let Triton 3.6 loop to a bound under NumPy 2.4, which makes no number of an array of one any more."""
    patch_tensor = interpreter._patch_lang_tensor

    def with_index(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        change = scope[0].set_attr if scope else setattr  # Triton 3.4 has no scope
        change(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", with_index)
        yield


def random(count: int, dims: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=rng)
    return torch.randn(count, dims, generator=rng) + 0.3 * labels[:, None], labels


def hard(name: str, dims: int) -> tuple[Tensor, Tensor]:
    """Return a named batch, turned into ``dims`` dimensions if it has fewer."""
    points, labels = batch(name)
    if points.shape[1] > dims:
        return points[:, :dims], labels
    turn, _ = torch.linalg.qr(torch.randn(dims, points.shape[1], generator=torch.Generator().manual_seed(1)).double())
    return (points.double() @ turn.T).float(), labels


@pytest.mark.parametrize(
    ("distance", "dims"),
    [("sqeuclidean", 5), ("cosine", 5), ("sqeuclidean", 24)],
    ids=["sqeuclidean", "cosine", "wide"],
)
@pytest.mark.parametrize("name", NAMES)
def test_hard_batches_are_those_of_the_loops(name: str, distance: Any, dims: int) -> None:
    points, labels = hard(name, 100 if name == "sparse" else dims)
    exact = points.double().requires_grad_()
    distances = distances_loop(exact, distance)
    mean = mean_distance_loop(distances)
    for factor in FACTORS:
        losses = [F.softplus(z) for z in log_odds_loop(distances, labels, factor * mean).values()]
        expected = torch.stack(losses).mean() if losses else exact.sum() * 0
        (slope,) = torch.autograd.grad(expected, exact, retain_graph=True)
        leaf = points.clone().requires_grad_()
        value = soft_nearest_neighbor_loss(leaf, labels, factor * mean, distance, backend="fused")
        value.backward()  # type: ignore[no-untyped-call]
        tolerance = 1e-5 * expected.item() + 4e-8 / factor + 1e-6
        assert abs(value.item() - expected.item()) <= tolerance, f"T = {factor} x mean"
        assert leaf.grad is not None
        if factor >= 0.01:
            # Below 1e-30 a slope is lost in float32.
            assert (leaf.grad - slope).abs().max().item() <= 1e-4 * slope.abs().max().item() + 1e-30, factor


def found(points: Tensor, labels: Tensor, distance: Any, backend: Any, factor: float) -> tuple[Tensor, Tensor]:
    """Return the log-odds (N,) and the gradient (N, D) of a weighted sum of them."""
    leaf = points.clone().requires_grad_()
    pairs = pairs_of(leaf, labels, distance, backend)
    odds = log_odds(pairs, (1 / (factor * pairs.scale)).reshape(1)).squeeze(0)
    weights = torch.linspace(-1, 2, len(points), dtype=torch.float64)
    (slope,) = torch.autograd.grad((odds * weights).where(odds.isfinite(), 0.0).sum(), leaf)
    return odds, slope


def check(points: Tensor, labels: Tensor, distance: Any = "sqeuclidean") -> None:
    """Hold every log-odds and the gradient against the dense form in float64."""
    exact = pairs_of(points.double(), labels, distance)
    for factor in (1e-3, 0.1):
        odds, slope = found(points, labels, distance, "fused", factor)
        expected, expected_slope = found(points.double(), labels, distance, "dense", factor)
        # A distance rounds to a few parts in 1e7 of the points' squared lengths, and 1/T magnifies that.
        rounding = 5e-7 * exact.squares.max().item() / (factor * exact.scale.item())
        assert_close(odds, expected, rtol=1e-6, atol=1e-6 + rounding)
        if factor >= 0.01:
            assert_close(slope.double(), expected_slope, rtol=0, atol=1e-4 * expected_slope.abs().max().item())


@pytest.mark.parametrize(
    ("count", "dims", "classes"),
    [(70, 2, 2), (70, 10, 10), (37, 10, 50), (17, 16, 2), (64, 17, 2), (131, 100, 10), (131, 100, 50), (40, 256, 2)],
)
def test_sizes_and_classes(count: int, dims: int, classes: int) -> None:
    check(*random(count, dims, classes))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dims", [3, 40])
def test_one_or_two_points(count: int, dims: int) -> None:
    points = torch.randn(count, dims, generator=torch.Generator().manual_seed(0))
    for labels in (torch.zeros(count).int(), torch.arange(count)):
        for temperature in (1.0, math.inf):
            leaf = points.clone().requires_grad_()
            value = soft_nearest_neighbor_loss(leaf, labels, temperature, backend="fused")
            value.backward()  # type: ignore[no-untyped-call]
            assert value.item() == 0
            assert leaf.grad is not None
            assert not leaf.grad.any()


@pytest.mark.parametrize("dims", [40, 200])
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_every_precision_takes_its_path(precision: str, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies float32 in each; a GPU tells them apart."""
    monkeypatch.setattr(fused, "PRECISION", precision)
    points, labels = random(70, dims, 3)
    check(points, labels)
    check(points, labels, "cosine")


@pytest.mark.parametrize("processors", [0, 1000])
@pytest.mark.parametrize("dims", [3, 40])
def test_shares_of_the_neighbors_add_up(dims: int, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_num_processors", lambda device: processors)
    check(*random(90, dims, 3))


@pytest.mark.parametrize("dims", [3, 40])
def test_zero_vectors_are_at_cosine_distance_1_from_all(dims: int) -> None:
    points, labels = random(30, dims, 2)
    points[[2, 11, 20]] = 0
    labels[[2, 11]] = torch.tensor([0, 1])
    check(points, labels, "cosine")


@pytest.mark.parametrize("dims", [3, 40])
def test_fixed_points_get_no_gradient(dims: int) -> None:
    points, labels = random(80, dims, 2)
    whole = None
    for moving in (slice(0, 80), slice(9, 80), slice(40, 57), slice(80, 80)):
        leaf = points.clone().requires_grad_()
        pairs = pairs_of(leaf, labels, backend="fused")
        pairs.moving = moving
        odds = log_odds(pairs, 1 / pairs.scale.reshape(1)).squeeze(0)
        (slope,) = torch.autograd.grad(odds.square().sum(), pairs.points)
        whole = slope.clone() if whole is None else whole
        assert_close(slope[moving], whole[moving])
        slope[moving] = 0
        assert not slope.any()


def test_bfloat16_points_count_as_their_upcast() -> None:
    for dims in (5, 40):
        points, labels = random(30, dims, 3)
        narrow = points.bfloat16()
        found = []
        for leaf in (narrow.clone().requires_grad_(), narrow.float().requires_grad_()):
            squares = narrow.float().square().sum(1, keepdim=True)
            members = pairs_of(points, labels).members
            inverse = torch.tensor(0.1, dtype=torch.float64)
            batch = leaf[:0], leaf, squares.double(), torch.ones((), dtype=torch.float64)
            odds = FusedLogOdds.apply(*batch, labels, members, 1.0, inverse, slice(0, 30))
            found.append((odds, torch.autograd.grad(odds.square().sum(), leaf)[0]))
        assert_close(found[0][0], found[1][0], rtol=0, atol=0)
        assert found[0][1].dtype == torch.bfloat16
        assert_close(found[0][1], found[1][1].bfloat16(), rtol=0, atol=0)
        values = [soft_nearest_neighbor_loss(x, labels, 3.0, backend="fused") for x in (narrow, narrow.float())]
        assert_close(*values, rtol=0, atol=0)


@pytest.mark.parametrize("dims", [5, 40])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e15])
def test_scale_where_the_temperature_follows(scale: float, dims: int) -> None:
    points, labels = random(20, dims, 3)
    values, slopes = [], []
    for unit in (1.0, scale):
        leaf = (points * unit).requires_grad_()
        pairs = pairs_of(leaf.double(), labels, backend="tiled")  # for its scale: float32 has no squares of 1e-25
        fused_pairs = pairs_of(leaf, labels, backend="fused")
        odds = log_odds(fused_pairs, 1 / (0.1 * pairs.scale.reshape(1)))
        values.append(odds)
        slopes.append(torch.autograd.grad(odds.square().sum(), leaf)[0] * unit)
    assert_close(*values, rtol=1e-5, atol=1e-5)
    assert_close(*slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [3, 40])
def test_infinite_temperature_counts_neighbors(dims: int) -> None:
    points, labels = random(30, dims, 4)
    sizes = (labels[:, None] == labels).sum(1)
    for temperature in (math.inf, 1e30):
        losses = soft_nearest_neighbor_loss(points, labels, temperature, reduction="none", backend="fused")
        assert_close(losses, torch.log((30 - 1) / (sizes - 1.0)))


@pytest.mark.parametrize("dims", [3, 40])
@pytest.mark.parametrize("rule", [1e-20, 1e-6, 1e9, math.inf, RelativeTemperature(1e-12), "optimal", "learned"])
def test_gradient_is_finite_at_any_temperature(rule: Any, dims: int) -> None:
    points, labels = random(20, dims, 3)
    points[5:8] = points[4]
    leaf = points.requires_grad_()
    SoftNearestNeighborLoss(rule, backend="fused")(leaf, labels).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_the_optimal_temperature_is_that_of_tiled_pairs() -> None:
    points, labels = random(60, 10, 2)
    values = [soft_nearest_neighbor_loss(points, labels, "optimal", backend=b) for b in ("fused", "tiled")]  # type: ignore[arg-type]
    assert_close(*values)


@pytest.mark.parametrize("dims", [1, 30])
def test_what_is_not_a_number_stays_so(dims: int) -> None:
    points, labels = torch.arange(4.0)[:, None].repeat(1, dims), torch.arange(4) % 2
    points[0, 0] = math.nan
    assert soft_nearest_neighbor_loss(points, labels, 1.0, backend="fused").isnan()


def test_second_derivatives_are_refused() -> None:
    points, labels = random(20, 3, 2)
    leaf = points.requires_grad_()
    loss = soft_nearest_neighbor_loss(leaf, labels, 1.0, backend="fused")
    (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        slope.square().sum().backward()


def test_real_and_fake_pairs_have_the_entanglement_of_tiled_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = random(60, 3, 1)[0].split(30)
    expected = log_odds(real_fake_pairs(real, fake), torch.tensor([0.5, 0.0], dtype=torch.float64))
    monkeypatch.setattr("snngan.losses.pairwise.DENSE_UP_TO", 0)
    pairs = real_fake_pairs(real, fake)
    assert pairs.backend == "tiled"  # "auto" leaves points that are not on a GPU to it
    pairs.backend = "fused"
    assert_close(log_odds(pairs, torch.tensor([0.5, 0.0], dtype=torch.float64)), expected, rtol=1e-5, atol=1e-5)


def test_blocks_shrink_to_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, tried = fused_kernels.pull, []

    class Small:
        def __getitem__(self, grid: Any) -> Any:
            def launch(*arguments: Any, **options: Any) -> None:
                tried.append((options["ROWS"], grid[0]))
                if options["ROWS"] > least:
                    raise OutOfResources(229376, 101376, "shared memory")
                kernel[grid](*arguments, **options)

            return launch

    monkeypatch.setattr(fused_kernels, "pull", Small())
    points, labels = random(70, 40, 2)
    least = 32
    check(points, labels)
    assert tried == 2 * [(128, 1), (64, 2), (32, 3)]  # at each T
    least = 0
    with pytest.raises(OutOfResources):
        check(points, labels)
