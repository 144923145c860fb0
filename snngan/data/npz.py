"""NumPy's npz files as data sets: which forms are accepted, and how a data set is written."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import POINT_SHAPE, Dataset, error_line, to_uint8
from snngan.files import check_regular, write_npz
from snngan.memory import available_bytes, check_available

Array = NDArray[np.generic]
Arrays = dict[str, tuple[str, Array]]
"""The arrays of a file that have a meaning here: key, file and the file's own name of it, array."""

_SPLITS = ("train_images", "train_labels", "test_images", "test_labels")
_KEYS = (*_SPLITS, "images", "labels", "mu", "sigma")
_OTHER_NAMES = dict(zip(("x_train", "y_train", "x_test", "y_test", "arr_0", "arr_1"), _KEYS[:6], strict=True))
"""The names, in lower case, that Keras and ``numpy.savez`` without names give to the same arrays."""


def read_npz(name: str, path: Path) -> Dataset:
    """Return the data set in the file ``path``; nothing in it is unpickled.

    The file holds ``train_images`` and, optionally, ``train_labels``, ``test_images``, ``test_labels``; or ``images``
    and, optionally, ``labels``; or the same under the names of Keras (``x_train``, ...) or of ``numpy.savez`` without
    names (``arr_0``, ``arr_1``). Images are (N, C, H, W), (N, H, W, C) or (N, H, W), integers from 0 to 255 or floats
    in [-1, 1]; all become uint8 (N, C, H, W), except for 2-D points (N, 1, 1, 2). Labels are (N,) or (N, 1). Without
    test images, a tenth is held out. uint8 images that would fill more than a quarter of the available memory are left
    in the file if it is not compressed, and are read as needed, without verifying checksums.

    Raises:
        ValueError: the file is missing, damaged, too large for memory or not of that form.
    """
    arrays = _open(path, "train_images", "images")
    train = "train_images" if "train_images" in arrays else "images"
    images, labels = _read_split(arrays, train)
    if len(images) < 2:
        raise ValueError(f"{arrays[train][0]} must hold 2 training images or more, got {len(images)}")
    if train == "images" or "test_images" not in arrays or arrays["test_images"][1].size == 0:
        return Dataset.hold_out(name, images, labels)
    test_images, test_labels = _read_split(arrays, "test_images")
    if images.shape[1:] != test_images.shape[1:] or images.dtype != test_images.dtype:
        expected, got = (f"{tuple(each.shape[1:])} {each.dtype}" for each in (images, test_images))
        raise ValueError(f"{arrays['test_images'][0]} must be images {expected} like {train}, got {got}")
    return Dataset(name, images, labels, test_images, test_labels)


def read_images(path: Path, split: str) -> tuple[Tensor, Tensor | None, str | None]:
    """Return images, labels and name of one split of a file (None for all of ``images``); see :func:`read_npz`."""
    choices = ("images", f"{split}_images", "train_images")
    arrays = _open(path, *choices)
    found = next(key for key in choices if key in arrays)
    return *_read_split(arrays, found), None if found == "images" else found.removesuffix("_images")


def read_statistics(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return mean (D,) and covariance (D, D) of features, saved as ``mu`` and ``sigma`` by pytorch-fid and other tools.

    Returns None if the file has no such arrays, or has images too, which take precedence. Raises ``ValueError`` if
    it is missing or damaged, or they have other shapes, NaN or infinities.
    """
    arrays = _open(path)
    if not {"mu", "sigma"} <= set(arrays) or any(key.endswith("images") for key in arrays):
        return None
    mu, sigma = arrays["mu"][1], arrays["sigma"][1]
    if mu.ndim != 1 or mu.size == 0 or sigma.shape != (mu.size, mu.size):
        raise ValueError(f"{path}: mu and sigma must have shapes (D,) and (D, D), got {mu.shape} and {sigma.shape}")
    if not all(each.dtype.kind in "fiu" and np.isfinite(each).all() for each in (mu, sigma)):
        raise ValueError(f"{path}: mu and sigma must be finite numbers, got {mu.dtype} and {sigma.dtype}")
    mean, covariance = mu.astype(np.float64), sigma.astype(np.float64)
    # Covariances computed in float32 are symmetric to about 1e-7 of their largest element.
    asymmetry = np.abs(covariance - covariance.T).max()
    if asymmetry > 1e-5 * np.abs(covariance).max() or covariance.diagonal().min() < 0:
        raise ValueError(f"{path}: sigma must be a covariance, got one that is not symmetric or has negative variances")
    return mean, covariance


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write ``dataset`` atomically to ``path``; its folder is created if needed. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: getattr(dataset, key) for key in _SPLITS}
    write_npz(path, {key: tensor.numpy() for key, tensor in tensors.items() if tensor is not None})


def _open(path: Path, *wanted: str) -> Arrays:
    """Read the arrays that have a meaning here, one of ``wanted`` among them; large uint8 images are memory-mapped."""
    check_regular(path)
    arrays: Arrays = {}
    name = "the archive"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            names = {_OTHER_NAMES[each.lower()]: each for each in entries if each.lower() in _OTHER_NAMES}
            names |= {key: key for key in _KEYS if key in entries}
            for key, name in names.items():
                array = _map(path, entries[name]) if key.endswith("images") else None
                if array is None:
                    check_available(entries[name].file_size, "it", "fewer or smaller images")
                    with archive.open(entries[name]) as file:
                        array = np.lib.format.read_array(file, allow_pickle=False)
                arrays[key] = f"{path}: {name}", array
    except Exception as error:  # a damaged archive raises errors of many kinds
        raise ValueError(
            f"{path}: {name} cannot be read ({error_line(error)}); expected plain arrays, written by numpy.savez"
        ) from error
    if wanted and not any(key in arrays for key in wanted):
        hint = "; mu and sigma are for snngan evaluate IMAGES --reference" if {"mu", "sigma"} <= set(arrays) else ""
        held = ", ".join(entries) or "nothing"
        raise ValueError(f"{path} must hold {' or '.join(dict.fromkeys(wanted))}, got: {held}{hint}")
    return arrays


def _map(path: Path, entry: zipfile.ZipInfo) -> Array | None:
    """Memory-map a large, uncompressed uint8 array; None for others."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size <= available_bytes() // 4:
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # in the entry's local header: the lengths of name and extra field
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra, os.SEEK_CUR)
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(path, np.uint8, "r", file.tell(), shape) if dtype == np.uint8 and not is_fortran else None


def _read_split(arrays: Arrays, key: str) -> tuple[Tensor, Tensor | None]:
    """Return the images under ``key`` and their labels, checked."""
    images = _to_images(*arrays[key])
    key = key.replace("images", "labels")
    if key not in arrays:
        return images, None
    where, labels = arrays[key]
    if labels.shape == (len(images), 1):
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        found = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"{where} must be integers ({len(images)},), one for each image, got {found}")
    numbers = torch.from_numpy(labels.astype(np.int64))
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"{where} must be 0 or more, got {int(numbers.min())}")
    return images, numbers


def _to_images(where: str, array: Array) -> Tensor:
    """Return an array as uint8 images (N, C, H, W), or as 2-D points; ``where`` names it in errors."""
    shape = array.shape
    if array.ndim == 3 and shape[2] not in (1, 3):
        array = array[:, None]
    elif array.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape[2:] or array.dtype.kind not in "fiu":
        hint = "; images[..., :3] drops an alpha channel that comes last" if len(shape) == 4 and shape[3] == 4 else ""
        raise ValueError(
            f"{where} must be integers or floats (N, C, H, W), (N, H, W, C) or (N, H, W) with C 1 or 3, got "
            f"{array.dtype} {shape}{hint}"
        )
    is_float, is_points = array.dtype.kind == "f", array.shape[1:] == POINT_SHAPE
    if is_float:
        array = np.ascontiguousarray(array, dtype=np.float32)
    if array.size and array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        fits = -1 <= low <= high <= 1 and (low < 0 or is_points) if is_float else 0 <= low <= high <= 255 and high != 1
        if not fits:
            hint = ": save images * 255 as uint8" if 0 <= low <= high <= 1 else ""
            raise ValueError(
                f"{where} must be integers from 0 (black) to 255 or floats from -1 (black) to 1, got {array.dtype} "
                f"{low:g} to {high:g}{hint}"
            )
    if is_float:
        return torch.from_numpy(array) if is_points else to_uint8(torch.from_numpy(array))
    levels = array if isinstance(array, np.memmap) else np.ascontiguousarray(array, dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a memory-mapped one
        return torch.from_numpy(levels)
