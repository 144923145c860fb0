"""Files that anyone may have made: read without running anything of theirs, in memory that they declare and we have.

JSON and NumPy's npz archives come through here, archives of ``torch.save`` through ``snngan.tensors``. A file is
refused by a ``ValueError`` of one line, whatever is wrong with it; nothing of it has been run, and no more memory taken
than it has declared.
"""

from __future__ import annotations

import json
import math
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK, LONGEST_LINE = 1 << 20, 1 << 24
"""Bytes read at a time, and characters of a line."""


def check_regular(path: Path, *, bounded: bool = True) -> None:
    """Raise ``ValueError`` unless ``path`` is a file that fits in memory: a pipe or a device could be read for ever."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ValueError(f"there is no file {path} ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(
            f"{path} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no ordinary file'}; expected a file"
        )
    if bounded:
        check_memory(found.st_size, str(path))


def read_json(path: Path) -> Any:
    """Return what the JSON file ``path`` holds; raises ``ValueError`` that names it."""
    check_regular(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no JSON that can be read: {error}") from error


def parse_json(text: str) -> Any:
    """Return what a JSON text holds; raises ``ValueError``, also where it is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one JSON object a line; what is damaged or unfinished is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        while line := file.readline(LONGEST_LINE):
            try:
                found = parse_json(line)
            except ValueError:
                continue
            if isinstance(found, dict) and line.endswith("\n"):
                yield found


def memory_bytes() -> float:
    """Return the bytes of memory that the machine has, as far as it says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_memory(size: int, what: str) -> None:
    """Raise ``ValueError`` if ``what``, by its own account of ``size`` bytes, does not fit in memory."""
    if size > memory_bytes():
        raise ValueError(f"{what} would take {size / 2**30:.1f} GiB, more than this machine's memory")


def npz_keys(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an npz archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order (true: Fortran's) and dtype at the head of an npy file, which is left at its data.

    Raises:
        ValueError: it is no npy file, or one of Python objects.
    """
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heads that Python 2 wrote
        shape, in_columns, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickled code")
    return shape, in_columns, dtype


def read_npz_array(archive: zipfile.ZipFile, key: str) -> NDArray[np.generic]:
    """Return one array of an npz archive; it takes the memory that the archive declares, checked before it is read.

    Raises:
        ValueError: it is of Python objects, too large for memory, or not of the size it declares.
        OSError, zipfile.BadZipFile, zlib.error: the archive is damaged.
    """
    import numpy as np

    entry = archive.getinfo(f"{key}.npy")
    with archive.open(entry) as file:
        shape, in_columns, dtype = read_npy_header(file)
        size = math.prod(shape) * dtype.itemsize
        if not dtype.itemsize:
            raise ValueError(f"it is of {dtype}, elements without size")
        if min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
            raise ValueError(f"it declares {size} bytes of shape {shape}, and the archive {entry.file_size} in all")
        check_memory(size, "it")
        content, filled = np.empty(size, np.uint8), 0  # memory that is taken as it is filled
        view = content.data
        while filled < size and (count := file.readinto(view[filled : filled + CHUNK])):  # type: ignore[attr-defined]
            filled += count
        if filled < size:
            raise ValueError(f"it ends after {filled} of {size} bytes")
    array = content.view(dtype) if size else np.zeros(shape, dtype)
    return array.reshape(shape, order="F" if in_columns else "C")
