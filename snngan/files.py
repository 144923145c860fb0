"""Files that are written whole or not at all, whatever lies there before and whatever happens meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class SaveError(RuntimeError):
    """A file that could not be written; what was there before is unharmed."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path``, its folder made if need be: after a crash the old or the new content is there.

    Raises:
        SaveError: it could not be written; the old content stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yield a new file to write to, which takes the place of ``path`` in the end; raises ``OSError``.

    If ``durable``, it is on the disk before.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with _open_new(beside) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
        if durable:
            sync(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _open_new(path: Path) -> IO[bytes]:
    """Return a new file; what a crash or anyone else has left there, a link or a pipe say, is removed and not used."""
    if os.path.lexists(path):
        path.unlink()
    return open(path, "xb")


def sync(path: Path) -> None:
    """Wait until ``path``, a file or a folder, is on the disk as it stands; raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
