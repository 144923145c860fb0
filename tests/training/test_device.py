"""The names of devices."""

from __future__ import annotations

import pytest
import torch

from snngan.training.device import choose_device


def with_cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_names(monkeypatch: pytest.MonkeyPatch, name: str, count: int, expected: str) -> None:
    with_cuda(monkeypatch, count)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_no_cuda(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_cuda(monkeypatch, 0)
    with pytest.raises(ValueError, match=rf"--device {name}: no CUDA device is available .*; use --device cpu"):
        choose_device(name)


def test_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(monkeypatch, 2)
    with pytest.raises(ValueError, match="--device cuda:2: there are only 2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "CUDA", "mps", "cuda:0:1"])
def test_other_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_cuda(monkeypatch, 1)
    with pytest.raises(ValueError, match=f"--device takes auto, cpu, cuda or cuda:N, not '{name}'"):
        choose_device(name)
