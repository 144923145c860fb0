"""NumPy's npz files as data sets: which forms are accepted, and how a data set is written."""

from __future__ import annotations

import math
import os
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import POINT_SHAPE, Dataset, error_line, to_uint8
from snngan.data.holdout import hold_out
from snngan.files import check_regular, write_npz
from snngan.memory import check_memory, memory_bytes
from snngan.untrusted import npz_keys, read_npy_header, read_npz_array

Array = NDArray[np.generic]

_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "images", "labels", "mu", "sigma")
_OTHER_NAMES = {
    "x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels",
    "arr_0": "images", "arr_1": "labels",
}  # fmt: skip
"""The names, in lower case, that Keras and ``numpy.savez`` without names give to the same arrays."""


@dataclass(frozen=True)
class _Npz:
    """The arrays of a file under the keys of this module, the file's own name of each, and all names in the file."""

    path: Path
    arrays: dict[str, Array]
    names: dict[str, str]
    all_names: list[str]


def read_npz(name: str, path: Path) -> Dataset:
    """Return the data set in the file ``path``; nothing in it is unpickled.

    The file holds ``train_images`` and, optionally, ``train_labels``, ``test_images``, ``test_labels``; or ``images``
    and, optionally, ``labels``. The names of Keras (``x_train``, ``y_train``, ``x_test``, ``y_test``) and of
    ``numpy.savez`` without names (``arr_0``, ``arr_1``) mean the same. Images are (N, C, H, W), (N, H, W, C) or
    (N, H, W), integers from 0 to 255 or floats in [-1, 1]; all become uint8 (N, C, H, W), except for 2-D points
    (N, 1, 1, 2). Labels are (N,) or (N, 1). Without test images, a tenth is held out, and all images are in memory.

    uint8 images that would fill more than a quarter of the memory are left in the file if it is not compressed, and are
    read as needed, without verifying checksums. A file that declares more than fits in memory is refused before any of
    it is read.

    Raises:
        ValueError: the file is missing, damaged or not of that form; the message names file and key.
    """
    file = _open(path)
    train = "train_images" if "train_images" in file.arrays else "images"
    if train not in file.arrays:
        raise _no_images(file, "train_images nor images")
    images, labels = _read_split(file, train)
    where = f"{path}: {file.names[train]}"
    if len(images) == 0:
        raise ValueError(f"{where} must hold training images, got none; save a test split alone under the key images")
    if len(images) < 2:
        raise ValueError(f"{where} must hold 2 images or more, got 1")
    if train == "images" or "test_images" not in file.arrays or file.arrays["test_images"].size == 0:
        return hold_out(name, images, labels)
    test_images, test_labels = _read_split(file, "test_images")
    if images.shape[1:] != test_images.shape[1:] or images.dtype != test_images.dtype:
        raise ValueError(
            f"{path}: {file.names['test_images']} must have shape and kind of {file.names[train]}, "
            f"{_describe(images)}, got {_describe(test_images)}"
        )
    return Dataset(name, images, labels, test_images, test_labels)


def read_images(path: Path, split: str) -> tuple[Tensor, Tensor | None, str | None]:
    """Return images, labels and name of one split of the file ``path``, or all of ``images``, whose split is None.

    Raises:
        ValueError: as :func:`read_npz`.
    """
    file = _open(path)
    found = next((key for key in ("images", f"{split}_images", "train_images") if key in file.arrays), None)
    if found is None:
        raise _no_images(file, f"images nor {split}_images")
    return *_read_split(file, found), None if found == "images" else found.removesuffix("_images")


def read_statistics(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the mean and covariance of features that pytorch-fid and similar tools save as ``mu`` and ``sigma``.

    Returns:
        mu (D,) and sigma (D, D), or None if the file has no such arrays, or has images too, which take precedence.

    Raises:
        ValueError: the file is missing or damaged, or mu and sigma cannot be a mean and a covariance.
    """
    arrays = _open(path).arrays
    if not {"mu", "sigma"} <= set(arrays) or any(key.endswith("images") for key in arrays):
        return None
    for key in ("mu", "sigma"):
        if arrays[key].dtype.kind not in "fiu":
            raise ValueError(f"{path}: {key} must be floating-point numbers, got {arrays[key].dtype}")
    mu, sigma = (arrays[key].astype(np.float64) for key in ("mu", "sigma"))
    if mu.ndim != 1 or mu.size == 0 or sigma.shape != (mu.size, mu.size):
        raise ValueError(f"{path}: mu and sigma must have shapes (D,) and (D, D), got {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path}: mu and sigma must be finite, got NaN or infinity; compute them again")
    # Covariances computed in float32 are symmetric to about 1e-7 of their largest element.
    if np.abs(sigma - sigma.T).max() > 1e-5 * np.abs(sigma).max() or sigma.diagonal().min() < 0:
        raise ValueError(f"{path}: sigma must be a covariance, got one that is not symmetric or has negative variances")
    return mu, sigma


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write ``dataset`` atomically to the file ``path``; its folder is created if needed.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: getattr(dataset, key) for key in ("train_images", "train_labels", "test_images", "test_labels")}
    write_npz(path, {key: tensor.numpy() for key, tensor in tensors.items() if tensor is not None})


def _open(path: Path) -> _Npz:
    """Read the arrays of the file that have a meaning here; large uint8 images are memory-mapped instead."""
    check_regular(path)
    arrays: dict[str, Array] = {}
    name = "its index"
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an npz file, or a damaged one")
        with zipfile.ZipFile(path) as archive:
            all_names = npz_keys(archive)
            names = {_OTHER_NAMES[name.lower()]: name for name in all_names if name.lower() in _OTHER_NAMES}
            names |= {name: name for name in all_names if name in _KEYS}
            for key, name in names.items():
                if key.endswith("images") and (mapped := _map(path, archive.getinfo(f"{name}.npy"))) is not None:
                    arrays[key] = mapped
            unread = {key: name for key, name in names.items() if key not in arrays}
            check_memory(sum(archive.getinfo(f"{name}.npy").file_size for name in unread.values()), "it")
            for key, name in unread.items():
                arrays[key] = read_npz_array(archive, name)
    except Exception as error:  # a damaged archive raises errors of many kinds
        raise ValueError(
            f"{path}: {name} cannot be read ({error_line(error)}); expected plain arrays, written by numpy.savez"
        ) from error
    return _Npz(path, arrays, names, all_names)


def _map(path: Path, entry: zipfile.ZipInfo) -> Array | None:
    """Memory-map a large, uncompressed uint8 array; None for others."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size <= memory_bytes() // 4:
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # in the entry's local header: the lengths of name and extra field
        name, extra = struct.unpack("<HH", file.read(4))
        start = file.seek(name + extra, os.SEEK_CUR)
        shape, is_fortran, dtype = read_npy_header(file)
        if dtype != np.uint8 or is_fortran or file.tell() - start + math.prod(shape) != entry.file_size:
            return None
        return np.memmap(path, np.uint8, "r", file.tell(), shape)


def _no_images(file: _Npz, wanted: str) -> ValueError:
    if {"mu", "sigma"} <= set(file.arrays):
        return ValueError(
            f"{file.path} must hold images, got the mean and covariance of features (mu, sigma), which are for the "
            "Frechet distance only: snngan evaluate IMAGES --reference takes it"
        )
    return ValueError(f"{file.path} has neither {wanted}; it holds: {', '.join(file.all_names) or 'nothing'}")


def _read_split(file: _Npz, key: str) -> tuple[Tensor, Tensor | None]:
    """Return the images under ``key`` and their labels, checked."""
    images = _to_images(f"{file.path}: {file.names[key]}", file.arrays[key])
    key = key.replace("images", "labels")
    if key not in file.arrays:
        return images, None
    labels, where = file.arrays[key], f"{file.path}: {file.names[key]}"
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{where} must be integers, got {labels.dtype}")
    if labels.shape == (len(images), 1):
        labels = labels[:, 0]
    if labels.shape != (len(images),):
        raise ValueError(f"{where} must have shape ({len(images)},), one for each image, got {labels.shape}")
    numbers = torch.from_numpy(labels.astype(np.int64))
    if len(numbers) and int(numbers.min()) < 0:
        raise ValueError(f"{where} must be 0 or more, got {int(numbers.min())}")
    return images, numbers


def _to_images(where: str, array: Array) -> Tensor:
    """Return an array as uint8 images (N, C, H, W), or as 2-D points; ``where`` names it in errors."""
    shape = array.shape
    if array.ndim == 3 and shape[2] not in (1, 3):
        array = array[:, None]
    elif array.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape[2:]:
        hint = "; images[..., :3] drops an alpha channel that comes last" if len(shape) == 4 and shape[3] == 4 else ""
        raise ValueError(
            f"{where} must be (N, C, H, W) or (N, H, W, C) with C 1 or 3, or (N, H, W), got shape {shape}{hint}"
        )
    if array.dtype.kind in "iu":
        _check_levels(where, array)
        levels = array if isinstance(array, np.memmap) else np.ascontiguousarray(array, dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a memory-mapped one
            return torch.from_numpy(levels)
    if array.dtype.kind != "f":
        raise ValueError(f"{where} must be uint8 from 0 to 255, or floats in [-1, 1], got {array.dtype}")
    images = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    is_points = images.shape[1:] == POINT_SHAPE
    if len(images):
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= -1 and high <= 1):
            raise ValueError(
                f"{where} must be floats in [-1, 1] or uint8 from 0 to 255, got floats {low:g} to {high:g}"
            )
        if low >= 0 and not is_points:
            raise ValueError(
                f"{where} must be floats in [-1, 1] with black at -1, got floats {low:g} to {high:g}: save"
                " images * 2 - 1, or uint8"
            )
    return images if is_points else to_uint8(images)


def _check_levels(where: str, array: Array) -> None:
    """Raise ``ValueError`` unless integers can be levels from 0 (black) to 255."""
    if array.dtype == np.uint8 or array.size == 0:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255 or high == 1:
        advice = "images * 255" if (low, high) == (0, 1) else "them scaled to that range, as uint8"
        raise ValueError(f"{where} must be integers from 0 to 255, got {array.dtype} {low} to {high}: save {advice}")


def _describe(images: Tensor) -> str:
    return f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
