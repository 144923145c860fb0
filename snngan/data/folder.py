"""A folder of images as a data set: how they become squares of one size, and what becomes of those that cannot."""

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
from snngan.data.decode import UnusableImageError, open_picture, read_header
from snngan.data.holdout import hold_out
from snngan.data.layout import Half, find_halves, label_images
from snngan.data.resize import describe_resize, picture_to_array, resize_picture

SIZES = (64, 56, 32, 28, 16, 14, 8)
"""Image sizes to choose from where the user names none: those that every architecture takes, up to 64 pixels."""


def read_folder(
    name: str, folder: Path, image_size: int | None, *, skip_broken: bool, notify: Callable[[str], None]
) -> Dataset:
    """Return the images below ``folder``, cropped to squares of one size: ``train`` and ``test``, or a tenth held out.

    They are gray (C = 1) if every one of them is, else RGB; transparent parts turn white; photographs are turned as
    their EXIF data say. The labels are those of :func:`snngan.data.layout.label_images`.

    Args:
        name: the name of the set.
        folder: searched with all its subfolders; hidden files are left out.
        image_size: height and width of the result in pixels; None for the largest of ``SIZES`` that all images have.
        skip_broken: leave out images that are unreadable or too small, and say so, instead of stopping at the first.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: no such folder, fewer than two images, an unreadable or a too small one (named).
    """
    found = [half for half in find_halves(folder, notify) if half is not None]
    size = image_size or choose_size([path for half in found for path in half.paths], notify)
    count = sum(len(half.paths) for half in found)
    halves, pictures, left_out, resized = [], [], [], False
    for half in found:
        kept, arrays = [], []
        for path in half.paths:
            try:
                picture = open_picture(path, size)
            except UnusableImageError as error:
                if not skip_broken:
                    raise
                left_out.append(f"{path} ({error.reason})")
                continue
            resized = resized or picture.size != (size, size)
            arrays.append(picture_to_array(resize_picture(picture, size)))
            kept.append(path)
            if len(kept) % 10000 == 0:
                notify(f"read {len(kept)} of {len(half.paths)} images")
        halves.append(Half(half.root, kept))
        pictures.append(arrays)
    if left_out:
        notify_left_out(left_out, count, notify)
    for half, least in zip(halves, (2, 1), strict=False):
        if len(half.paths) < least:
            counted = f"{len(half.paths)} usable image{'s' * (not half.paths)}"
            raise ValueError(f"{half.root} holds {counted}; expected {least} or more")
    classes, labels, reason = label_images(halves)
    if reason:
        notify(f"{reason}, so the images have no labels")
    channels = max(len(picture) for arrays in pictures for picture in arrays)
    images = [_stack(arrays, channels) for arrays in pictures]
    dataset = (
        hold_out(name, images[0], labels[0])
        if len(halves) == 1
        else Dataset(name, images[0], labels[0], images[1], labels[1])
    )
    return replace(
        dataset, class_names=classes, resize=describe_resize(size) if resized else "none", why_no_labels=reason
    )


def choose_size(paths: Sequence[Path], notify: Callable[[str], None]) -> int:
    """Return the largest of ``SIZES`` that every image has, from the headers of the files alone.

    Images smaller than all of ``SIZES`` do not count where there are others, so that one icon does not decide for
    all; where there are no others, it is the most frequent size.
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
    """Say how many of ``count`` images were left out, and why the first one was."""
    notify(f"left out {len(left_out)} of {count} images that cannot be used, the first: {left_out[0]}")


def read_picture(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Return an image file as (C, H, W), C = 1 for a gray one, else 3; cropped and shrunk where ``size`` is given.

    Raises:
        UnusableImageError: the file is not an image, not one to trust, or too small.
    """
    picture = open_picture(path, size or 1)
    return picture_to_array(picture if size is None else resize_picture(picture, size))


def _stack(pictures: Sequence[NDArray[np.uint8]], channels: int) -> Tensor:
    """Return the pictures as (N, channels, H, W); gray ones are repeated over the channels."""
    stacked = np.empty((len(pictures), channels, *pictures[0].shape[1:]), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        stacked[row] = picture
    return torch.from_numpy(stacked)
