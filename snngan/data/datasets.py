"""Data sets by name: the order in which places are searched, and which sets are kept as files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from snngan.data import DATASETS, Dataset, ImageShape
from snngan.data.folder import read_folder
from snngan.data.image_files import describe_resize, resize_images
from snngan.data.npz import read_npz, save_dataset
from snngan.files import check_local
from snngan.registry import UnknownNameError

Notify = Callable[[str], None]


@dataclass(frozen=True)
class DatasetRow:
    """One line of the list of known sets; ``where`` says where the set would be loaded from, or how to get it."""

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
        name: a registered name, ``folder:PATH`` (a folder of images) or ``npz:PATH``.
        data_dir: the folder of NAME.npz and of torchvision's files; default: the environment variable SNNGAN_DATA, else
            ``data``.
        image_size: height and width in pixels to crop and resize to; default: the size of the images, and for a folder
            the largest of :data:`snngan.data.folder.SIZES` that all images have, at most 64.
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
    return replace(
        dataset,
        train_images=shrink_images(name, dataset.train_images, image_size),
        test_images=shrink_images(name, dataset.test_images, image_size),
        resize=describe_resize(image_size),
    )


def absolute_name(name: str) -> str:
    """Return ``folder:PATH`` and ``npz:PATH`` with an absolute path, and any other name unchanged."""
    kind, path = _split_path(name)
    return f"{kind}:{path.absolute()}" if kind else name


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
    """Return ``data_dir``, else the folder in SNNGAN_DATA, else ``data`` in the current folder."""
    return Path(os.path.expanduser(data_dir or os.environ.get("SNNGAN_DATA") or "data"))


def shrink_images(name: str, images: Tensor, size: int) -> Tensor:
    """Crop and resize uint8 images (N, C, H, W) to (N, C, size, size), as the images of a folder are.

    Raises:
        ValueError: the images are smaller than that, or are 2-D points; the message names the set ``name``.
    """
    height, width = images.shape[2:]
    if images.is_floating_point():
        raise ValueError(f"{name} holds 2-D points, not images; leave out --image-size")
    if min(height, width) < size:
        raise ValueError(
            f"{name}: images are {width}x{height}, smaller than --image-size {size}; use {min(height, width)} or less, "
            "or leave it out"
        )
    return resize_images(images, size)


def _split_path(name: str) -> tuple[str, Path]:
    """Return kind and path of ``folder:PATH`` or ``npz:PATH``; an empty kind for other names."""
    kind, colon, place = name.partition(":")
    if not colon or kind not in ("folder", "npz"):
        return "", Path()
    if not place:
        raise ValueError(f"{name} needs a path after the colon: {kind}:PATH")
    return kind, Path(os.path.expanduser(place))


def _load_named(name: str, folder: Path, download: bool, keep: bool, notify: Notify) -> Dataset:
    try:
        source = DATASETS[name]
    except UnknownNameError as error:
        path = os.path.expanduser(name)
        kind = "folder" if os.path.isdir(path) else "npz" if os.path.isfile(path) and path.endswith(".npz") else None
        if kind is not None:
            raise ValueError(f"{name} must be the name of a data set, got a path; write {kind}:{name}") from None
        raise UnknownNameError(f"{error}; your own images are folder:PATH or npz:PATH") from None
    kept = folder / f"{name}.npz"
    if source.keep and os.path.exists(kept):
        return read_npz(name, kept)
    dataset = source.load(name, folder, download)
    if source.keep and keep:
        try:
            save_dataset(dataset, kept)
            notify(f"kept {name} as {kept} for the next time")
        except OSError as error:
            notify(f"could not keep {name} as {kept} ({error.strerror or error}); continuing without")
    return dataset
