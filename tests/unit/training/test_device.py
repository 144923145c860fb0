"""Names of devices, memory layouts, and what torch keeps for the whole process."""

from __future__ import annotations

import pytest
import torch

from snngan.training.device import choose_device, choose_layout, set_up


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_names(monkeypatch: pytest.MonkeyPatch, name: str, count: int, expected: str) -> None:
    pretend_cuda(monkeypatch, count)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("cuda", 0, "--device cuda: no CUDA device is available .*; use --device cpu"),
        ("cuda:0", 0, "--device cuda:0: no CUDA device is available .*; use --device cpu"),
        ("cuda:2", 2, "--device cuda:2: there are only 2 CUDA devices"),
        *(
            (name, 1, f"--device .* auto, cpu, cuda or cuda:N, .*'{name}'")
            for name in ("", "gpu", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "CUDA", "mps", "cuda:0:1")
        ),
    ],
)
def test_devices_that_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, count: int, message: str) -> None:
    pretend_cuda(monkeypatch, count)
    with pytest.raises(ValueError, match=message):
        choose_device(name)


@pytest.mark.parametrize(
    ("device", "precision", "last"), [("cpu", "fp32", True), ("cuda", "fp32", False), ("cuda", "bf16", True)]
)
def test_where_channels_lie_last(device: str, precision: str, last: bool) -> None:
    found = choose_layout(torch.device(device), precision)
    assert found == (torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_runs_do_not_choose_algorithms_by_speed(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.backends.cudnn.benchmark
    try:
        set_up(tf32=False, deterministic=deterministic)
        assert torch.backends.cudnn.benchmark == (not deterministic)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    finally:
        set_up(tf32=False)
        torch.backends.cudnn.benchmark = before
