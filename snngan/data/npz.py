"""NumPy's npz files as data sets: what is accepted, how a file that is not is refused, how one is written."""

from __future__ import annotations

import math
import os
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import POINT_SHAPE, Dataset, error_line, to_uint8
from snngan.data.holdout import hold_out
from snngan.files import write_npz
from snngan.untrusted import check_memory, check_regular, memory_bytes, npz_keys, read_npy_header, read_npz_array

_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "images", "labels")
_OTHER_NAMES = {
    "x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels",
    "arr_0": "images", "arr_1": "labels",
}  # fmt: skip
"""What Keras, and numpy.savez without names, call our keys, in small letters."""
_STATISTICS = ("mu", "sigma")


def read_npz(name: str, path: Path) -> Dataset:
    """Return the data set in the file ``path``; nothing in it is unpickled.

    The file holds ``train_images`` and, if wanted, ``train_labels``, ``test_images``, ``test_labels``; or ``images``
    and, if wanted, ``labels``. The names of Keras (``x_train``, ``y_train``, ``x_test``, ``y_test``) and of
    ``numpy.savez`` without names (``arr_0``, ``arr_1``) mean the same. Images are (N, C, H, W), (N, H, W, C) or
    (N, H, W), whole numbers from 0 to 255 or floats in [-1, 1]; all become uint8 (N, C, H, W), but for points
    (N, 1, 1, 2). Labels are (N,) or (N, 1). Where there is no test half, one is held out, and all of it is in memory
    then.

    A half of uint8 images that would fill more than a quarter of the memory is left in the file, if that is not
    compressed, and read as it is needed, without the file's check sums. A file that declares more than fits in memory
    is refused before any of it is read.

    Raises:
        ValueError: the file is missing, damaged or not of that form; the message names file and key.
    """
    arrays = _arrays(path)
    keys = _own_keys(arrays)
    train = "train_images" if "train_images" in keys else "images"
    if train not in keys:
        raise _no_images(path, arrays, "train_images nor images")
    images, labels = _half(path, arrays, keys, train)
    if train == "images" or "test_images" not in keys or arrays[keys["test_images"]].size == 0:
        _check_count(path, keys[train], images)
        return hold_out(name, images, labels)
    test_images, test_labels = _half(path, arrays, keys, "test_images")
    _check_count(path, keys[train], images)
    if images.shape[1:] != test_images.shape[1:] or images.dtype != test_images.dtype:
        raise ValueError(
            f"{path}: {keys['test_images']} have shape {_shape(test_images)}, {keys[train]} {_shape(images)};"
            " both halves need images of one shape and kind"
        )
    return Dataset(name, images, labels, test_images, test_labels)


def read_images(path: Path, split: str) -> tuple[Tensor, Tensor | None, str | None]:
    """Return images and labels of the file ``path``: all of ``images``, or of one half where there are two, and which.

    Raises:
        ValueError: as :func:`read_npz`.
    """
    arrays = _arrays(path)
    keys = _own_keys(arrays)
    found = next((key for key in ("images", f"{split}_images", "train_images") if key in keys), None)
    if found is None:
        raise _no_images(path, arrays, f"images nor {split}_images")
    half = found.removesuffix("_images") if found != "images" else None
    return *_half(path, arrays, keys, found), half


def read_statistics(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Read the mean and covariance of features that pytorch-fid and similar tools write as ``mu`` and ``sigma``.

    Returns:
        mu (D,) and sigma (D, D), or None where the file has no such arrays, or has images too, which say more.

    Raises:
        ValueError: the file is missing or damaged, or its mu and sigma are not the mean and covariance of anything.
    """
    arrays = _arrays(path)
    if not all(key in arrays for key in _STATISTICS) or any(key.endswith("images") for key in _own_keys(arrays)):
        return None
    for key in _STATISTICS:
        if arrays[key].dtype.kind not in "fiu":
            raise ValueError(f"{path}: {key} must be floating-point numbers, got {arrays[key].dtype}")
    mu, sigma = (arrays[key].astype(np.float64) for key in _STATISTICS)
    if mu.ndim != 1 or mu.size == 0 or sigma.shape != (mu.size, mu.size):
        raise ValueError(f"{path}: mu and sigma must have shapes (D,) and (D, D), got {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path}: mu and sigma must be finite, got NaN or infinity; compute them again")
    # Covariances computed in float32 are symmetric to about 1e-7 of their largest element.
    if np.abs(sigma - sigma.T).max() > 1e-5 * np.abs(sigma).max() or sigma.diagonal().min() < 0:
        raise ValueError(f"{path}: sigma must be a covariance, got one that is not symmetric or has negative variances")
    return mu, sigma


def keep_npz(dataset: Dataset, path: Path) -> None:
    """Write ``dataset`` as the file ``path``, its folder made if need be, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {
        key: tensor.numpy()
        for key in ("train_images", "train_labels", "test_images", "test_labels")
        if (tensor := getattr(dataset, key)) is not None
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, arrays)


def _own_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return the key of the file for each of ours that it has, under our name or that of another tool."""
    own = {_OTHER_NAMES[key.lower()]: key for key in keys if key.lower() in _OTHER_NAMES}
    return own | {key: key for key in keys if key in _KEYS}


def _no_images(path: Path, arrays: Mapping[str, NDArray[np.generic]], wanted: str) -> ValueError:
    if all(key in arrays for key in _STATISTICS):
        return ValueError(
            f"{path} must hold images, got the mean and covariance of features (mu, sigma), which are for the Frechet "
            "distance only: snngan evaluate IMAGES --reference takes it"
        )
    return ValueError(f"{path} has neither {wanted}; it holds: {', '.join(arrays) or 'nothing'}")


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of the file that have a meaning here; of others only the name, as an empty array."""
    check_regular(path, bounded=False)
    arrays, key = {}, "its index"
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no npz file, or a damaged one")
        with zipfile.ZipFile(path) as archive:
            keys = npz_keys(archive)
            own = _own_keys(keys)
            known = {*own.values(), *_STATISTICS}
            mapped = {each: _mapped(path, archive, each) for ours, each in own.items() if ours.endswith("images")}
            read = [key for key in keys if key in known and mapped.get(key) is None]
            check_memory(sum(archive.getinfo(f"{key}.npy").file_size for key in read), "it")
            for key in keys:
                left = mapped.get(key)
                if left is not None:
                    arrays[key] = left
                else:
                    arrays[key] = read_npz_array(archive, key) if key in known else np.empty(0)
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(
            f"{path}: {key} cannot be read ({error_line(error)}); expected plain arrays, written by numpy.savez"
        ) from error
    return arrays


def _mapped(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[np.generic] | None:
    """Return a large uint8 array as it lies in the file, without reading it; None for others.

    Raises:
        ValueError: the file ends before the array does.
    """
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size <= memory_bytes() // 4:
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # of the entry's own header: the lengths of name and extra field
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra, os.SEEK_CUR)
        shape, in_columns, dtype = read_npy_header(file)
        header = file.tell() - (entry.header_offset + 30 + name + extra)
        if dtype != np.uint8 or in_columns or header + math.prod(shape) != entry.file_size:
            return None
        return np.memmap(path, np.uint8, "r", file.tell(), shape)


def _half(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], keys: Mapping[str, str], key: str
) -> tuple[Tensor, Tensor | None]:
    images = _images(path, keys[key], arrays[keys[key]])
    label_key = keys.get(key.replace("images", "labels"))
    if label_key is None:
        return images, None
    labels = arrays[label_key]
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {label_key} are {labels.dtype}; expected whole numbers, such as int64")
    if labels.shape == (len(images), 1):
        labels = labels[:, 0]
    if labels.shape != (len(images),):
        raise ValueError(
            f"{path}: {label_key} have shape {labels.shape} for {len(images)} images; expected ({len(images)},)"
        )
    numbers = torch.from_numpy(labels.astype(np.int64))
    if len(numbers) and int(numbers.min()) < 0:
        raise ValueError(f"{path}: {label_key} go down to {int(numbers.min())}; expected 0 and up")
    return images, numbers


def _images(path: Path, key: str, array: NDArray[np.generic]) -> Tensor:
    expected = "expected (N, C, H, W) or (N, H, W, C) with C 1 or 3, or (N, H, W)"
    if array.ndim not in (3, 4):
        raise ValueError(f"{path}: {key} have {array.ndim} dimensions, {array.shape}; {expected}")
    if array.ndim == 3 and array.shape[2] in (1, 3):
        raise ValueError(f"{path}: {key} have shape {array.shape}, that of one color image; {expected}")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1] not in (1, 3) or 0 in array.shape[2:]:
        opaque = "; an alpha channel that comes last is dropped by images[..., :3]" if array.shape[3] == 4 else ""
        raise ValueError(f"{path}: {key} have shape {array.shape}; {expected}{opaque}")
    if array.dtype.kind in "iu":
        _check_levels(path, key, array)
        levels = array if isinstance(array, np.memmap) else np.ascontiguousarray(array, dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # one left in its file
            return torch.from_numpy(levels)
    if array.dtype.kind != "f":
        raise ValueError(f"{path}: {key} are {array.dtype}; expected uint8 (0 to 255), or floats in [-1, 1]")
    images = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if len(images) == 0:
        return images if images.shape[1:] == POINT_SHAPE else images.to(torch.uint8)
    low, high = (float(bound) for bound in images.aminmax())
    if not (low >= -1 and high <= 1):
        raise ValueError(
            f"{path}: {key} are floats from {low:g} to {high:g}; expected [-1, 1] without NaN, or uint8 from 0 to 255"
        )
    if images.shape[1:] == POINT_SHAPE:
        return images
    if low >= 0:
        raise ValueError(
            f"{path}: {key} are floats from {low:g} to {high:g}; expected [-1, 1] with black at -1: save"
            " images * 2 - 1, or uint8"
        )
    return to_uint8(images)


def _check_levels(path: Path, key: str, array: NDArray[np.generic]) -> None:
    """Raise ``ValueError`` unless whole numbers can be levels from 0 (black) to 255."""
    if array.dtype == np.uint8 or array.size == 0:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255 or high == 1:
        advice = "images * 255" if (low, high) == (0, 1) else "images that are scaled to that, as uint8"
        raise ValueError(f"{path}: {key} are {array.dtype} from {low} to {high}; expected 0 to 255: save {advice}")


def _check_count(path: Path, key: str, images: Tensor) -> None:
    if len(images) == 0:
        raise ValueError(
            f"{path}: the training half ({key}) is empty; to use a test half alone, save it under the key images"
        )
    if len(images) < 2:
        raise ValueError(f"{path}: {key} hold {len(images)} image; expected 2 or more")


def _shape(images: Tensor) -> str:
    return f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
