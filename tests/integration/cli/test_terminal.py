"""The progress line of training, on a terminal and in a log."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration.cli.conftest import CLASSIFIER

from snngan.cli import output
from snngan.cli.output import SHOWN_SCALARS, Progress

Cli = Callable[..., Any]
GAN = {"loss/generator": 0.69315, "loss/discriminator": 12345.0, "entanglement/input_score": 0.41234}
LINE = "step 150/300  12.4 steps/s  0:00:12 left  entanglement 0.412  loss G 0.693  loss D 1.23e+04  795 images/s"


def progress_lines(text: str) -> list[str]:
    """Return every version of the progress line."""
    return [line for line in re.split(r"\r\x1b\[K|\r?\n", text) if line.startswith("step ")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes the output a terminal with so many columns, repainted at each step."""

    def make(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setattr(output, "REPAINT_EVERY_SECONDS", 0)

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the time that the progress line reads."""
    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])

    def at(seconds: float) -> None:
        now[0] = 100.0 + seconds

    return at


@pytest.mark.parametrize("columns", [12, 13, 28, 57, 80, 104, 107, 108, 300])
def test_narrow_terminal_drops_the_last_parts_of_the_line(
    terminal: Cli, clock: Cli, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    terminal(columns)
    progress = Progress(300, 64, "images")
    progress(1, GAN)
    clock(149 / 12.42)
    progress(150, GAN)
    progress.end()
    line, parts = progress_lines(capsys.readouterr().err)[-1], LINE.split("  ")
    assert len(line) < columns
    kept = line.split("  ")
    assert kept == parts[: len(kept)] or line == LINE[: columns - 1]
    assert kept == parts or len("  ".join(parts[: len(kept) + 1])) >= columns


def test_log_gets_a_line_every_ten_seconds_and_at_the_end(clock: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(300, 64, "images")
    for step in range(1, 301):  # four steps a second
        clock(step / 4)
        progress(step, GAN)
    progress.end()
    lines = capsys.readouterr().err.split("\n")
    assert [line.split("/")[0] for line in lines[:-1]] == [f"step {step}" for step in (*range(1, 300, 40), 300)]
    assert lines[1] == (
        "step 41/300  4.0 steps/s  0:01:05 left  entanglement 0.412  loss G 0.693  loss D 1.23e+04  256 images/s"
    )
    assert lines[-1] == ""


@pytest.mark.parametrize("kind", ["gan", "classifier"])
def test_values_are_those_of_the_metrics_file(cli: Cli, tiny: str, terminal: Cli, kind: str) -> None:
    """A value that was not measured in this step shows its own step."""
    options = {"gan": f"train {tiny} --objective gan", "classifier": f"classify train {CLASSIFIER}"}[kind]
    terminal(200)
    start = cli(f"{options} --log-every 4 --checkpoint-every 2 --steps 6 --run-dir shown")
    resumed = cli("resume shown --steps 11")
    rows = {row["step"]: row for row in map(json.loads, Path("shown/metrics.jsonl").read_text().splitlines())}
    slow, measured = "entanglement" if kind == "gan" else "accuracy", {}
    for line in progress_lines(start.err + resumed.err):
        step = int(line.split()[1].partition("/")[0])
        for name, tag in SHOWN_SCALARS:
            if found := re.search(rf"  {name} (-?\d\S*)(?: \(step (\d+)\))?(?=  |$)", line):
                measured_at = int(found[2] or step)
                assert measured_at == step or name == slow
                assert measured_at not in rows or found[1] == f"{rows[measured_at][tag]:.3g}"
                measured[step, name] = measured_at
    assert {step: at for (step, name), at in measured.items() if name == slow} == {
        4: 4, 5: 4, 6: 6, 8: 8, 9: 8, 10: 8, 11: 11
    }  # fmt: skip


@pytest.mark.parametrize("command", ["train {tiny} --objective wgan-gp", f"classify train {CLASSIFIER} --seeds 0:3"])
def test_lines_fit_80_columns(cli: Cli, tiny: str, terminal: Cli, command: str) -> None:
    terminal(80)
    printed = cli(command.format(tiny=tiny) + " --steps 3 --run-dir r")
    assert all(len(line) < 80 for line in progress_lines(printed.err))
    assert printed.err.endswith("\n")
    description = printed.out.partition("run        r\n")[0].splitlines()
    assert all(len(line) <= 80 for line in description if " " in line.strip())
    assert any(line.startswith(" " * 11) for line in description)


def test_error_on_a_terminal_starts_a_new_line(
    cli: Cli, tiny: str, terminal: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(80)
    factors = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr(
        "snngan.objectives.NonSaturating.generator_loss", lambda *args: args[-1].images.sum() * next(factors)
    )
    assert re.match(r"\r\x1b\[Kstep 1/5 .*\nError: step 3", cli(f"train {tiny} --objective gan --steps 5", 1).err)
