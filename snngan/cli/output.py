"""What commands say: lines that survive a closed terminal, and the progress line of a training."""

from __future__ import annotations

import os
import sys
import time

import click

LINE_EVERY_SECONDS = 10
"""Without a terminal, the progress line is printed anew this often."""
SHOWN_SCALARS = (
    ("loss G", "loss/generator"),
    ("loss D", "loss/discriminator"),
    ("entanglement", "entanglement/input_score"),
    ("loss", "loss/classifier"),
    ("cross-entropy", "loss/cross_entropy"),
    ("accuracy", "accuracy/test"),
)


def plain(text: str) -> str:
    """Return a text without what would steer a terminal, line breaks apart: names may be anyone's."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def tell(text: str, *, err: bool = False) -> None:
    """Print a result; raises ``OSError`` where nobody can hear it."""
    _echo(plain(text), err=err)


def say(text: str, *, err: bool = False) -> None:
    """Print a line while training: no closed terminal or pipe, and no full disk behind it, ends a run."""
    _survive(plain(text), err=err)


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


def notify(line: str) -> None:
    """Print a line that is no result on standard error; of several processes only the first speaks."""
    from snngan.training.distributed import is_first  # help needs no torch

    if is_first():
        say(line, err=True)


def draw_plainly() -> None:
    """Let matplotlib draw by its own settings: those of the current folder, which may be anyone's, can start LaTeX."""
    import matplotlib

    matplotlib.rcdefaults()


class Progress:
    """One line that tells speed, losses, entanglement and time left; rewritten in place on a terminal."""

    def __init__(self, steps: int, batch_size: int) -> None:
        self.steps, self.batch_size = steps, batch_size
        self.in_place = sys.stderr is not None and sys.stderr.isatty()
        self.first: tuple[int, float] | None = None  # the end of the first step, which warms up
        self.shown = 0.0

    def __call__(self, step: int, scalars: dict[str, float]) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (step, now)
        if now - self.shown < (0.2 if self.in_place else LINE_EVERY_SECONDS) and step < self.steps:
            return
        self.shown = now
        parts = [f"step {step}/{self.steps}"]
        done, seconds = step - self.first[0], now - self.first[1]
        if done and seconds:
            parts += [f"{done / seconds:.1f} steps/s", f"{done / seconds * self.batch_size:.0f} images/s"]
        for name, tag in SHOWN_SCALARS:
            if tag in scalars:
                parts.append(f"{name} {scalars[tag]:.4g}")
        if done:
            parts.append(f"{duration((self.steps - step) * seconds / done)} left")
        line = "  ".join(parts)
        _survive(f"\r\x1b[K{line}" if self.in_place else f"{line}\n", err=True, nl=False)

    def end(self) -> None:
        """Leave the line."""
        if self.in_place and self.shown:
            _survive("\n", err=True, nl=False)


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
