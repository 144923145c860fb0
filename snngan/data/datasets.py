"""Data sets by name: the order in which places are searched, and which sets are kept as files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from snngan.data import DATASETS, Dataset, error_line
from snngan.data.folder import read_folder
from snngan.data.image_files import describe_resize, resize_images
from snngan.data.npz import read_npz, save_dataset
from snngan.files import check_local
from snngan.registry import UnknownNameError

Notify = Callable[[str], None]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    download: bool = False,
    skip_broken: bool = False,
    keep: bool = True,
    notify: Notify = lambda message: None,
) -> Dataset:
    """Return the data set ``name``.

    Args:
        name: a registered name, ``folder:PATH`` (a folder of images) or ``npz:PATH``.
        data_dir: the folder of NAME.npz and of torchvision's files; default: the environment variable SNNGAN_DATA, else
            ``data``.
        image_size: height and width in pixels to crop and resize to; default: the size of the images, and for a folder
            the largest of :data:`snngan.data.folder.SIZES` that all images have.
        download: whether to download a set that is missing.
        skip_broken: whether to leave out images of a folder that are unreadable or too small, instead of stopping.
        keep: whether a set that was built or downloaded may be written as NAME.npz, to load faster the next time.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: the name is unknown, the set is missing, or its files cannot be used.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"--image-size must be 1 or more, got {image_size}")
    check_local(name)
    kind, path = _split_path(name)
    if kind == "folder":
        return read_folder(name, path, image_size, skip_broken=skip_broken, notify=notify)
    dataset = read_npz(name, path) if kind else _load_named(name, data_folder(data_dir), download, keep, notify)
    if image_size is None or (dataset.image_shape[1:] == (image_size, image_size) and not dataset.is_points):
        return dataset
    train, test = (shrink_images(name, images, image_size) for images in (dataset.train_images, dataset.test_images))
    return replace(dataset, train_images=train, test_images=test, resize=describe_resize(image_size))


def absolute_name(name: str) -> str:
    """Return ``folder:PATH`` and ``npz:PATH`` with an absolute path, and any other name unchanged."""
    kind, path = _split_path(name)
    return f"{kind}:{path.absolute()}" if kind else name


def list_datasets(data_dir: str | Path | None = None) -> dict[str, str]:
    """Return by name of each registered set where :func:`load_dataset` would read it from, or how to get it."""
    folder = data_folder(data_dir)
    return {name: _find(name, folder) or f"not here: {DATASETS[name].remedy}" for name in DATASETS.names()}


def is_here(name: str, data_dir: str | Path | None = None) -> bool:
    """Return whether :func:`load_dataset` needs no download for ``name``."""
    return name not in DATASETS.names() or _find(name, data_folder(data_dir)) is not None


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return ``data_dir``, else the folder in SNNGAN_DATA, else ``data`` in the current folder."""
    return Path(os.path.expanduser(data_dir or os.environ.get("SNNGAN_DATA") or "data"))


def shrink_images(name: str, images: Tensor, size: int) -> Tensor:
    """Crop and resize uint8 images (N, C, H, W), of the set ``name`` in errors, to (N, C, size, size)."""
    height, width = images.shape[2:]
    if images.is_floating_point():
        raise ValueError(f"{name} holds 2-D points, not images; leave out --image-size")
    if min(height, width) < size:
        remedy = f"use {min(height, width)} or less, or leave it out"
        raise ValueError(f"{name}: images are {width}x{height}, smaller than --image-size {size}; {remedy}")
    return resize_images(images, size)


def _split_path(name: str) -> tuple[str, Path]:
    """Return kind and path of ``folder:PATH`` or ``npz:PATH``; an empty kind for other names."""
    kind, colon, place = name.partition(":")
    if not colon or kind not in ("folder", "npz"):
        return "", Path()
    if not place:
        raise ValueError(f"{name} needs a path after the colon: {kind}:PATH")
    return kind, Path(os.path.expanduser(place))


def _find(name: str, folder: Path) -> str | None:
    """Return where the named set would be read from, or None if it is missing."""
    kept = folder / f"{name}.npz"
    return str(kept) if DATASETS[name].keep and kept.exists() else DATASETS[name].find(folder)


def _load_named(name: str, folder: Path, download: bool, keep: bool, notify: Notify) -> Dataset:
    try:
        source = DATASETS[name]
    except UnknownNameError as error:
        path = Path(os.path.expanduser(name))
        kind = "folder" if path.is_dir() else "npz" if path.is_file() and path.suffix == ".npz" else None
        if kind is not None:
            raise ValueError(f"{name} must be the name of a data set, got a path; write {kind}:{name}") from None
        raise UnknownNameError(f"{error}; your own images are folder:PATH or npz:PATH") from None
    kept = folder / f"{name}.npz"
    if source.keep and kept.exists():
        return read_npz(name, kept)
    if source.find(folder) is None:
        if not download:
            raise ValueError(f"{name} is not here: neither {kept} nor its own files in {folder}; use {source.remedy}")
        try:
            source.download(folder)
        except Exception as error:  # network, disk, checksum, archive: each raises its own kind of error
            remedy = f"check the network, or put the set there as {name}.npz"
            raise ValueError(f"{name} could not be downloaded into {folder} ({error_line(error)}); {remedy}") from error
    try:
        dataset = source.read(name, folder)
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        problem = f"cannot be read ({error_line(error)}); remove them and use {source.remedy}"
        raise ValueError(f"the files of {name} in {source.find(folder)} {problem}") from error
    if source.keep and keep:
        try:
            save_dataset(dataset, kept)
            notify(f"kept {name} as {kept} for the next time")
        except OSError as error:
            notify(f"could not keep {name} as {kept} ({error.strerror or error}); continuing without")
    return dataset
