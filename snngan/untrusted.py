"""Readers of NumPy's npz archives: no code in them is run, and memory is checked before it is taken."""

from __future__ import annotations

import math
import warnings
import zipfile
from typing import IO, TYPE_CHECKING, Any

from snngan.memory import check_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
