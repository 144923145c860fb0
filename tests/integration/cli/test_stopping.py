"""Stopped commands: a training saves and names the command that continues it, others leave no half-written file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reference.states import differences
from torch import Tensor

from snngan.checkpoint import load_newest
from snngan.objectives import NonSaturating

Cli = Callable[..., Any]


@pytest.fixture
def send_signals(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets this process get signals in the middle of step 3."""
    original = NonSaturating.generator_loss

    def send(*numbers: int) -> None:
        calls = []

        def loss(self: NonSaturating, *args: Any) -> Tensor:
            calls.append(None)
            for number in numbers if len(calls) == 3 else ():
                signal.raise_signal(number)
            return original(self, *args)

        monkeypatch.setattr(NonSaturating, "generator_loss", loss)

    return send


@pytest.mark.parametrize(
    ("numbers", "status"),
    [((signal.SIGINT,), 130), ((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGTERM), 130)],
)
def test_stopped_run_equals_the_unbroken_one_after_resuming(
    cli: Cli, tiny: str, send_signals: Cli, numbers: tuple[int, ...], status: int
) -> None:
    train = f"train {tiny} --objective gan --steps 6"
    before = [signal.getsignal(number) for number in numbers]
    send_signals(*numbers)
    said = cli(f"{train} --run-dir run", status)
    name = signal.Signals(numbers[0]).name
    assert said.out.splitlines()[-1] == f"{name}: saved at step 3; continue by: snngan resume run"
    assert [signal.getsignal(number) for number in numbers] == before
    send_signals()
    assert "resuming run at step 3 of 6" in cli("resume run").out
    cli(f"{train} --run-dir unbroken")
    runs = Path("run"), Path("unbroken")
    assert not differences(*(load_newest(run / "checkpoints", pytest.fail) for run in runs))
    assert len({(run / "metrics.jsonl").read_text() for run in runs}) == 1
    for picture in (runs[1] / "samples").iterdir():
        assert (runs[0] / "samples" / picture.name).read_bytes() == picture.read_bytes()


def test_second_sigint_exits_at_once(cli: Cli, tiny: str, send_signals: Cli) -> None:
    before = signal.getsignal(signal.SIGINT)
    send_signals(signal.SIGINT, signal.SIGINT)
    output = cli(f"train {tiny} --objective gan --steps 50 --run-dir run", 130)
    assert output.err.splitlines()[-1] == "Error: interrupted"
    assert load_newest(Path("run/checkpoints"), pytest.fail)["step"] == 2
    assert not list(Path("run").rglob("*.part"))
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_run_remembers_its_new_last_step(cli: Cli, tiny: str, send_signals: Cli) -> None:
    cli(f"train {tiny} --objective gan --steps 4 --run-dir run")
    send_signals(signal.SIGINT)
    cli("resume run --steps 40", 130)
    assert cli("resume run --dry-run --device cpu").out == "resuming run at step 7 of 40, on cpu\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("out", ["grid.png", "images.npz", "folder"])
def test_signal_leaves_no_half_written_file(
    cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int, out: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *places: signal.raise_signal(number))
        cli(f"sample {finished} --out {out} --count 4", status)
    assert not [path for path in Path().rglob("*") if path.is_file()]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
