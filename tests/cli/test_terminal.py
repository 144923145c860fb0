"""What training prints on a terminal: one progress line, no line wider than the terminal, no stale value."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import snngan
from snngan.cli import output
from snngan.cli.output import SHOWN_SCALARS, Progress, count_columns, get_terminal_width, wrap
from snngan.data.datasets import load_dataset

Cli = Callable[..., Any]
CLASSIFIER = "--dataset digits --arch feedforward --set widths=16-8 --batch-size 64 --device cpu"
VALUE = r"-?\d[\d.e+-]*"


def render(text: str, columns: int) -> list[str]:
    """Return the lines that a terminal shows after ``text``. It wraps long lines, and knows CR, LF and ESC[K."""
    lines, column = [""], 0
    for token in re.findall(r"\x1b\[K|[\s\S]", text):
        if token == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif token == "\r":
            column = 0
        elif token == "\n":
            lines.append("")
            column = 0
        else:
            assert token.isprintable(), repr(token)
            if column + count_columns(token) > columns:
                lines.append("")
                column = 0
            lines[-1] = lines[-1][:column] + token + lines[-1][column + 1 :]
            column += count_columns(token)
    return lines


def progress_lines(text: str) -> list[str]:
    """Return every version of the progress line."""
    return [line for line in re.split(r"\r\x1b\[K|\r?\n", text) if line.startswith("step ")]


def parse_line(line: str) -> tuple[int, dict[str, tuple[int, str]]]:
    """Return the step of a progress line, and the step and text of each value in it by name."""
    found = re.match(r"step (\d+)/\d+", line)
    assert found, line
    step, values = int(found[1]), {}
    for name, _ in SHOWN_SCALARS:
        if value := re.search(rf"  {name} ({VALUE})(?: \(step (\d+)\))?(?=  |$)", line):
            values[name] = (int(value[2] or step), value[1])
    return step, values


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


GAN = {"loss/generator": 0.69315, "loss/discriminator": 12345.0, "entanglement/input_score": 0.41234}
LINE = "step 150/300  12.4 steps/s  0:12 left  entanglement 0.412  loss G 0.693  loss D 1.23e+04  795 images/s"
PARTS = LINE.split("  ")


@pytest.mark.parametrize("columns", [13, 14, 27, 28, 40, 57, 58, 59, 79, 80, 81, 90, 100, 101, 102, 103, 104, 300])
def test_narrow_terminal_drops_the_last_parts_of_the_line(
    terminal: Cli, clock: Cli, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    terminal(columns)
    progress = Progress(300, 64, "images")
    progress(1, GAN)
    clock(149 / 12.42)
    progress(150, GAN)
    progress.end()
    err = capsys.readouterr().err
    line = progress_lines(err)[-1]
    kept = line.split("  ")
    assert kept == PARTS[: len(kept)]
    assert len(line) < columns
    assert kept == PARTS or len("  ".join(PARTS[: len(kept) + 1])) >= columns
    assert render(err, columns) == [line, ""]


def test_very_narrow_terminal_cuts_the_step(terminal: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for columns in (12, 6, 2, 1):
        terminal(columns)
        Progress(300, 64, "images")(300, GAN)
        assert capsys.readouterr().err == f"\r\x1b[K{'step 300/300'[: columns - 1]}"


def test_line_follows_a_resized_terminal(terminal: Cli, clock: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(200)
    progress = Progress(300, 64, "points")
    progress(1, GAN)
    counts, err = [], ""
    for step, columns in enumerate((200, 60, 30, 120), 2):
        terminal(columns)
        clock(float(step))
        progress(step, GAN)
        err += capsys.readouterr().err
        line = progress_lines(err)[-1]
        assert render(err, 200) == [line], "nothing of a longer line is left"
        assert len(line) < columns
        counts.append(len(line.split("  ")))
    assert counts == [7, 4, 2, 7]


def test_older_values_show_their_step(terminal: Cli, clock: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(200)
    progress = Progress(1000, 64, "images")
    seen = {}
    for step in range(401, 561):  # a resumed run on a GPU: losses every 50 steps, entanglement every 100
        clock(step / 10)
        progress(step, GAN if step % 100 == 0 else dict(list(GAN.items())[:2]) if step % 50 == 0 else {})
        seen[step] = parse_line(progress_lines(capsys.readouterr().err)[-1])[1]
    assert [step for step in seen if not seen[step]] == list(range(401, 450))
    assert seen[450] == {"loss G": (450, "0.693"), "loss D": (450, "1.23e+04")}
    assert seen[499] == {"loss G": (450, "0.693"), "loss D": (450, "1.23e+04")}
    assert seen[500]["entanglement"] == seen[560]["entanglement"] == (500, "0.412")
    assert seen[501]["loss G"][0] == seen[549]["loss G"][0] == 500
    assert seen[560]["loss G"][0] == 550


def test_log_gets_a_line_every_ten_seconds_and_at_the_end(clock: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(300, 64, "images")
    for step in range(1, 301):  # four steps a second
        clock(step / 4)
        progress(step, GAN)
    progress.end()
    lines = capsys.readouterr().err.split("\n")
    assert [line.split("/")[0] for line in lines[:-1]] == [f"step {step}" for step in (*range(1, 300, 40), 300)]
    assert lines[-1] == ""
    assert not {"\r", "\x1b"} & set("".join(lines))
    assert lines[1] == (
        "step 41/300  4.0 steps/s  1:05 left  entanglement 0.412  loss G 0.693  loss D 1.23e+04  256 images/s"
    )


@pytest.mark.parametrize("kind", ["gan", "classifier"])
def test_values_are_those_of_the_metrics_file(cli: Cli, tiny: str, terminal: Cli, kind: str) -> None:
    command = f"train {tiny} --objective gan" if kind == "gan" else f"classify train {CLASSIFIER} --checkpoint-every 2"
    terminal(200)
    start = cli(f"{command} --log-every 4 --steps 6 --run-dir shown")
    resumed = cli("resume shown --steps 11")
    rows = {row["step"]: row for row in map(json.loads, Path("shown/metrics.jsonl").read_text().splitlines())}
    slow = "entanglement" if kind == "gan" else "accuracy"
    found = dict(map(parse_line, progress_lines(start.err + resumed.err)))
    assert list(found) == list(range(1, 12))
    assert {step: values[slow][0] for step, values in found.items() if slow in values} == {
        4: 4, 5: 4, 6: 6, 8: 8, 9: 8, 10: 8, 11: 11
    }  # fmt: skip
    tags = dict(SHOWN_SCALARS)
    for step, values in found.items():
        assert len(values) >= 2
        for name, (measured_at, text) in values.items():
            assert measured_at == step or name == slow
            if measured_at in rows:
                assert text == f"{rows[measured_at][tags[name]]:.3g}"


COMMANDS = {
    "projected": "train {tiny} --objective snnl-projected",
    "wgan": "train {tiny} --objective wgan-gp",
    "points": "train {tiny} --dataset gaussians --objective gan",
    "classifier": f"classify train {CLASSIFIER}",
    "seeds": f"classify train {CLASSIFIER} --seeds 0:3 --adversarial-training pgd:0.1:2 --alpha-final 0.00123 "
    "--layers fc1,fc2",
    "points, seeds": f"classify train {CLASSIFIER} --dataset rings --seeds 0,17",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("columns", [80, 50])
def test_no_line_wraps_and_one_progress_line_stays(
    cli: Cli, tiny: str, terminal: Cli, command: str, columns: int
) -> None:
    terminal(columns)
    printed = cli(command.format(tiny=tiny) + " --steps 3 --run-dir r")
    for line in printed.out.splitlines():
        is_one_word = " " not in line.removesuffix(" \\").strip()
        assert count_columns(line) <= columns or is_one_word, line
    shown = render(printed.err, columns)
    assert [line.split(" ")[:2] for line in shown] == [["step", "3/3"], [""]]


def test_wrapped_lines_are_indented(cli: Cli, tiny: str, terminal: Cli) -> None:
    command = f"train {tiny} --objective snnl-projected --steps 2 --run-dir"
    whole = cli(f"{command} one").out.replace("one", "two").splitlines()
    terminal(80)
    lines = cli(f"{command} two").out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("training"))
    assert lines[first + 1].startswith(" " * 11 + "discriminator_")
    joined = re.sub(r"(?: \\)?\n {4,}", " ", "\n".join(lines)).splitlines()
    timeless = [line for line in whole if not line.startswith("trained")]
    assert [line for line in joined if line in timeless] == timeless


@pytest.mark.parametrize("width", [60, 75])
def test_long_path_is_on_its_own_line(cli: Cli, tiny: str, terminal: Cli, width: int) -> None:
    folder = "a folder/" + "x" * (width - len("a folder//checkpoints"))
    terminal(width)
    lines = cli(["train", *tiny.split(), "--steps", "2", "--run-dir", folder]).out.splitlines()
    assert [lines[lines.index(name) + 1].strip() for name in ("metrics", "checkpoints")] == [
        f"{folder}/metrics.jsonl", f"{folder}/checkpoints"
    ]  # fmt: skip
    assert f"{folder}/checkpoints" in lines


def test_log_lines_are_not_wrapped(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = cli(f"train {tiny} --objective snnl-projected --steps 2 --run-dir r").out.splitlines()
    assert sum(line.startswith(("data  ", "objective  ", "networks  ", "training  ", "run  ")) for line in lines) == 5
    assert not [line for line in lines if line.endswith("\\") or line.startswith("   ")]


def test_2d_points_are_not_called_images(cli: Cli, tiny: str) -> None:
    command = f"train {tiny} --dataset gaussians --log-every 1 --steps 3 --run-dir r"
    classify = f"classify train {CLASSIFIER} --dataset gaussians --adversarial-training fgsm:0.1 --steps 3 --run-dir c"
    outputs = {each: cli(each) for each in (
        command, classify, "resume r --steps 4", "sample r --count 9 --out s.npz",
        "interpolate r --side 3 --out p.npz", "data prepare gaussians",
    )}  # fmt: skip
    for each, text in outputs.items():
        assert "image" not in text.out + text.err, (each, text)
    assert "data       gaussians: 9000 2-D points, 1000 held out\n" in outputs[command].out
    assert "gaussians: 9000 2-D points of 8 classes, 1000 held out\n" in outputs[classify].out
    assert re.search(r"\d points/s\n$", outputs[command].err)
    assert outputs["sample r --count 9 --out s.npz"].out.startswith("9 points of step 4 -> s.npz\n")
    assert "gaussians: 9000 training and 1000 held-out 2-D points, 8 classes\n" in outputs["data prepare gaussians"].out
    assert "images/s" in cli(f"train {tiny} --steps 3 --run-dir i").err


def commands_in(out: str) -> list[list[str]]:
    """Return the words of the proposed commands as a shell parses them."""
    return [shlex.split(line)[1:] for line in out.split("next:\n")[1].replace("\\\n", "").splitlines()]


@pytest.mark.parametrize("columns", [None, 50])
def test_next_commands_of_a_generator(cli: Cli, tiny: str, terminal: Cli, columns: int | None) -> None:
    if columns:
        terminal(columns)
    run = "my runs/a generator"
    printed = cli(["train", *tiny.split(), "--steps", "2", "--run-dir", run]).out
    sample, evaluate, compare, report = commands_in(printed)
    assert evaluate == ["evaluate", run]
    assert compare[2:] == [run]
    before = set(Path.cwd().rglob("*"))
    for words in (sample, compare, report):
        cli(words)
    written = {str(path) for path in Path.cwd().rglob("*") if path.suffix in (".png", ".html")} - set(map(str, before))
    assert written == {str(Path(run, name).absolute()) for name in ("grid.png", "report.html")}
    printed = cli(["resume", run, "--steps", "3"]).out
    assert [words[-1] for words in commands_in(printed)] == ["--force", run, run, "--force"]


def test_next_commands_of_a_classifier(cli: Cli) -> None:
    printed = cli(f"classify train {CLASSIFIER} --steps 2 --run-dir r").out
    evaluate, report, board = commands_in(printed)
    assert (evaluate, board) == (["classify", "evaluate", "r"], ["board", "r"])
    assert report == ["report", "r", "--out", "r/report.html"]
    assert "accuracy" in cli(evaluate).out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--dataset digits --data-dir other", "--data-dir {}/other"),
        ("--image-size 4", "--image-size 4"),
        ("--dataset folder:pictures --image-size 8", "--image-size 8"),
        ("--dataset folder:pictures --image-size 8 --skip-broken", "--image-size 8 --skip-broken"),
    ],
)
def test_next_comparison_reads_the_data_as_the_run_did(cli: Cli, tiny: str, options: str, expected: str) -> None:
    Path("pictures").mkdir()
    for number, image in enumerate(load_dataset("digits").train_images[:60, 0].numpy()):
        Image.fromarray(np.kron(image, np.ones((2, 2), np.uint8))).save(f"pictures/{number}.png")
    compare = commands_in(cli(f"train {tiny} {options} --steps 2 --run-dir r").out)[2]
    assert (compare[0], compare[2]) == ("entangle", "r")
    assert compare[3:] == expected.format(Path.cwd()).split()
    assert "entanglement score" in cli(compare).out


@pytest.mark.parametrize(
    ("words", "indent", "columns", "end", "lines"),
    [
        ("a b c", 4, None, "", ["a b c"]),
        ("data   a b c d", 7, 10, "", ["data   a b", "       c d"]),
        ("data   a bb", 7, 10, "", ["data   a", "       bb"]),
        ("ab cd", 2, 5, "", ["ab cd"]),
        ("ab cd", 2, 4, "", ["ab", "  cd"]),
        ("run /long/path", 7, 10, "", ["run", "/long/path"]),
        ("run /long/path", 7, 12, "", ["run", "  /long/path"]),
        ("run /longer/path", 7, 10, "", ["run", "/longer/path"]),
        ("a 数据 b", 1, 6, "", ["a 数据", " b"]),
        ("a 数据 b", 1, 5, "", ["a", " 数据", " b"]),
        ("e\u0301e\u0301 a", 1, 4, "", ["e\u0301e\u0301 a"]),
        ("one two six", 2, 7, " \\", ["one \\", "  two \\", "  six"]),
        ("one two six", 2, 9, " \\", ["one two \\", "  six"]),
        ("one /path two", 4, 8, " \\", ["one \\", " /path \\", "   two"]),
        ("a\x1b[2J b", 2, 8, "", ["a\\x1b[2J", "  b"]),
    ],
)
def test_wrap(words: str, indent: int, columns: int | None, end: str, lines: list[str]) -> None:
    assert wrap(words.split(" "), indent, columns, end).split("\n") == lines


def test_wrap_keeps_a_word_with_spaces() -> None:
    assert wrap(["run", "a b c d"], 2, 9).split("\n") == ["run", "  a b c d"]


@pytest.mark.parametrize("size", [(24, 80), (10, 37), (0, 0)])
def test_get_terminal_width(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "66")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        assert get_terminal_width(stream) == (size[1] or 66)
    os.close(ours)
    with open(os.devnull, "w") as stream:
        assert get_terminal_width(stream) is None
    assert get_terminal_width(None) is None


def run_on_terminal(command: str, rows: int = 24, columns: int = 80) -> tuple[int, str]:
    """Return the exit status and the output of a command on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    environment.pop("COLUMNS", None)
    words = [sys.executable, "-m", "snngan", *command.split()]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:
        pass  # how Linux ends a pseudo-terminal
    os.close(ours)
    return process.wait(60), written.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "train --dataset digits --objective snnl-projected --steps 60 --log-every 20 --device cpu",
        f"classify train {CLASSIFIER} --steps 60 --log-every 20 --seeds 0:2",
    ],
)
def test_progress_on_a_pseudo_terminal(command: str) -> None:
    status, written = run_on_terminal(command)
    assert status == 0, written
    assert all(len(chunk.replace("\x1b[K", "")) <= 80 for chunk in re.split(r"[\r\n]", written))
    lines = render(written, 80)
    assert [line[:11] for line in lines if line.startswith("step ")] == ["step 60/60 "]
    assert lines == render(written, 1000), "no line was wrapped"
    assert "next:" in lines
