"""A full disk: one line that names the file, exit status 2, and existing files stay as they were."""

from __future__ import annotations

import builtins
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from reference.files import Watched

import snngan

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
    ("part", "named"),
    [
        ("step-00000008.pt.part", r"run/checkpoints/step-00000008\.pt"),
        ("step-00000008.pt.sha256.part", r"run/checkpoints/step-00000008\.pt\.sha256"),
        ("metrics.jsonl", r"run/metrics\.jsonl"),
        (".png.part", r"run/samples/step-00000008\.png"),
        ("events.out.tfevents", r"run/events\.out\.tfevents\.[0-9.]+"),
        ("tensors.tsv", r"run/projector/step-00000008/tensors\.tsv"),
        ("sprite.png", r"run/projector/step-00000008/sprite\.png"),
        ("config.json", r"run/config\.json"),
    ],
)
def test_disk_full_while_training(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, part: str, named: str) -> None:
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    config = json.loads((run / "config.json").read_text())["config"]
    with monkeypatch.context() as patch:
        fill_disk(patch, part)
        said = cli(f"resume {run} --steps 8", 2)
    errors = [line for line in said.err.splitlines() if not line.startswith("step ")]
    assert len(errors) == 1, errors
    hint = f"; make room, then continue by: snngan resume {run}"
    assert re.fullmatch(f"Error: {named} {FULL}{hint}", errors[0])
    assert {path: path.read_bytes() for path in (run / "checkpoints").glob("*.pt")}.items() <= before.items()
    assert not list(run.rglob("*.part"))
    if part == "config.json":
        assert json.loads((run / "config.json").read_text())["config"] == config
    assert "trained 8 steps" in cli(f"resume {run} --steps 8").out


def test_disk_full_at_the_start_leaves_no_folder(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, "config.json")
        said = cli(f"train {tiny} --steps 2 --run-dir run", 2)
    assert said.err == f"Error: run/config.json {FULL}\n"
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "command",
    ["sample {} --out old.npz --force", "sample {} --out old.png --force", "interpolate {} --out old.png --force"],
)
def test_disk_full_keeps_the_old_image(cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    name = command.split()[3]
    Path(name).write_text("mine")
    with monkeypatch.context() as patch:
        fill_disk(patch, "old.")
        said = cli(command.format(finished), 2)
    assert said.err == f"Error: {name} {FULL}\n"
    assert os.listdir() == [name]
    assert Path(name).read_text() == "mine"


def test_disk_full_while_writing_a_folder_of_images(cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, "000003.png.part")
        said = cli(f"sample {finished} --out folder", 2)
    assert said.err == f"Error: folder {FULL}\n"


LIMITED = """
import resource, signal, sys
from snngan.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit, *command in (line.split() for line in sys.stdin):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        main(command)
    except SystemExit as left:
        print("status", left.code, file=sys.stderr, flush=True)
"""


@pytest.mark.slow
def test_operating_system_refuses_large_files(run: Path, tmp_path: Path) -> None:
    """The same in a process with a limit on the size of files, so that the operating system itself raises the error."""
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    events = {path.name for path in run.glob("events*")}
    sizes = {"event": 1000, "checkpoint": 20_000, "sample": 2000}
    assert min(path.stat().st_size for path in run.glob("checkpoints/*.pt")) > sizes["checkpoint"]
    commands = [
        f"{sizes['event']} resume run --steps 8",
        f"{sizes['checkpoint']} resume run --steps 8",
        f"{sizes['sample']} sample run --count 500 --out s.npz",
        f"{sizes['sample']} sample run --count 500 --out s.png",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED], input="\n".join(commands), capture_output=True, text=True,
        env=environment, timeout=100,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if not line.startswith("step ")]
    assert lines[1::2] == ["status 2"] * 4, done.stderr
    named = [r"run/config\.json", r"run/checkpoints/step-00000008\.pt", r"s\.npz", r"s\.png"]
    hints = [*2 * ["; make room, then continue by: snngan resume run"], "", ""]
    for line, name, hint in zip(lines[::2], named, hints, strict=True):
        assert re.fullmatch(f"Error: {name} could not be written: File too large{hint}", line)
    assert {path: path.read_bytes() for path in (run / "checkpoints").glob("*.pt")}.items() <= before.items()
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.glob("s.*"))
    assert len(list(run.glob("events*"))) == len(events) + 1
