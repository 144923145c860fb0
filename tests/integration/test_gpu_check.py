"""The check of a GPU, in miniature on a CPU, and its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def call(script: str, *words: str) -> str:
    """Return what a script prints."""
    command = [sys.executable, str(SCRIPTS / script), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(folder: Path, *words: str) -> str:
    return call("gpu_check", "--device", "cpu", "--smoke", f"--out={folder}", f"--work={folder / 'work'}", *words)


@pytest.mark.slow
def test_parts_are_done_once_and_reported(tmp_path: Path) -> None:
    done = check(tmp_path, "quickstart", "loss").splitlines()
    parts = ["quickstart: train", "quickstart: sample", "loss: D = 10", "loss: D = 128"]
    assert [line.partition(": done in ")[0] for line in done] == parts
    assert check(tmp_path, "quickstart", "loss") == ""
    assert set(json.loads((tmp_path / "loss.json").read_text())["parts"]) == {"D = 10", "D = 128"}
    report = call("gpu_report", str(tmp_path))
    assert "## Loss" in report
    assert "| 128 | 2048 | tiled |" in report
    assert "![samples](quickstart.png)" in report


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    assert check(tmp_path, "--minutes=0", "loss").splitlines()[0] == "loss: D = 10: left out, no time left"
    assert not (tmp_path / "loss.json").exists()
