"""A watch over what a call may do: run nothing, connect to nothing, write only below one folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.", "pty.", "ctypes.dlopen")
WRITING = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.",
)
"""Names or beginnings of names of Python's audit events."""


class ForbiddenError(BaseException):
    """Something that no input may bring about; no ``except Exception`` of the code under test hides it."""


_place: str | None = None
_installed = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _place is None:
        return
    if event.startswith("subprocess.") and arguments[0] in ("git", "uname"):  # for what config.json says of the machine
        return
    if event.startswith(FORBIDDEN) or (event == "pickle.find_class" and not _is_harmless(arguments)):
        raise ForbiddenError(f"{event} {arguments!r}")
    if event == "open" and isinstance(arguments[0], str | bytes) and _is_for_writing(arguments):
        _check_place(event, arguments[0])
    if event.startswith(WRITING):
        for path in (each for each in arguments if isinstance(each, str | bytes)):
            _check_place(event, path, follow=event not in ("os.remove", "os.rename"))


def _is_harmless(arguments: tuple[Any, ...]) -> bool:
    return arguments[0].startswith(("torch", "collections")) and "." not in arguments[1]


def _is_for_writing(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _check_place(event: str, path: str | bytes, *, follow: bool = True) -> None:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    real = os.path.realpath(f"{folder}/{name}") if follow else f"{os.path.realpath(folder)}/{name}"
    if real != "/dev/null" and not real.startswith(f"{_place}/") and real != _place:
        raise ForbiddenError(f"{event} {real} is outside {_place}")


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Let what runs inside write below ``folder`` alone; a call that breaks a rule raises ``ForbiddenError``."""
    global _place, _installed
    if not _installed:
        sys.addaudithook(_watch)
        _installed = True
    _place = os.path.realpath(folder)
    try:
        yield
    finally:
        _place = None
