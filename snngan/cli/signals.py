"""What a command does on a signal: training saves and exits; other commands leave no half-written file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exit with a line and status 143 or 129 on SIGTERM and SIGHUP, as on an exception: temporary files are removed."""

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        with suppress(OSError):  # a closed terminal
            os.write(2, f"Error: ended by {signal.Signals(number).name}\n".encode())
        raise SystemExit(128 + number)

    with _handle(handle, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Append SIGINT, SIGTERM and SIGHUP to a list, for training to save and exit after the current step.

    A second SIGINT interrupts at once.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if number == signal.SIGINT and os.isatty(2):
            os.write(2, b"\nsaving; press Ctrl-C again to stop at once, without saving\n")

    with _handle(handle, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield received


@contextmanager
def _handle(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Install ``handler`` for a while, but not for a signal that is ignored, as SIGHUP is under nohup."""
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
