"""Forbid code to run programs, to open connections, or to write outside one folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.", "pty.", "ctypes.dlopen")
CHANGES = ("remove", "rename", "mkdir", "rmdir", "link", "symlink", "truncate", "chmod")
WRITING = ("shutil.", *(f"os.{name}" for name in CHANGES))
"""Names or beginnings of names of Python's audit events."""


class ForbiddenError(BaseException):
    """Raised for a forbidden event; not an ``Exception``, so that the code under test cannot catch it."""


_folder: str | None = None
_installed = False


def _check_event(event: str, arguments: tuple[Any, ...]) -> None:
    if _folder is None:
        return
    if event.startswith("subprocess.") and arguments[0] in (
        "git",
        "uname",
    ):  # called to describe the machine in config.json
        return
    if event.startswith(FORBIDDEN) or (event == "pickle.find_class" and not _is_harmless(arguments)):
        raise ForbiddenError(f"{event} {arguments!r}")
    if event == "open" and isinstance(arguments[0], str | bytes) and _is_for_writing(arguments):
        _check_folder(event, arguments[0])
    if event.startswith(WRITING):
        for path in (each for each in arguments if isinstance(each, str | bytes)):
            _check_folder(event, path, follow=event not in ("os.remove", "os.rename"))


def _is_harmless(arguments: tuple[Any, ...]) -> bool:
    return arguments[0].startswith(("torch", "collections")) and "." not in arguments[1]


def _is_for_writing(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _check_folder(event: str, path: str | bytes, *, follow: bool = True) -> None:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    real = os.path.realpath(f"{folder}/{name}") if follow else f"{os.path.realpath(folder)}/{name}"
    if real != "/dev/null" and not real.startswith(f"{_folder}/") and real != _folder:
        raise ForbiddenError(f"{event} {real} is outside {_folder}")


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Raise ``ForbiddenError`` inside for a program, a connection, or a write outside ``folder``."""
    global _folder, _installed
    if not _installed:
        sys.addaudithook(_check_event)
        _installed = True
    _folder = os.path.realpath(folder)
    try:
        yield
    finally:
        _folder = None
