"""Names to data sets: in which order the places are looked through, and what is kept for the next time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from snngan.data import DATASETS, Dataset, ImageShape
from snngan.data.folder import read_folder
from snngan.data.npz import keep_npz, read_npz
from snngan.data.resize import describe_resize, resize_images
from snngan.files import check_local
from snngan.registry import UnknownNameError

Notify = Callable[[str], None]


@dataclass(frozen=True)
class DatasetRow:
    """One line of the list of known sets: ``where`` tells in words where it would come from right now."""

    name: str
    image_shape: ImageShape
    num_classes: int
    where: str
    here: bool


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
        name: a registered name, ``folder:PATH`` (any pictures) or ``npz:PATH``.
        data_dir: where NAME.npz and torchvision's files are; default: the variable SNNGAN_DATA, else ``data``.
        image_size: height and width in pixels to crop and shrink to; default: as the images are, and for a folder the
            largest of :data:`snngan.data.folder.SIZES` that all images have, at most 64.
        download: whether a set that is not here is fetched.
        skip_broken: whether images of a folder that are unreadable or too small are left out, not an error.
        keep: whether a set that was built or fetched may be written as NAME.npz for the next time.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: the name is unknown, the set is not here, or what is there cannot be used.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"--image-size must be 1 or more, not {image_size}")
    check_local(name)
    kind, colon, place = name.partition(":")
    if colon and kind in ("folder", "npz"):
        if not place:
            raise ValueError(f"{name} needs a path after the colon: {kind}:PATH")
        path = Path(os.path.expanduser(place))
        if kind == "folder":
            return read_folder(name, path, image_size, skip_broken=skip_broken, notify=notify)
        dataset = read_npz(name, path)
    else:
        dataset = _load_named(name, data_folder(data_dir), download, keep, notify)
    return dataset if image_size is None else _shrink(dataset, image_size)


def absolute_name(name: str) -> str:
    """Return ``folder:PATH`` and ``npz:PATH`` with the path made absolute, any other name as it is."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{Path(os.path.expanduser(place)).absolute()}" if colon and kind in ("folder", "npz") else name


def list_datasets(data_dir: str | Path | None = None) -> list[DatasetRow]:
    """Return a row for each registered set, without loading any; ``data_dir`` as in :func:`load_dataset`."""
    folder, rows = data_folder(data_dir), []
    for name in DATASETS.names():
        source = DATASETS[name]
        kept = folder / f"{name}.npz"
        found = str(kept) if source.keep and os.path.exists(kept) else source.find(folder)
        where = f"not here: {source.remedy}" if found is None else found
        rows.append(DatasetRow(name, source.image_shape, source.num_classes, where, found is not None))
    return rows


def is_here(name: str, data_dir: str | Path | None = None) -> bool:
    """Return whether :func:`load_dataset` needs no download for ``name``."""
    return all(row.here for row in list_datasets(data_dir) if row.name == name)


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the folder to look in: ``data_dir``, else what SNNGAN_DATA names, else ``data`` in the current folder."""
    return Path(os.path.expanduser(data_dir or os.environ.get("SNNGAN_DATA") or "data"))


def _load_named(name: str, folder: Path, download: bool, keep: bool, notify: Notify) -> Dataset:
    try:
        source = DATASETS[name]
    except UnknownNameError as error:
        path = os.path.expanduser(name)
        kind = "folder" if os.path.isdir(path) else "npz" if os.path.isfile(path) and path.endswith(".npz") else None
        if kind is not None:
            raise UnknownNameError(f"{name} must be the name of a data set, got a path; write {kind}:{name}") from None
        raise UnknownNameError(f"{error}; your own pictures are folder:PATH or npz:PATH") from None
    kept = folder / f"{name}.npz"
    if source.keep and os.path.exists(kept):
        return read_npz(name, kept)
    dataset = source.load(name, folder, download)
    if source.keep and keep:
        try:
            keep_npz(dataset, kept)
            notify(f"kept {name} as {kept} for the next time")
        except OSError as error:
            notify(f"could not keep {name} as {kept} ({error.strerror or error}); going on without")
    return dataset


def _shrink(dataset: Dataset, size: int) -> Dataset:
    if dataset.image_shape[1:] == (size, size) and not dataset.is_points:
        return dataset
    return replace(
        dataset,
        train_images=shrink_images(dataset.name, dataset.train_images, size),
        test_images=shrink_images(dataset.name, dataset.test_images, size),
        resize=describe_resize(size),
    )


def shrink_images(name: str, images: Tensor, size: int) -> Tensor:
    """Return (N, C, H, W) uint8 images as (N, C, size, size), cropped and shrunk as the images of a folder are.

    Raises:
        ValueError: they are smaller than that, or points; the message names the set ``name``.
    """
    height, width = images.shape[2:]
    if images.is_floating_point():
        raise ValueError(f"{name} holds points, not pictures; leave out --image-size")
    if min(height, width) < size:
        raise ValueError(
            f"{name}: images are {width}x{height}, smaller than --image-size {size}; use {min(height, width)} or less, "
            "or leave it out"
        )
    return resize_images(images, size)
