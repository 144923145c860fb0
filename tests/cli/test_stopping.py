"""Stopped runs: on a signal they save and name the command that continues; killed, they lose no checkpoint."""

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
from reference.states import differences
from torch import Tensor

import snngan
from snngan.objectives import NonSaturating

Cli = Callable[..., Any]
RUN = Path("run")


def read_metrics(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def load_newest_checkpoint(run: Path) -> Any:
    return torch.load(max((run / "checkpoints").glob("*.pt")), weights_only=True)


def start(command: str) -> subprocess.Popen[str]:
    """Run a command in another process, with one thread as here."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    arguments = [sys.executable, "-W", "error", "-m", "snngan", *command.split()]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stop(process: subprocess.Popen[str], number: int, step: int) -> tuple[int, str, str]:
    """Send a signal once the run has reached ``step``; return the exit status and what was printed."""
    deadline = time.monotonic() + 60
    try:
        while not (lines := read_metrics(RUN)) or lines[-1]["step"] < step:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run is too slow"
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.slow
def test_run_stopped_by_sigterm_and_sigkill_equals_the_unbroken_one(cli: Cli, tiny: str) -> None:
    intervals = "--log-every 5 --sample-every 50 --checkpoint-every 20"
    options = f"{tiny} --objective snnl-projected --steps 110 {intervals}"

    status, out, err = stop(start(f"train {options} --run-dir run"), signal.SIGTERM, 10)
    assert status == 143
    saved = re.fullmatch(r"SIGTERM: saved at step (\d+); continue by: snngan resume run", out.splitlines()[-1])
    assert saved
    first = int(saved[1])
    assert 10 <= first < 55
    assert "Traceback" not in err

    status, _, _ = stop(start("resume run"), signal.SIGKILL, 60)
    assert status == -signal.SIGKILL
    reached = int(read_metrics(RUN)[-1]["step"])
    assert 60 <= reached < 105

    output = cli("resume run")
    newest = reached - reached % 20  # or the next, if the signal came late
    assert re.match(rf"resuming run at step ({newest - 20}|{newest}|{newest + 20}) of 110", output.out)
    assert "trained 110 steps" in output.out

    cli(f"train {options} --run-dir unbroken")
    assert not differences(load_newest_checkpoint(RUN), load_newest_checkpoint(Path("unbroken")))
    assert read_metrics(RUN) == read_metrics(Path("unbroken"))
    assert [line["step"] for line in read_metrics(RUN)] == list(range(0, 111, 5))
    for picture in Path("unbroken/samples").iterdir():
        assert (RUN / "samples" / picture.name).read_bytes() == picture.read_bytes()


def send_signals(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Send the signals to this process in the middle of step 3."""
    original, calls = NonSaturating.generator_loss, []

    def loss(self: NonSaturating, *args: Any) -> Tensor:
        calls.append(None)
        if len(calls) == 3:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(self, *args)

    monkeypatch.setattr(NonSaturating, "generator_loss", loss)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_after_the_step(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, number: int, status: int
) -> None:

    def handler(number: int, frame: Any) -> None:
        pytest.fail("the signal was not handled")

    before = signal.signal(number, handler)
    request.addfinalizer(lambda: signal.signal(number, before))
    send_signals(monkeypatch, number)
    output = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", status)
    expected = f"{signal.Signals(number).name}: saved at step 3; continue by: snngan resume run"
    assert output.out.splitlines()[-1] == expected
    assert sum("snngan resume" in line for line in output.out.splitlines()) == 1
    assert (RUN / "checkpoints" / "step-00000003.pt").exists()
    assert signal.getsignal(number) is handler
    assert cli("resume run --dry-run --device cpu").out == "resuming run at step 3 of 50, on cpu\n"


def test_sigterm_after_sigint_still_saves(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send_signals(monkeypatch, signal.SIGINT, signal.SIGTERM)
    output = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", 130)
    assert output.out.endswith("SIGINT: saved at step 3; continue by: snngan resume run\n")


def test_second_sigint_exits_at_once(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    send_signals(monkeypatch, signal.SIGINT, signal.SIGINT)
    output = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", 130)
    assert output.err.splitlines()[-1].startswith("Error: interrupted")
    assert [path.name for path in (RUN / "checkpoints").glob("*.pt")] == ["step-00000002.pt"]
    assert not list(RUN.rglob("*.part"))
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_run_remembers_its_new_last_step(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cli(f"train {tiny} --objective gan --steps 4 --run-dir run")
    with monkeypatch.context() as patch:
        send_signals(patch, signal.SIGINT)
        cli("resume run --steps 40", 130)
    assert cli("resume run --dry-run --device cpu").out == "resuming run at step 7 of 40, on cpu\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("out", ["grid.png", "images.npz", "folder"])
def test_signal_leaves_no_half_written_file(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
    number: int, status: int, out: str,
) -> None:  # fmt: skip
    before, original = signal.signal(number, signal.SIG_DFL), os.replace  # nohup would ignore it
    request.addfinalizer(lambda: signal.signal(number, before))

    def replace(*places: Any) -> None:
        os.kill(os.getpid(), number)
        original(*places)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        output = cli(f"sample {finished} --out {out} --count 4", status)
    assert output.err == f"Error: ended by {signal.Signals(number).name}\n"
    assert not [path for path in Path().rglob("*") if path.is_file()]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_nohup_protects_a_command(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    before, original = signal.signal(signal.SIGHUP, signal.SIG_IGN), os.replace
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    monkeypatch.setattr(os, "replace", lambda *places: (os.kill(os.getpid(), signal.SIGHUP), original(*places)))
    cli(f"sample {finished} --out grid.png --count 4")
    assert Path("grid.png").exists()
