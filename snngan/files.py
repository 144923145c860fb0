"""Files that are written whole or not at all, whatever lies there before and whatever happens meanwhile."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def check_local(text: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` where ``text`` is a URL, which would be taken for a folder of a strange name."""
    if re.search(r"(^|:)(?!folder:|npz:)[A-Za-z][A-Za-z0-9+.-]+://", os.fspath(text)):
        raise ValueError(
            f"paths must be on this machine, got the URL {text}: download it first, or mount it as a folder"
        )


def check_absent(path: Path, *, force: bool) -> None:
    """Raise ``ValueError`` if there is something at ``path``, which a command may replace with ``force`` only."""
    if os.path.lexists(path) and not force:
        raise ValueError(f"{path} exists already: give another --out, or --force to replace it")


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

    If ``durable``, it is on the disk before. Of several processes that write the same file, the last one's stays. Who
    may read and write ``path`` may still.
    """
    beside = temporary_path(path)
    with open(beside, "xb") as file:  # what lies there is neither written through, be it a link, nor removed
        try:
            with suppress(OSError):  # nothing there, or a file system without permissions
                if stat.S_ISREG(mode := path.lstat().st_mode):
                    os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    if durable:
        sync(path.parent)


def write_npz(path: Path, arrays: Mapping[str, ArrayLike], *, compressed: bool = False) -> None:
    """Write ``arrays`` by name to ``path`` as ``numpy.savez`` does, whole or not at all; raises ``OSError``.

    NumPy's own leaves its archive open where the disk is full, in versions before 2.
    """
    import numpy as np  # help needs none

    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with replacing(path) as file, zipfile.ZipFile(file, "w", kind) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def temporary_path(path: Path) -> Path:
    """Return where nothing is yet, for what is to be moved to ``path``: a name that nobody else takes or foresees."""
    return path.with_name(f".{os.urandom(4).hex()}.{path.name[:60]}.part")  # names end at 255 bytes


def clear_parts(folder: Path) -> None:
    """Remove what killed processes left half written in ``folder`` and the folders in it; raises ``OSError``."""
    for path in folder.rglob(f".{'[0-9a-f]' * 8}.*.part"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until ``path``, a file or a folder, is on the disk as it stands; raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
