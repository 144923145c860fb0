"""What commands say: lines that survive a closed terminal and fit an open one, and the progress line of a training."""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TextIO

import click

LINE_EVERY_SECONDS = 10
"""Without a terminal, the progress line is printed anew this often."""
REPAINTED_EVERY_SECONDS = 0.2
"""On a terminal."""
SHOWN_SCALARS = (
    ("entanglement", "entanglement/input_score"),
    ("loss G", "loss/generator"),
    ("loss D", "loss/discriminator"),
    ("accuracy", "accuracy/test"),
    ("loss", "loss/classifier"),
    ("cross-entropy", "loss/cross_entropy"),
)
"""The values in the progress line and their tags; where the terminal is narrow, the last ones are left out first."""


def plain(text: str) -> str:
    """Return a text without what would steer a terminal, line breaks apart: names may be anyone's."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def print_result(text: str, *, err: bool = False) -> None:
    """Print a result; raises ``OSError`` where nobody can hear it."""
    _echo(plain(text), err=err)


def print_status(text: str, *, err: bool = False) -> None:
    """Print a line while training: no closed terminal or pipe, and no full disk behind it, ends a run."""
    _survive(plain(text), err=err)


def print_wrapped(text: str, *unbroken: str, indent: int = 2) -> None:
    """Print a line while training, on a terminal as several where it is too long; what is ``unbroken`` is one word."""
    print_status(wrap([*text.split(" "), *unbroken], indent, terminal_width(sys.stdout)))


def print_row(label: str, text: str = "", indent: int = 20) -> None:
    """Print ``text`` beside ``label``, in lines that fit the terminal, or 80 columns where there is none."""
    print_result(wrap(f"{label:{indent - 1}} {text}".split(" "), indent, terminal_width(sys.stdout) or 80))


def wrap(words: Iterable[str], indent: int, columns: int | None, end: str = "") -> str:
    """Return ``words`` with a space between, on lines of at most ``columns``; a longer word has a line of its own.

    Args:
        words: the text; what must not be broken, such as a path with spaces, is one word.
        indent: spaces before each line but the first; fewer where a long word needs the room.
        columns: None: all on one line.
        end: what each line but the last ends in.
    """
    lines: list[str] = []
    for word in map(plain, words):
        if lines and (columns is None or display_width(f"{lines[-1]} {word}{end}") <= columns):
            lines[-1] += f" {word}"
        else:
            room = columns - display_width(word + end) if columns else indent
            lines.append(" " * max(0, min(indent, room) if lines else 0) + word)
    return f"{end}\n".join(line.rstrip() for line in lines)


def display_width(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes: Chinese characters take two, combining accents none."""
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def terminal_width(stream: TextIO | None) -> int | None:
    """Return how many columns the terminal that ``stream`` writes to has now, or None if it writes to no terminal."""
    if stream is None or not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return columns or shutil.get_terminal_size().columns  # 0: a terminal that does not know its size


def _echo(text: str, *, err: bool, nl: bool = True) -> None:
    try:
        click.echo(text, err=err, nl=nl)
    except UnicodeEncodeError:  # a terminal of another language
        click.echo(text.encode("ascii", "backslashreplace").decode(), err=err, nl=nl)


def _survive(text: str, *, err: bool, nl: bool = True) -> None:
    try:
        _echo(text, err=err, nl=nl)
    except BlockingIOError:
        pass  # a slow reader
    except OSError:
        # or what is left of it would fail at the end
        setattr(sys, "stderr" if err else "stdout", open(os.devnull, "w"))  # noqa: SIM115


def print_note(line: str) -> None:
    """Print a line that is no result on standard error; of several processes only the first speaks."""
    from snngan.training.distributed import is_main_process  # help needs no torch

    if is_main_process():
        print_status(wrap(line.split(" "), 2, terminal_width(sys.stderr)), err=True)


def draw_plainly() -> None:
    """Let matplotlib draw by its own settings: those of the current folder, which may be anyone's, can start LaTeX."""
    import matplotlib

    matplotlib.rcdefaults()


class Progress:
    """One line with step, speed, time left and measured values: repainted on a terminal, printed every 10 s in a log.

    Args:
        steps: of the whole run.
        batch_size: samples in each step.
        noun: what the samples are called.
    """

    def __init__(self, steps: int, batch_size: int, noun: str) -> None:
        self.steps, self.batch_size, self.noun = steps, batch_size, noun
        self.in_place = terminal_width(sys.stderr) is not None
        self.first: tuple[int, float] | None = None  # the end of the first step, which warms up
        self.printed_at = 0.0
        self.measured: dict[str, tuple[int, float]] = {}

    def __call__(self, step: int, measured: Mapping[str, float]) -> None:
        """Print the line after ``step``, if it is time, given what was ``measured`` at this very step, by tag."""
        self.measured |= {tag: (step, value) for tag, value in measured.items()}
        now = time.monotonic()
        if self.first is None:
            self.first = (step, now)
        interval = REPAINTED_EVERY_SECONDS if self.in_place else LINE_EVERY_SECONDS
        if now - self.printed_at < interval and step < self.steps:
            return
        self.printed_at = now
        line = self._line(step, step - self.first[0], now - self.first[1])
        _survive(f"\r\x1b[K{line}" if self.in_place else f"{line}\n", err=True, nl=False)

    def _line(self, step: int, done: int, seconds: float) -> str:
        """Return the line after ``step``, ``done`` steps in ``seconds``, without the parts that the terminal cuts."""
        parts = [f"step {step}/{self.steps}"]
        if done and seconds:
            parts += [f"{done / seconds:.1f} steps/s", f"{duration((self.steps - step) * seconds / done)} left"]
        for name, tag in SHOWN_SCALARS:
            if tag in self.measured:
                measured_at, value = self.measured[tag]
                parts.append(f"{name} {value:.3g}" + (f" (step {measured_at})" if measured_at < step else ""))
        if done and seconds:
            parts.append(f"{done / seconds * self.batch_size:.0f} {self.noun}/s")
        columns = terminal_width(sys.stderr)
        if columns is None:
            return "  ".join(parts)
        while len(parts) > 1 and len("  ".join(parts)) >= columns:  # the last column is left to the cursor
            parts.pop()
        return "  ".join(parts)[: columns - 1]

    def end(self) -> None:
        """Leave the line."""
        if self.in_place and self.printed_at:
            _survive("\n", err=True, nl=False)


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
