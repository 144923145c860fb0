"""The fused backend: its kernels in Triton's interpreter, unsupported features, and tests on a GPU if there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from snngan import soft_nearest_neighbor_loss
from snngan.losses.backends import choose_backend, fused, why_not_fused
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import build_pairwise_batch

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or why_not_fused(10, torch.float32, torch.device("cuda")) is not None,
    reason="no GPU that runs the kernels",
)


@pytest.mark.slow
@needs_triton
def test_the_kernels_in_the_interpreter() -> None:
    """Those of ``fused_in_interpreter.py``, and the tests of every backend that are not about float64."""
    here = Path(__file__).parent
    files = [str(here / name) for name in ("fused_in_interpreter.py", "test_snnl.py", "test_gradients.py")]
    shared = "agrees or agree or finite or infinite or without or narrow or nan or need_no or refused or scale_of_the"
    chosen = f"({shared} or interpreter) and not (scale_of_the and (optimal or rule4))"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=here.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(4, 2).double(), "features of float32 or narrower, got float64"),
        (torch.zeros(4, 257), "1 to 256 dimensions, got 257"),
        (torch.zeros(4, 0), "1 to 256 dimensions, got 0"),
        (torch.zeros(4, 2), "Triton and .* GPU .*, got cpu"),
    ],
)
def test_unsupported_features_are_refused(features: Tensor, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=rf'^backend="fused" requires {message}: use backend="tiled"\Z'):
        soft_nearest_neighbor_loss(features, torch.arange(4) % 2, backend="fused")


@pytest.mark.parametrize(
    ("num_samples", "num_dims", "dtype", "device", "expected"),
    [
        (512, 10, torch.float32, "cuda", "dense"),
        (513, 10, torch.float32, "cuda", "fused"),
        (513, 256, torch.bfloat16, "cuda", "fused"),
        (513, 257, torch.float32, "cuda", "tiled"),
        (513, 10, torch.float64, "cuda", "tiled"),
        (512, 10, torch.float32, "cpu", "dense"),
        (513, 10, torch.float32, "cpu", "tiled"),
    ],
)
def test_auto_chooses_by_size_dtype_and_device(
    num_samples: int, num_dims: int, dtype: torch.dtype, device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # in the interpreter every device supports the kernels
    monkeypatch.setattr("snngan.losses.backends._has_triton", lambda: True)
    for requested, chosen in (("auto", expected), ("tiled", "tiled")):
        assert choose_backend(num_samples, num_dims, dtype, torch.device(device), requested) == chosen


def gpu_batch(count: int, dims: int, classes: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator("cuda").manual_seed(0)
    labels = torch.arange(count, device="cuda") * classes // count
    offsets = torch.randn(classes, dims, generator=rng, device="cuda")
    return torch.randn(count, dims, generator=rng, device="cuda") + 0.3 * offsets[labels], labels


def exact_rows(features: Tensor, labels: Tensor, temperature: float) -> tuple[float, Tensor]:
    """Return the mean loss and its gradient (N, D) in float64, a few rows of anchors at a time."""
    leaf = features.double().requires_grad_()
    value = 0.0
    for rows in torch.arange(len(features), device=features.device).split(512):
        exponents = -torch.cdist(leaf[rows], leaf, compute_mode="donot_use_mm_for_euclid_dist").square() / temperature
        own = rows[:, None] == torch.arange(len(features), device=features.device)
        same_class = labels[rows, None] == labels
        same = exponents.masked_fill(own | ~same_class, -torch.inf).logsumexp(1)
        other = exponents.masked_fill(same_class, -torch.inf).logsumexp(1)
        loss = F.softplus(other - same).sum() / len(features)
        loss.backward()  # type: ignore[no-untyped-call]
        value += loss.item()
    assert leaf.grad is not None
    return value, leaf.grad


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("dims", [10, 128, 256])
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_gpu_agrees_with_float64(precision: str, dims: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "PRECISION", precision)
    features, labels = gpu_batch(8192, dims, classes)
    mean = build_pairwise_batch(features, labels).mean_distance.item()
    for factor in (0.01, 0.1, 1.0):
        expected, slope = exact_rows(features, labels, factor * mean)
        leaf = features.clone().requires_grad_()
        value = soft_nearest_neighbor_loss(leaf, labels, factor * mean, backend="fused")
        value.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        error = abs(value.item() - expected)
        slope_error = ((leaf.grad - slope).abs().max() / slope.abs().max()).item()
        print(f"{precision} D={dims} C={classes} T={factor}: loss {expected:.6g}, {error:.1e}; slope {slope_error:.1e}")
        if precision == "tf32" and dims > fused.LOW_DIM:  # features of 11 bits
            assert error <= 1e-3 * (expected + 1 / factor)
            assert slope_error <= 0.05 or factor < 0.1
        else:
            assert error <= 1e-5 * expected + 4e-8 / factor + 1e-6
            assert slope_error <= 1e-4


@pytest.mark.gpu
@needs_gpu
def test_gpu_is_chosen_by_auto() -> None:
    features, labels = gpu_batch(2000, 10, 2)
    given = features, features[:500], features.double(), features.repeat(1, 26)
    found = [build_pairwise_batch(each, labels[: len(each)]).backend for each in given]
    assert found == ["fused", "dense", "tiled", "tiled"]


@pytest.mark.gpu
@needs_gpu
def test_gpu_allowing_tf32_elsewhere_changes_nothing() -> None:
    features, labels = gpu_batch(2000, 64, 2)
    before, values = torch.get_float32_matmul_precision(), []
    try:
        for allowed in ("highest", "high"):
            torch.set_float32_matmul_precision(allowed)
            values.append(soft_nearest_neighbor_loss(features, labels, 20.0, backend="fused").item())
    finally:
        torch.set_float32_matmul_precision(before)
    assert values[0] == values[1]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dims", [3, 40])
def test_gpu_keeps_nan(dims: int) -> None:
    features, labels = gpu_batch(2000, dims, 2)
    features[7, 0] = torch.nan
    batch = build_pairwise_batch(features, labels, backend="fused")
    batch.features[:] = features  # centering would have spread the NaN
    assert log_odds(batch, torch.ones(1, dtype=torch.float64, device="cuda")).isnan().all()


@pytest.mark.gpu
@needs_gpu
def test_gpu_memory_grows_with_samples_not_with_pairs() -> None:
    features, labels = gpu_batch(65536, 10, 2)
    leaf = features.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    soft_nearest_neighbor_loss(leaf, labels, 2.0, backend="fused").backward()  # type: ignore[no-untyped-call]
    assert torch.cuda.max_memory_allocated() - before < 100e6
