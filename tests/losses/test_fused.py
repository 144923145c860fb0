"""The fused backend: its kernels in Triton's interpreter, what it refuses, and, where there is one, on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from snngan import SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from snngan.losses.backends import fused
from snngan.losses.pairwise import log_odds, pairs_of

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and fused.is_available(torch.device("cuda"))),
    reason="no GPU that the kernels run on",
)


@pytest.fixture(autouse=True, scope="module")
def backend() -> None:
    """Stand in for that of the directory: these tests name their backends."""


@pytest.mark.slow
@needs_triton
def test_the_kernels_in_the_interpreter() -> None:
    path = Path(__file__).with_name("fused_in_interpreter.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=path.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(4, 2).double(), 'backend="fused" takes points of float32 or narrower, not float64: .*"tiled"'),
        (torch.zeros(4, 257), 'backend="fused" takes points of 1 to 256 dimensions, not 257: use backend="tiled"'),
        (torch.zeros(4, 0), 'backend="fused" takes points of 1 to 256 dimensions, not 0: use backend="tiled"'),
        (torch.zeros(4, 2), 'backend="fused" needs Triton and .* GPU .*, not on cpu: use backend="tiled"'),
    ],
)
def test_what_it_does_not_take_is_refused_in_one_line(
    points: Tensor, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    labels = torch.arange(4) % 2
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        soft_nearest_neighbor_loss(points, labels, backend="fused")
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        SoftNearestNeighborLoss(backend="fused")(points, labels)
    inverse = torch.ones((), dtype=torch.float64)
    batch = points[:0], points, points[:, :1].double().square(), torch.ones((), dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        fused.FusedLogOdds.apply(*batch, labels, labels + 2, 1.0, inverse, slice(0, 4))


def test_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="needs Triton"):
        soft_nearest_neighbor_loss(torch.zeros(4, 2), torch.arange(4) % 2, backend="fused")


def test_auto_leaves_a_processor_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for count, backend in ((10, "dense"), (2000, "tiled")):
        assert pairs_of(torch.zeros(count, 2), torch.arange(count) % 2).backend == backend


def test_triton_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, snngan, snngan.losses.backends.fused; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def gpu_batch(count: int, dims: int, classes: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator("cuda").manual_seed(0)
    labels = torch.arange(count, device="cuda") * classes // count
    offsets = torch.randn(classes, dims, generator=rng, device="cuda")
    return torch.randn(count, dims, generator=rng, device="cuda") + 0.3 * offsets[labels], labels


def exact_rows(points: Tensor, labels: Tensor, temperature: float) -> tuple[float, Tensor]:
    """Return the mean loss and its gradient (N, D) in float64, a few rows of anchors at a time."""
    leaf = points.double().requires_grad_()
    value = 0.0
    for rows in torch.arange(len(points), device=points.device).split(512):
        exponents = -torch.cdist(leaf[rows], leaf, compute_mode="donot_use_mm_for_euclid_dist").square() / temperature
        own = rows[:, None] == torch.arange(len(points), device=points.device)
        alike = labels[rows, None] == labels
        same = exponents.masked_fill(own | ~alike, -torch.inf).logsumexp(1)
        other = exponents.masked_fill(alike, -torch.inf).logsumexp(1)
        loss = F.softplus(other - same).sum() / len(points)
        loss.backward()  # type: ignore[no-untyped-call]
        value += loss.item()
    assert leaf.grad is not None
    return value, leaf.grad


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("dims", [10, 128, 256])
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_gpu_is_float64_in_rows(precision: str, dims: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "PRECISION", precision)
    points, labels = gpu_batch(8192, dims, classes)
    mean = pairs_of(points, labels).scale.item()
    for factor in (0.01, 0.1, 1.0):
        expected, slope = exact_rows(points, labels, factor * mean)
        leaf = points.clone().requires_grad_()
        value = soft_nearest_neighbor_loss(leaf, labels, factor * mean, backend="fused")
        value.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        error = abs(value.item() - expected)
        slope_error = ((leaf.grad - slope).abs().max() / slope.abs().max()).item()
        print(f"{precision} D={dims} C={classes} T={factor}: loss {expected:.6g}, {error:.1e}; slope {slope_error:.1e}")
        if precision == "tf32" and dims > fused.THIN:  # coordinates of 11 bits
            assert error <= 1e-3 * (expected + 1 / factor)
            assert slope_error <= 0.05 or factor < 0.1
        else:
            assert error <= 1e-5 * expected + 4e-8 / factor + 1e-6
            assert slope_error <= 1e-4


@pytest.mark.gpu
@needs_gpu
def test_gpu_is_the_backend_that_auto_picks() -> None:
    points, labels = gpu_batch(2000, 10, 2)
    for features, expected in ((points, "fused"), (points[:1000], "dense"), (points.double(), "tiled")):
        assert pairs_of(features, labels[: len(features)]).backend == expected
    assert pairs_of(points.repeat(1, 26), labels).backend == "tiled"


@pytest.mark.gpu
@needs_gpu
def test_gpu_allowing_tf32_elsewhere_changes_nothing() -> None:
    points, labels = gpu_batch(2000, 64, 2)
    before = torch.get_float32_matmul_precision()
    values: list[Any] = []
    try:
        for allowed in ("highest", "high"):
            torch.set_float32_matmul_precision(allowed)
            values.append(soft_nearest_neighbor_loss(points, labels, 20.0, backend="fused").item())
    finally:
        torch.set_float32_matmul_precision(before)
    assert values[0] == values[1]


@pytest.mark.gpu
@needs_gpu
def test_gpu_keeps_what_is_not_a_number() -> None:
    for dims in (3, 40):
        points, labels = gpu_batch(2000, dims, 2)
        points[7, 0] = torch.nan
        pairs = pairs_of(points, labels, backend="fused")
        pairs.points[:] = points  # centring would have spread it
        odds = log_odds(pairs, torch.ones(1, dtype=torch.float64, device="cuda"))
        assert odds.isnan().all()


@pytest.mark.gpu
@needs_gpu
def test_gpu_takes_memory_for_points_and_not_for_pairs() -> None:
    points, labels = gpu_batch(65536, 10, 2)
    leaf = points.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    soft_nearest_neighbor_loss(leaf, labels, 2.0, backend="fused").backward()  # type: ignore[no-untyped-call]
    assert torch.cuda.max_memory_allocated() - before < 100e6
