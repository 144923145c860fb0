"""What commands print: results, status lines that no closed terminal interrupts, and the progress line of training."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from snngan.cli.options import IMPORTED_MODULES

if TYPE_CHECKING:
    from snngan.training.run_folder import RunFolder

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


def print_result(text: str, indent: int | None = None, *, err: bool = False, nl: bool = True) -> None:
    """Print a result; on a terminal it is wrapped where ``indent``, the spaces before further lines, is given."""
    if indent is not None and sys.stdout and sys.stdout.isatty():
        columns, further = shutil.get_terminal_size().columns, " " * indent
        text = textwrap.fill(text, columns, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    click.echo(text, err=err, nl=nl)


def print_row(label: str, text: str = "", indent: int = 20) -> None:
    """Print ``text`` in a column beside ``label``."""
    print_result(f"{label:{indent - 1}} {text}", indent)


def print_status(text: str, indent: int | None = None, *, err: bool = False, nl: bool = True) -> None:
    """Print a line on the main process; work continues if the terminal or pipe is closed or the disk is full."""
    from snngan.training.distributed import is_main_process  # help needs no torch

    if is_main_process():
        with suppress(OSError):
            print_result(text, indent, err=err, nl=nl)


def print_note(line: str) -> None:
    """Print a remark on standard error."""
    print_status(line, 2, err=True)


def print_next_commands(run: RunFolder[Any]) -> None:
    """Print what may be typed next about a run, other than this command; files are written into its folder."""

    def out(name: str) -> str:
        return f"--out {shlex.quote(str(run.path / name))}" + " --force" * (run.path / name).exists()

    commands = {"classify": f"evaluate {run.quoted}"}
    if run.config.kind == "generator":
        commands = {
            "sample": f"{run.quoted} {out('grid.png')}",
            "interpolate": f"{run.quoted} {out('plane.png')}",
            "evaluate": run.quoted,
        }
    commands |= {"report": f"{run.quoted} {out('report.html')}", "board": run.quoted}
    commands.pop(click.get_current_context().info_name or "", None)
    imports = "".join(f" --import {shlex.quote(name)}" for name in IMPORTED_MODULES)
    lines = [f"  snngan {name} {words}{imports * (name != 'board')}" for name, words in commands.items()]
    print_status("\n".join(["next:", *lines]))


class Progress:
    """Print step, speed, time left and losses of training: a terminal's line is repainted, a log gets one every 10 s.

    Args:
        steps: last step of the run.
        batch_size: number of samples in each step.
        noun: plural noun for the samples.
    """

    def __init__(self, steps: int, batch_size: int, noun: str) -> None:
        self.steps, self.batch_size, self.noun = steps, batch_size, noun
        self.in_place = sys.stderr is not None and sys.stderr.isatty()
        self.first: tuple[int, float] | None = None  # step and time at the end of the first step, which is slower
        self.printed_at = 0.0
        self.measured: dict[str, tuple[int, float]] = {}

    def __call__(self, step: int, measured: Mapping[str, float]) -> None:
        """Print the line after ``step`` if it is due; ``measured`` holds the values of this step by TensorBoard tag."""
        self.measured |= {tag: (step, value) for tag, value in measured.items()}
        now = time.monotonic()
        self.first = self.first or (step, now)
        interval = REPAINT_EVERY_SECONDS if self.in_place else LOG_EVERY_SECONDS
        if now - self.printed_at < interval and step < self.steps:
            return
        self.printed_at = now
        done, seconds = step - self.first[0], now - self.first[1]
        parts = [f"step {step}/{self.steps}"]
        if done and seconds:
            left = timedelta(seconds=round((self.steps - step) * seconds / done))
            parts += [f"{done / seconds:.1f} steps/s", f"{left} left"]
        for name, tag in SHOWN_SCALARS:
            if tag in self.measured:
                measured_at, value = self.measured[tag]
                parts.append(f"{name} {value:.3g}" + (f" (step {measured_at})" if measured_at < step else ""))
        if done and seconds:
            parts.append(f"{done / seconds * self.batch_size:.0f} {self.noun}/s")
        if not self.in_place:
            print_status("  ".join(parts), err=True)
            return
        columns = shutil.get_terminal_size().columns
        while len(parts) > 1 and len("  ".join(parts)) >= columns:  # the last column is the cursor's
            parts.pop()
        print_status(f"\r\x1b[K{'  '.join(parts)[: columns - 1]}", err=True, nl=False)

    def end(self) -> None:
        """Move the cursor to the next line."""
        if self.in_place and self.printed_at:
            print_status("", err=True)
