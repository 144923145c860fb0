"""``snngan doctor``: what it finds, and the problems that it reports."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def short_paths(own_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "torch")
    monkeypatch.setenv("SNNGAN_DATA", "data")


def parse_rows(text: str) -> dict[str, str]:
    """Return the texts of the second column by those of the first."""
    return {line[:19].strip(): line[19:].strip() for line in text.splitlines()}


def test_report_of_an_installation(cli: Cli) -> None:
    text = cli("doctor").out
    found = parse_rows(text)
    assert found["torch"] == importlib.metadata.version("torch")
    assert "(extra search)" in found["optuna"]
    assert found["device"].startswith(("cuda", "cpu"))
    assert found["run folder"].startswith("runs, ")
    assert found["Inception weights"].startswith("missing")
    assert found["Inception weights"].endswith("expected in torch/hub/checkpoints")
    assert found["digits"] == "embedded (scikit-learn)"
    assert text.endswith("problems: none\n")
    assert not os.listdir()


def test_weights_and_data_are_found(cli: Cli) -> None:
    Path("torch/hub/checkpoints").mkdir(parents=True)
    Path("torch/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth").touch()
    Path("mine").mkdir()
    Path("mine/svhn.npz").touch()
    found = parse_rows(cli("doctor --data-dir mine").out)
    assert found["svhn"] == "mine/svhn.npz"
    assert found["Inception weights"] == "found in torch/hub/checkpoints"
    assert found["data folder"].startswith("mine, ")


def test_missing_and_old_packages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["torch>=99", "not-there<3,>=2", "nor-this>=1; extra == 'more'", "numpy>=99; extra == 'arrays'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    text, _, problems = cli("doctor").out.partition("problems:\n")
    found = parse_rows(text)
    assert found["not-there"] == "missing: pip install 'not-there<3,>=2'"
    assert found["nor-this"] == "missing (extra more): pip install 'snngan[more]'"
    version = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    assert [line.strip() for line in problems.splitlines()] == [
        f"torch must be >=99, got {version['torch']}: pip install 'torch>=99'",
        "not-there is missing: pip install 'not-there<3,>=2'",
        f"numpy must be >=99, got {version['numpy']}: pip install 'snngan[arrays]'",
    ]


def test_package_that_cannot_be_imported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "import of torchvision" in cli("doctor").out.partition("problems:\n")[2]


def test_full_disk_and_torch_without_cuda(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.3e9))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    text, _, problems = cli("doctor").out.partition("problems:\n")
    assert parse_rows(text)["data folder"] == "data, 0.3 GB free"
    assert "torch is built for the CPU only" in problems
    for kind in ("run", "data"):
        assert f"name another folder with --{kind}-dir DIR" in problems
