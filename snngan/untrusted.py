"""Readers of files that others may have made: no code in them is run, and memory is checked before it is taken.

JSON and NumPy's npz archives are read here, archives of ``torch.save`` by ``snngan.tensors``. Every reader raises
``ValueError`` with a message of one line.
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

LONGEST_LINE = 1 << 24
"""Characters of a line of JSON."""


def check_regular(path: Path, *, bounded: bool = True) -> None:
    """Raise ``ValueError`` unless ``path`` is a regular file and, if ``bounded``, fits in memory."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ValueError(f"cannot find the file {path} ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise ValueError(f"{path} is {kind}; expected a file")
    if bounded:
        check_memory(found.st_size, str(path))


def read_json(path: Path) -> Any:
    """Return the content of the JSON file ``path``; raises ``ValueError`` with its name."""
    check_regular(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def parse_json(text: str) -> Any:
    """Return the content of a JSON text; raises ``ValueError``, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one JSON object per line; damaged and unfinished lines are skipped."""
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
    """Return the size of the machine's memory in bytes; infinity if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_memory(size: int, what: str) -> None:
    """Raise ``ValueError`` if ``what``, of ``size`` bytes, is larger than the machine's memory."""
    if size > memory_bytes():
        raise ValueError(f"{what} would take {size / 2**30:.1f} GiB, more than this machine's memory")


def npz_keys(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an npz archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the order is Fortran's, and dtype of an npy file, and leave it at its data.

    Raises:
        ValueError: it is not an npy file, or holds Python objects.
    """
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by Python 2
        shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickled code")
    return shape, is_fortran, dtype


def read_npz_array(archive: zipfile.ZipFile, key: str) -> NDArray[np.generic]:
    """Return one array of an npz archive, after checking that it has the declared size and fits in memory.

    Raises:
        ValueError: it holds Python objects, is too large for memory, or does not have the declared size.
        OSError, zipfile.BadZipFile, zlib.error: the archive is damaged.
    """
    import numpy as np

    entry = archive.getinfo(f"{key}.npy")
    with archive.open(entry) as file:
        shape, _, dtype = read_npy_header(file)
        size = math.prod(shape) * dtype.itemsize
        if not dtype.itemsize or min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
            raise ValueError(f"it declares {size} bytes of shape {shape}, got {entry.file_size} with its header")
        check_memory(size, "it")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
            return array
