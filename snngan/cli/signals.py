"""What a command does on a signal: training saves and exits; other commands leave no half-written file."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Termination(BaseException):
    """A signal ended the command. A ``BaseException``, so that cleanup runs and nothing else catches it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise ``Termination`` on SIGTERM and SIGHUP, unless ignored or handled already; a second signal kills."""

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise Termination(number)

    is_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    with _handle(numbers if is_main_thread else (), handle):
        yield


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Append SIGINT, SIGTERM and SIGHUP to a list, for training to save and exit after the current step.

    A second SIGINT interrupts at once. A SIGHUP that is ignored already, as by nohup, stays ignored.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if number == signal.SIGINT and os.isatty(2):
            os.write(2, b"\nsaving; press Ctrl-C again to stop at once, without saving\n")

    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with _handle([signal.SIGINT, signal.SIGTERM] + [signal.SIGHUP] * (not is_ignored), handle):
        yield received


@contextmanager
def _handle(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install ``handler`` for the signals ``numbers``, and restore the previous handlers at the end."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
