"""Runs that are stopped: by a signal, they save and say how to go on; killed, they go on from the last checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import snngan
from snngan.objectives import NonSaturating

Cli = Callable[..., Any]
RUN = Path("run")


def metrics(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def parts_of(run: Path) -> dict[str, Tensor]:
    """Return every tensor of a run's newest checkpoint, by its place."""
    found: dict[str, Tensor] = {}

    def walk(place: str, value: Any) -> None:
        if isinstance(value, dict | list | tuple):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                walk(f"{place}/{key}", each)
        else:
            found[place] = value if isinstance(value, Tensor) else torch.tensor(float(hash(value)))

    newest = max((run / "checkpoints").glob("*.pt"))
    walk("", torch.load(newest, weights_only=True))
    return found


def start(command: str) -> subprocess.Popen[str]:
    """Run a command in a process of its own, with as many threads as this one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    arguments = [sys.executable, "-W", "error", "-m", "snngan", *command.split()]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stop(process: subprocess.Popen[str], number: int, step: int) -> tuple[int, str, str]:
    """Send a signal once the run has reached ``step``; return the exit status and what was printed."""
    deadline = time.monotonic() + 60
    try:
        while not (lines := metrics(RUN)) or lines[-1]["step"] < step:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run is too slow"
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.slow
def test_stopped_by_sigterm_then_killed_a_resumed_run_is_the_unbroken_one(cli: Cli, tiny: str) -> None:
    intervals = "--log-every 5 --sample-every 50 --checkpoint-every 20"
    options = f"{tiny} --objective snnl-projected --steps 110 {intervals}"

    status, out, err = stop(start(f"train {options} --run-dir run"), signal.SIGTERM, 10)
    assert status == 143
    saved = re.fullmatch(r"SIGTERM: saved at step (\d+); go on with: snngan resume run", out.splitlines()[-1])
    assert saved
    first = int(saved[1])
    assert 10 <= first < 55
    assert "Traceback" not in err

    status, _, _ = stop(start("resume run"), signal.SIGKILL, 60)
    assert status == -signal.SIGKILL
    reached = int(metrics(RUN)[-1]["step"])
    assert 60 <= reached < 105

    said = cli("resume run")
    newest = reached - reached % 20  # or one of a little later
    assert re.match(rf"resuming run at step ({newest - 20}|{newest}|{newest + 20}) of 110", said.out)
    assert "trained 110 steps" in said.out

    cli(f"train {options} --run-dir unbroken")
    expected, found = parts_of(Path("unbroken")), parts_of(RUN)
    assert expected.keys() == found.keys()
    for part in ("generator", "averaged", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        assert any(key.startswith(f"/players/{part}/") for key in found)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert metrics(RUN) == metrics(Path("unbroken"))
    assert [line["step"] for line in metrics(RUN)] == list(range(0, 111, 5))
    for picture in Path("unbroken/samples").iterdir():
        assert (RUN / "samples" / picture.name).read_bytes() == picture.read_bytes()


def signals(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let the signals arrive in the middle of step 3."""
    normal, calls = NonSaturating.generator_loss, []

    def loss(self: NonSaturating, *args: Any) -> Tensor:
        calls.append(None)
        if len(calls) == 3:
            for number in numbers:
                os.kill(os.getpid(), number)
        return normal(self, *args)

    monkeypatch.setattr(NonSaturating, "generator_loss", loss)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_step_end_and_saves_it(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, number: int, status: int
) -> None:
    before = signal.signal(number, lambda number, frame: pytest.fail("it was not caught"))
    request.addfinalizer(lambda: signal.signal(number, before))
    before_run = signal.getsignal(number)
    signals(monkeypatch, number)
    said = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", status)
    expected = f"{signal.Signals(number).name}: saved at step 3; go on with: snngan resume run"
    assert said.out.splitlines()[-1] == expected
    assert sum("snngan resume" in line for line in said.out.splitlines()) == 1
    assert (RUN / "checkpoints" / "step-00000003.pt").exists()
    assert signal.getsignal(number) is before_run
    assert cli("resume run --dry-run --device cpu").out == "resuming run at step 3 of 50, on cpu\n"


def test_sigterm_after_sigint_is_no_impatience(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signals(monkeypatch, signal.SIGINT, signal.SIGTERM)
    said = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", 130)
    assert said.out.endswith("SIGINT: saved at step 3; go on with: snngan resume run\n")


def test_a_second_sigint_leaves_at_once(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    signals(monkeypatch, signal.SIGINT, signal.SIGINT)
    said = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", 130)
    assert said.err.splitlines()[-1].startswith("Error: interrupted")
    assert [path.name for path in (RUN / "checkpoints").glob("*.pt")] == ["step-00000002.pt"]
    assert not list(RUN.rglob("*.part"))
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupted_run_that_was_given_more_steps_remembers_them(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli(f"train {tiny} --objective gan --steps 4 --run-dir run")
    with monkeypatch.context() as patch:
        signals(patch, signal.SIGINT)
        cli("resume run --steps 40", 130)
    assert cli("resume run --dry-run --device cpu").out == "resuming run at step 7 of 40, on cpu\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("out", ["grid.png", "images.npz", "folder"])
def test_other_commands_leave_nothing_half_written(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
    number: int, status: int, out: str,
) -> None:  # fmt: skip
    before, normal = signal.signal(number, signal.SIG_DFL), os.replace  # as it is, unless the tests run under nohup
    request.addfinalizer(lambda: signal.signal(number, before))

    def replace(*places: Any) -> None:
        os.kill(os.getpid(), number)
        normal(*places)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        said = cli(f"sample {finished} --out {out} --count 4", status)
    assert said.err == f"Error: ended by {signal.Signals(number).name}\n"
    assert not [path for path in Path().rglob("*") if path.is_file()]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_command_under_nohup_goes_on(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    before, normal = signal.signal(signal.SIGHUP, signal.SIG_IGN), os.replace
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    monkeypatch.setattr(os, "replace", lambda *places: (os.kill(os.getpid(), signal.SIGHUP), normal(*places)))
    cli(f"sample {finished} --out grid.png --count 4")
    assert Path("grid.png").exists()
