"""A folder of images as a data set: which files are held out, their classes, and one size and number of colors."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import Dataset
from snngan.data.image_files import UnusableImageError, describe_resize, open_image, read_header, resize_image, to_array

SIZES = (64, 56, 32, 28, 16, 14, 8)
"""Image sizes to choose from where the user gives none: those up to 64 pixels that every architecture takes."""
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
"""Folder names of the splits, in upper or lower case; validation images are held out if there is no test folder."""


@dataclass(frozen=True)
class Split:
    """The image files of a training or held-out split, sorted by path, and the folder that holds its class folders."""

    root: Path
    paths: Sequence[Path]

    def classes(self) -> list[str | None]:
        """Return the class of each image: the name of the folder directly below ``root``, or None without one."""
        parts = [path.relative_to(self.root).parts for path in self.paths]
        return [each[0] if len(each) > 1 else None for each in parts]


def read_folder(
    name: str, folder: Path, image_size: int | None, *, skip_broken: bool, notify: Callable[[str], None]
) -> Dataset:
    """Return the images below ``folder``, cropped to squares of one size: ``train`` and ``test``, or a tenth held out.

    They are gray (C = 1) if every one of them is, else RGB. The labels are those of :func:`label_images`, arguments and
    errors those of :func:`snngan.data.datasets.load_dataset`.
    """
    splits = find_splits(folder, notify)
    paths = [path for split in splits for path in split.paths]
    size = image_size or _choose_size(paths, notify)
    arrays: dict[Path, NDArray[np.uint8]] = {}
    left_out, resized = [], False
    for path in paths:
        try:
            image = open_image(path, size)
        except UnusableImageError as error:
            if not skip_broken:
                raise
            left_out.append(f"{path} ({error.reason})")
            continue
        resized = resized or image.size != (size, size)
        arrays[path] = to_array(resize_image(image, size))
        if len(arrays) % 10000 == 0:
            notify(f"read {len(arrays)} of {len(paths)} images")
    if left_out:
        notify_left_out(left_out, len(paths), notify)
        splits = [Split(split.root, [path for path in split.paths if path in arrays]) for split in splits]
    for split, least in zip(splits, (2, 1), strict=False):
        if len(split.paths) < least:
            raise ValueError(f"{split.root} must hold {least} usable images or more, got {len(split.paths)}")
    classes, labels, reason = label_images(splits)
    if reason:
        notify(f"{reason}, so the images have no labels")
    shape = max(len(array) for array in arrays.values()), size, size
    images = [
        torch.from_numpy(np.stack([np.broadcast_to(arrays[path], shape) for path in split.paths])) for split in splits
    ]
    if len(splits) == 1:
        dataset = Dataset.hold_out(name, images[0], labels[0])
    else:
        dataset = Dataset(name, images[0], labels[0], images[1], labels[1])
    resize = describe_resize(size) if resized else "none"
    return replace(dataset, class_names=classes, resize=resize, why_no_labels=reason)


def find_splits(folder: Path, notify: Callable[[str], None]) -> list[Split]:
    """Return the splits ``train`` and ``test`` (or ``val``) of ``folder`` if it holds no others, else all images.

    Raises ``ValueError`` if the folder is missing, cannot be read or holds no images, or its splits are ambiguous.
    """
    tops: dict[str, list[Path]] = {}
    for path in list_images(folder):
        tops.setdefault(path.relative_to(folder).parts[0], []).append(path)
    by_role = {path.name.lower(): path.name for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()}
    train, test = (
        next((by_role[name] for name in names if name in by_role), None) for names in (TRAIN, (*TEST, *VALIDATION))
    )
    others = [top for top in tops if top not in (train, test)]
    if train and test and (train in tops or test in tops):
        for name in (train, test):
            if name not in tops:
                raise ValueError(f"{folder / name} must hold a split of the data set, got no images; fill or remove it")
        if unknown := [top for top in others if top.lower() not in VALIDATION]:
            got = f"got {unknown[0]}; move that away, or give folder:{folder / train}"
            raise ValueError(f"{folder} must hold nothing beside {train} and {test}, the splits of a data set, {got}")
        for name in others:
            notify(f"{folder / name} is not used: {test} is the held-out split")
        return [Split(folder / name, tops[name]) for name in (train, test)]
    if train in tops and not others:
        notify(f"{folder} has no folder test: a tenth of {train} is held out")
        return [Split(folder / train, tops[train])]
    known = next((name for name in (train, test) if name in tops), None)
    if known and len(others) == 1 and (folder / others[0]).is_dir():
        own, other = ({*Split(folder / top, tops[top]).classes()} - {None} for top in (known, others[0]))
        if own & other or difflib.get_close_matches(others[0].lower(), (*TRAIN, *TEST, *VALIDATION), cutoff=0.75):
            got = f"got {known} and {others[0]}; rename {others[0]}"
            raise ValueError(f"{folder} must hold two splits called train and test (or val), {got}")
    return [Split(folder, [path for paths in tops.values() for path in paths])]


def list_images(folder: Path) -> list[Path]:
    """Return the image files below ``folder``, sorted; hidden ones are left out, links are followed once."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of images")

    paths: list[Path] = []
    waiting, visited = [os.fspath(folder)], set()
    while waiting:  # os.walk is recursive in Python 3.11
        parent = waiting.pop()
        try:
            with os.scandir(parent) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
            status = os.stat(parent)
        except OSError as error:
            raise ValueError(f"the folder {parent} cannot be read ({error.strerror})") from error
        if (status.st_dev, status.st_ino) in visited:  # by a link
            continue
        visited.add((status.st_dev, status.st_ino))
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        waiting += [entry.path for entry in entries if entry.is_dir()]
        paths += [Path(entry) for entry in entries if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()]
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)}), nor do its subfolders")
    return sorted(paths, key=lambda path: path.parts)


def label_images(splits: Sequence[Split]) -> tuple[tuple[str, ...], list[Tensor | None], str]:
    """Number the classes of all ``splits`` in alphabetical order.

    A split has labels if each of its images lies in a class folder, and there are two class folders or more. Returns
    the class names, the labels (N,) of each split, and, where a split with class folders has no labels, the reason.
    Raises ``ValueError`` if the second split has a class that the first does not have.
    """
    found = [split.classes() for split in splits]
    names = sorted({name for classes in found for name in classes if name is not None})
    if len(names) < 2:
        return (), [None] * len(splits), ""
    if len(splits) == 2 and None not in (*found[0], *found[1]) and (new := sorted({*found[1]} - {*found[0]}, key=str)):
        got = f"got {new[0]}; rename or remove {new[0]}"
        raise ValueError(f"{splits[1].root} must hold classes of {splits[0].root} only, {got}")
    index, reason = {name: number for number, name in enumerate(names)}, ""
    labels: list[Tensor | None] = []
    for split, classes in zip(splits, found, strict=True):
        strays = [path for path, name in zip(split.paths, classes, strict=True) if name is None]
        if strays:
            more = f" and {len(strays) - 1} more lie" if len(strays) > 1 else " lies"
            reason = reason or f"{strays[0]}{more} outside the class folders"
        labels.append(None if strays else torch.tensor([index[name] for name in classes if name is not None]))
    return (tuple(names) if any(each is not None for each in labels) else ()), labels, reason


def notify_left_out(left_out: Sequence[str], count: int, notify: Callable[[str], None]) -> None:
    """Report how many of ``count`` images were left out, and why the first one was."""
    notify(f"left out {len(left_out)} of {count} images that cannot be used, the first: {left_out[0]}")


def _choose_size(paths: Sequence[Path], notify: Callable[[str], None]) -> int:
    """Return the largest of ``SIZES`` that every image has which is not smaller than all of them, by the headers."""
    headers = [(path, header) for path in paths if (header := read_header(path)) is not None]
    sides = [(min(header.width, header.height), path) for path, header in headers]
    large = [each for each in sides if each[0] >= SIZES[-1]]
    side, path = min(large) if large else max(sides, default=(SIZES[0], paths[0]))
    size = next((size for size in SIZES if size <= side), side)
    if SIZES[-1] <= size < SIZES[0]:
        notify(f"image size {size}, because {path.name} has a side of {side} pixels; --image-size sets another")
    return size
