"""What commands print: lines that fit the terminal and survive a closed one, and the progress line of training."""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TextIO

import click

LOG_EVERY_SECONDS = 10
"""Time between two progress lines where standard error is not a terminal."""
REPAINT_EVERY_SECONDS = 0.2
"""Time between two updates of the progress line on a terminal."""
SHOWN_SCALARS = (
    ("entanglement", "entanglement/input_score"),
    ("loss G", "loss/generator"),
    ("loss D", "loss/discriminator"),
    ("accuracy", "accuracy/test"),
    ("loss", "loss/classifier"),
    ("cross-entropy", "loss/cross_entropy"),
)
"""Values in the progress line and their TensorBoard tags; a narrow terminal loses the last parts of the line first."""


def escape_control_characters(text: str) -> str:
    """Return ``text`` with control characters other than line breaks escaped: names in files may come from anyone."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def print_result(text: str, *, indent: int | None = None, err: bool = False) -> None:
    """Print a result, with ``indent`` wrapped to the terminal's width; raise ``OSError`` if it cannot be written."""
    if indent is not None:
        text = wrap(text.split(" "), indent, get_terminal_width(sys.stderr if err else sys.stdout))
    _echo(escape_control_characters(text), err=err)


def print_row(label: str, text: str = "", indent: int = 20) -> None:
    """Print ``text`` in a column beside ``label``, wrapped to the width of the terminal, or to 80 columns."""
    words = f"{label:{indent - 1}} {text}".split(" ")
    print_result(wrap(words, indent, get_terminal_width(sys.stdout) or 80))


def print_status(text: str, *, err: bool = False) -> None:
    """Print a line; training continues if the terminal or pipe is closed or the disk behind it is full."""
    _try_echo(escape_control_characters(text), err=err)


def print_wrapped(text: str, *unbroken: str, indent: int = 2) -> None:
    """Print a status line, wrapped to the width of the terminal; each of ``unbroken`` is kept on one line."""
    print_status(wrap([*text.split(" "), *unbroken], indent, get_terminal_width(sys.stdout)))


def print_note(line: str) -> None:
    """Print a remark on standard error; under torchrun only the main process does."""
    from snngan.training.distributed import is_main_process  # help needs no torch

    if is_main_process():
        print_status(wrap(line.split(" "), 2, get_terminal_width(sys.stderr)), err=True)


def wrap(words: Iterable[str], indent: int, columns: int | None, end: str = "") -> str:
    """Return ``words`` separated by spaces, on lines of at most ``columns``; a longer word gets its own line.

    Args:
        words: the text; what must not be broken, such as a path with spaces, is one word.
        indent: spaces before each line but the first; fewer where a long word needs the space.
        columns: width of the lines; None: one line.
        end: text at the end of each line but the last.
    """
    lines: list[str] = []
    for word in map(escape_control_characters, words):
        if lines and (columns is None or count_columns(f"{lines[-1]} {word}{end}") <= columns):
            lines[-1] += f" {word}"
        else:
            space = columns - count_columns(word + end) if columns else indent
            lines.append(" " * max(0, min(indent, space) if lines else 0) + word)
    return f"{end}\n".join(line.rstrip() for line in lines)


def count_columns(text: str) -> int:
    """Return the columns that ``text`` takes on a terminal: two per Chinese character, none per combining accent."""
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def get_terminal_width(stream: TextIO | None) -> int | None:
    """Return the current width in columns of the terminal that ``stream`` writes to, None if it is not a terminal."""
    if stream is None or not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return columns or shutil.get_terminal_size().columns  # a terminal may report a width of 0


def _echo(text: str, *, err: bool, nl: bool = True) -> None:
    try:
        click.echo(text, err=err, nl=nl)
    except UnicodeEncodeError:  # the terminal is not UTF-8
        click.echo(text.encode("ascii", "backslashreplace").decode(), err=err, nl=nl)


def _try_echo(text: str, *, err: bool, nl: bool = True) -> None:
    try:
        _echo(text, err=err, nl=nl)
    except BlockingIOError:
        pass  # the reader is slow
    except OSError:
        # Nobody reads the stream. Replace it, or flushing what it still buffers would fail when Python exits.
        setattr(sys, "stderr" if err else "stdout", open(os.devnull, "w"))  # noqa: SIM115


def reset_matplotlib_settings() -> None:
    """Use matplotlib's default settings: a matplotlibrc of the current folder may come from anyone and start LaTeX."""
    import matplotlib

    matplotlib.rcdefaults()


class Progress:
    """Print step, speed, time left and losses of training: a terminal's line is repainted, a log gets one every 10 s.

    Args:
        steps: last step of the run.
        batch_size: number of samples in each step.
        noun: plural noun for the samples.
    """

    def __init__(self, steps: int, batch_size: int, noun: str) -> None:
        self.steps, self.batch_size, self.noun = steps, batch_size, noun
        self.in_place = get_terminal_width(sys.stderr) is not None
        self.first: tuple[int, float] | None = None  # step and time at the end of the first step, which is slower
        self.printed_at = 0.0
        self.measured: dict[str, tuple[int, float]] = {}

    def __call__(self, step: int, measured: Mapping[str, float]) -> None:
        """Print the line after ``step`` if it is due; ``measured`` holds the values of this step by TensorBoard tag."""
        self.measured |= {tag: (step, value) for tag, value in measured.items()}
        now = time.monotonic()
        if self.first is None:
            self.first = (step, now)
        interval = REPAINT_EVERY_SECONDS if self.in_place else LOG_EVERY_SECONDS
        if now - self.printed_at < interval and step < self.steps:
            return
        self.printed_at = now
        line = self._format_line(step, step - self.first[0], now - self.first[1])
        _try_echo(f"\r\x1b[K{line}" if self.in_place else f"{line}\n", err=True, nl=False)

    def _format_line(self, step: int, done: int, seconds: float) -> str:
        """Return the line after ``step``, with ``done`` steps in ``seconds``, cut to the width of the terminal."""
        parts = [f"step {step}/{self.steps}"]
        if done and seconds:
            parts += [f"{done / seconds:.1f} steps/s", f"{format_duration((self.steps - step) * seconds / done)} left"]
        for name, tag in SHOWN_SCALARS:
            if tag in self.measured:
                measured_at, value = self.measured[tag]
                parts.append(f"{name} {value:.3g}" + (f" (step {measured_at})" if measured_at < step else ""))
        if done and seconds:
            parts.append(f"{done / seconds * self.batch_size:.0f} {self.noun}/s")
        columns = get_terminal_width(sys.stderr)
        if columns is None:
            return "  ".join(parts)
        while len(parts) > 1 and len("  ".join(parts)) >= columns:  # the last column is the cursor's
            parts.pop()
        return "  ".join(parts)[: columns - 1]

    def end(self) -> None:
        """Move the cursor to the next line."""
        if self.in_place and self.printed_at:
            _try_echo("\n", err=True, nl=False)


def format_duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
