"""``snngan doctor`` and ``snngan experiment list``: tables that fit the terminal."""

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

from snngan.cli.output import display_width
from snngan.experiments import EXPERIMENTS

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def short_paths(own_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "torch")
    monkeypatch.setenv("SNNGAN_DATA", "data")


def rows(text: str) -> dict[str, str]:
    """Return what stands in the second column by what stands in the first; long texts go on below."""
    whole = re.sub(r"\n {20}", " ", text)
    return {line[:19].strip(): line[19:].strip() for line in whole.splitlines()}


def test_everything_is_named(cli: Cli, tmp_path: Path) -> None:
    text = cli("doctor").out
    assert re.match(rf"snngan \S+, Python {sys.version_info[0]}\.{sys.version_info[1]}\.", text)
    found = rows(text)
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
    assert found["Inception weights"].endswith("they belong in torch/hub/checkpoints")
    assert found["digits"] == "embedded (scikit-learn)"
    assert text.endswith("problems: none\n")
    assert not list(tmp_path.iterdir())


def test_what_is_here_is_found(cli: Cli) -> None:
    Path("torch/hub/checkpoints").mkdir(parents=True)
    Path("torch/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth").touch()
    Path("mine").mkdir()
    Path("mine/svhn.npz").touch()
    found = rows(cli("doctor --data-dir mine").out)
    assert found["svhn"] == "mine/svhn.npz"
    assert found["Inception weights"] == "in torch/hub/checkpoints"
    assert found["data folder"].startswith("mine, ")


@pytest.mark.parametrize("data_dir", [[], ["--data-dir", "a folder/of data"], ["--data-dir", "数据"]])
def test_it_fits_80_columns(cli: Cli, data_dir: list[str]) -> None:
    for line in cli(["doctor", *data_dir]).out.splitlines():
        assert display_width(line) <= 80 or " " not in line.strip(), line


def test_a_missing_or_old_package_is_a_problem_and_a_missing_extra_is_not(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = [
        "click>=8.2", "torch>=99", "not-there<3,>=2", "elsewhere>=1; sys_platform == 'nowhere'",
        "not-there-either>=1; extra == 'more'", "numpy>=99; extra == 'arrays'",
    ]  # fmt: skip
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    text = cli("doctor").out
    found = rows(text.split("problems:")[0])
    assert found["click"] == importlib.metadata.version("click")
    assert found["not-there"] == "missing: pip install 'not-there<3,>=2'"
    assert found["not-there-either"] == "missing (extra more): pip install 'snngan[more]'"
    assert "elsewhere" not in text
    version = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    assert re.sub(r"\n {4,}", " ", text.split("problems:\n")[1]).splitlines() == [
        f"  torch is {version['torch']}, and >=99 is needed: pip install 'torch>=99'",
        "  not-there is missing: pip install 'not-there<3,>=2'",
        f"  numpy is {version['numpy']}, and >=99 is needed: pip install 'snngan[arrays]'",
    ]


def test_a_source_folder_that_is_not_installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert "problems:\n  snngan is not installed, so what it needs is not known: pip install" in cli("doctor").out


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_a_package_that_does_not_load(cli: Cli, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    text = cli("doctor").out
    assert f"\n  {package} " in text
    assert re.search(rf"problems:\n(.*\n)*  .*import of {package}\b", text)
    assert ("digits" in text) == (package == "torchvision")


def test_little_room_and_a_folder_that_is_read_only(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.3e9))
    text = cli("doctor").out
    assert rows(text)["data folder"] == "data, 0.3 GB free"
    assert len(re.findall(r"make\s+room, or\s+name\s+another\s+folder, --(?:run|data)-dir\s+DIR", text)) == 2
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    text = cli("doctor").out
    assert len(re.findall(r"cannot\s+be\s+written\s+to: name\s+another\s+folder, --(?:run|data)-dir\s+DIR", text)) == 2


def test_devices(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = rows(cli("doctor").out)
    assert (found["device"], found["torch is built for"]) == ("cuda (Some GPU)", "CUDA 12.8")

    def unavailable() -> bool:
        warnings.warn("The driver is too old\nand more", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    text = cli("doctor").out
    assert rows(text)["device"].startswith("cpu, ")
    assert "torch cannot use the GPU (The driver is too old): update its driver" in re.sub(r"\s+", " ", text)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    text = cli("doctor").out
    assert rows(text)["torch is built for"] == "the CPU only"
    assert "for the GPU, pip install --force-reinstall torch" in re.sub(r"\s+", " ", text)


def test_on_windows_one_line_says_what_to_use(refused: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        refused("doctor", "on Windows, install it in WSL")


@pytest.mark.parametrize("word", ["", "figure", "Frosst"])
def test_the_experiments_fit_80_columns_and_nothing_is_lost(cli: Cli, word: str) -> None:
    text = cli(f"experiment list {word}").out
    assert max(map(display_width, text.splitlines())) <= 80
    joined = re.sub(r"\n {24}(?! )", " ", text).splitlines()
    whole = [f"{name:22}  {EXPERIMENTS[name].summary} ({EXPERIMENTS[name].source})" for name in EXPERIMENTS.names()]
    assert joined == [line for line in whole if word in line]
    assert joined
