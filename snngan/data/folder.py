"""A folder of images as a data set: all are cropped and resized to squares of one size, and to one number of colors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import Dataset
from snngan.data.folder_layout import Split, find_splits, label_images
from snngan.data.holdout import hold_out
from snngan.data.image_files import (
    UnusableImageError,
    describe_resize,
    image_to_array,
    open_image,
    read_header,
    resize_image,
)

SIZES = (64, 56, 32, 28, 16, 14, 8)
"""Image sizes to choose from where the user gives none: those up to 64 pixels that every architecture takes."""


def read_folder(
    name: str, folder: Path, image_size: int | None, *, skip_broken: bool, notify: Callable[[str], None]
) -> Dataset:
    """Return the images below ``folder``, cropped to squares of one size: ``train`` and ``test``, or a tenth held out.

    They are gray (C = 1) if every one of them is, else RGB. The labels are those of
    :func:`snngan.data.folder_layout.label_images`.

    Args:
        name: the name of the set.
        folder: searched with all its subfolders, except hidden ones.
        image_size: height and width of the result in pixels; None for the largest of ``SIZES`` that all images have.
        skip_broken: leave out images that are unreadable or too small, and report them, instead of stopping.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: the folder is missing or has fewer than two images, or an image is unreadable or too small.
    """
    found = find_splits(folder, notify)
    size = image_size or choose_size([path for split in found for path in split.paths], notify)
    splits, arrays_of_splits, left_out, resized = [], [], [], False
    for split in found:
        paths, arrays = [], []
        for path in split.paths:
            try:
                image = open_image(path, size)
            except UnusableImageError as error:
                if not skip_broken:
                    raise
                left_out.append(f"{path} ({error.reason})")
                continue
            resized = resized or image.size != (size, size)
            arrays.append(image_to_array(resize_image(image, size)))
            paths.append(path)
            if len(paths) % 10000 == 0:
                notify(f"read {len(paths)} of {len(split.paths)} images")
        splits.append(Split(split.root, paths))
        arrays_of_splits.append(arrays)
    if left_out:
        notify_left_out(left_out, sum(len(split.paths) for split in found), notify)
    for split, least in zip(splits, (2, 1), strict=False):
        if len(split.paths) < least:
            counted = f"{len(split.paths)} usable image{'s' * (not split.paths)}"
            raise ValueError(f"{split.root} holds {counted}; expected {least} or more")
    classes, labels, reason = label_images(splits)
    if reason:
        notify(f"{reason}, so the images have no labels")
    channels = max(len(array) for arrays in arrays_of_splits for array in arrays)
    images = [_stack(arrays, channels) for arrays in arrays_of_splits]
    if len(images) == 1:
        dataset = hold_out(name, images[0], labels[0])
    else:
        dataset = Dataset(name, images[0], labels[0], images[1], labels[1])
    resize = describe_resize(size) if resized else "none"
    return replace(dataset, class_names=classes, resize=resize, why_no_labels=reason)


def choose_size(paths: Sequence[Path], notify: Callable[[str], None]) -> int:
    """Return the largest of ``SIZES`` that every image has, from the headers of the files alone.

    Images smaller than all of ``SIZES`` are ignored, so that one icon does not decide for all; if all are that small,
    the most frequent size is returned.
    """
    headers = [(path, header) for path in paths if (header := read_header(path)) is not None]
    sides = [(min(header.width, header.height), path) for path, header in headers]
    side, path = min((each for each in sides if each[0] >= SIZES[-1]), default=(0, Path()))
    if not side:
        return statistics.mode([side for side, _ in sides] or [SIZES[0]])
    size = next(size for size in SIZES if size <= side)
    if size < SIZES[0]:
        notify(f"image size {size}, because {path.name} has a side of {side} pixels; --image-size sets another")
    return size


def notify_left_out(left_out: Sequence[str], count: int, notify: Callable[[str], None]) -> None:
    """Report how many of ``count`` images were left out, and why the first one was."""
    notify(f"left out {len(left_out)} of {count} images that cannot be used, the first: {left_out[0]}")


def _stack(arrays: Sequence[NDArray[np.uint8]], channels: int) -> Tensor:
    """Stack (1 or ``channels``, H, W) arrays to (N, channels, H, W), gray ones repeated over the channels."""
    stacked = np.empty((len(arrays), channels, *arrays[0].shape[1:]), dtype=np.uint8)
    for row, array in enumerate(arrays):
        stacked[row] = array
    return torch.from_numpy(stacked)
