"""``snngan doctor``: what it finds, and the problems that it reports."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from snngan.cli.output import count_columns

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def short_paths(temporary_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "torch")
    monkeypatch.setenv("SNNGAN_DATA", "data")


def parse_rows(text: str) -> dict[str, str]:
    """Return the texts of the second column by those of the first."""
    whole = re.sub(r"\n {20}", " ", text)
    return {line[:19].strip(): line[19:].strip() for line in whole.splitlines()}


def join_lines(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_report_of_an_installation(cli: Cli, tmp_path: Path) -> None:
    text = cli("doctor").out
    assert re.match(rf"snngan \S+, Python {sys.version_info[0]}\.{sys.version_info[1]}\.", text)
    found = parse_rows(text)
    for requirement in importlib.metadata.requires("snngan") or []:
        name = re.match(r"[\w.-]+", requirement)
        assert name
        extra = re.search("extra == .([a-z]+)", requirement)
        try:
            assert found[name[0]].startswith(importlib.metadata.version(name[0]))
        except importlib.metadata.PackageNotFoundError:
            assert found[name[0]].startswith("missing")
        assert (extra is None) == ("extra" not in found[name[0]])
        assert extra is None or f"(extra {extra[1]})" in found[name[0]]
    build = torch.version.cuda or torch.version.hip or "CPU"
    assert build in found["torch is built for"]
    assert re.match("cuda|cpu", found["device"])
    for name in ("run folder", "data folder"):
        assert re.search(r"^\S+, \d+\.\d GB free", found[name])
    assert "missing" in found["Inception weights"]
    assert found["Inception weights"].endswith("expected in torch/hub/checkpoints")
    assert found["digits"] == "embedded (scikit-learn)"
    assert text.endswith("problems: none\n")
    assert not list(tmp_path.iterdir())


def test_weights_and_data_are_found(cli: Cli) -> None:
    Path("torch/hub/checkpoints").mkdir(parents=True)
    Path("torch/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth").touch()
    Path("mine").mkdir()
    Path("mine/svhn.npz").touch()
    found = parse_rows(cli("doctor --data-dir mine").out)
    assert found["svhn"] == "mine/svhn.npz"
    assert found["Inception weights"] == "found in torch/hub/checkpoints"
    assert found["data folder"].startswith("mine, ")


@pytest.mark.parametrize("data_dir", [[], ["--data-dir", "a folder/of data"], ["--data-dir", "数据"]])
def test_report_fits_80_columns(cli: Cli, data_dir: list[str]) -> None:
    for line in cli(["doctor", *data_dir]).out.splitlines():
        assert count_columns(line) <= 80 or " " not in line.strip(), line


def test_missing_and_old_packages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = """click>=8.2
        torch>=99
        not-there<3,>=2
        elsewhere>=1; sys_platform == 'nowhere'
        not-there-either>=1; extra == 'more'
        numpy>=99; extra == 'arrays'"""
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements.splitlines())
    text = cli("doctor").out
    found = parse_rows(text.split("problems:")[0])
    assert found["click"] == importlib.metadata.version("click")
    assert found["not-there"] == "missing: pip install 'not-there<3,>=2'"
    assert found["not-there-either"] == "missing (extra more): pip install 'snngan[more]'"
    assert "elsewhere" not in text
    version = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    assert re.sub(r"\n {4,}", " ", text.split("problems:\n")[1]).splitlines() == [
        f"  torch must be >=99, got {version['torch']}: pip install 'torch>=99'",
        "  not-there is missing: pip install 'not-there<3,>=2'",
        f"  numpy must be >=99, got {version['numpy']}: pip install 'snngan[arrays]'",
    ]


def test_package_that_is_not_installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert "problems:\n  snngan is not installed, so its requirements are unknown: pip install" in cli("doctor").out


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_package_that_cannot_be_imported(cli: Cli, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    text = cli("doctor").out
    assert f"\n  {package} " in text
    assert re.search(rf"problems:\n(.*\n)*  .*import of {package}\b", text)
    assert ("digits" in text) == (package == "torchvision")


def test_full_disk_and_read_only_folder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.3e9))
    text = cli("doctor").out
    assert parse_rows(text)["data folder"] == "data, 0.3 GB free"
    assert (
        len(re.findall(r"free some space, or name another folder with --(?:run|data)-dir DIR", join_lines(text))) == 2
    )
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    text = cli("doctor").out
    assert (
        len(re.findall(r"cannot be written to: name another folder with --(?:run|data)-dir DIR", join_lines(text))) == 2
    )


def test_devices(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = parse_rows(cli("doctor").out)
    assert (found["device"], found["torch is built for"]) == ("cuda (Some GPU)", "CUDA 12.8")

    def unavailable() -> bool:
        warnings.warn("The driver is too old\nand more", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    text = cli("doctor").out
    assert parse_rows(text)["device"].startswith("cpu, ")
    assert "torch cannot use the GPU (The driver is too old): update its driver" in join_lines(text)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    text = cli("doctor").out
    assert parse_rows(text)["torch is built for"] == "the CPU only"
    assert "for the GPU, pip install --force-reinstall torch" in join_lines(text)


def test_windows_is_not_supported(refused: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        refused("doctor", "on Windows, install it in WSL")
