"""A full disk: one line that names the file, exit status 2, and existing files stay as they were."""

from __future__ import annotations

import builtins
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from reference.files import Watched

Cli = Callable[..., Any]
FULL = "could not be written: No space left on device"


def fill_disk(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Make every write fail to files whose path contains ``part``."""
    original = builtins.open

    def fail(*args: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_failing(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = original(file, mode, *args, **options)
        return Watched(opened, fail) if set(mode) & set("wax") and part in str(file) else opened

    monkeypatch.setattr(builtins, "open", open_failing)
    monkeypatch.setattr("io.open", open_failing)  # what pathlib calls


@pytest.mark.parametrize(
    "part",
    ["checkpoints/.", "metrics.jsonl", "samples/.", "events.out.tfevents", "tensors.tsv", "sprite.png", "config.json"],
)
def test_disk_full_while_training(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    before = {path: path.read_bytes() for path in (*(run / "checkpoints").iterdir(), run / "config.json")}
    with monkeypatch.context() as patch:
        fill_disk(patch, part)
        said = cli(f"resume {run} --steps 8", 2)
    (error,) = (line for line in said.err.splitlines() if not line.startswith("step "))
    assert re.fullmatch(rf"Error: run/\S+ {FULL}; make room or .*, then continue by: snngan resume run", error)
    assert part.partition("/")[0] in error
    assert {path: path.read_bytes() for path in (run / "checkpoints").glob("*")}.items() <= before.items()
    assert part != "config.json" or (run / "config.json").read_bytes() == before[run / "config.json"]
    assert not list(run.rglob("*.part"))
    assert "trained 8 steps" in cli(f"resume {run} --steps 8").out


def test_disk_full_at_the_start_leaves_no_folder(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, "config.json")
        said = cli(f"train {tiny} --steps 2 --run-dir run", 2)
    assert said.err == f"Error: run/config.json {FULL}\n"
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["old.png", "old.npz"])
def test_disk_full_keeps_the_old_image(cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Path(name).write_text("mine")
    with monkeypatch.context() as patch:
        fill_disk(patch, "old.")
        said = cli(f"sample {finished} --out {name} --force", 2)
    assert said.err == f"Error: {name} {FULL}\n"
    assert os.listdir() == [name]
    assert Path(name).read_text() == "mine"
