"""A folder of pictures as a data set: which files count, how they become squares of one size, what their labels are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import Dataset, error_line
from snngan.data.holdout import hold_out
from snngan.untrusted import check_regular

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)


FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name: of its other formats some run another program."""


class _BrokenImageError(Exception):
    """A file that is no picture, or not one to trust; the message says why."""


def read_folder(
    name: str, folder: Path, image_size: int, *, skip_broken: bool, notify: Callable[[str], None]
) -> Dataset:
    """Return the pictures below ``folder``, shrunk and centre-cropped, about a tenth of them held out.

    They are grey (C = 1) if every one of them is, else RGB; transparent parts turn white; photographs are turned as
    their EXIF data say. Where all of them lie in two or more subfolders, those are the labels, in
    alphabetical order.

    Args:
        name: the name of the set.
        folder: searched with all its subfolders; hidden files are left out.
        image_size: height and width of the result in pixels.
        skip_broken: leave unreadable files out and tell ``notify``, instead of stopping at the first.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: no such folder, fewer than two pictures, an unreadable or a too small one (named).
    """
    paths = image_paths(folder)
    pictures, kept, broken = [], [], []
    for number, path in enumerate(paths):
        if number and number % 10000 == 0:
            notify(f"read {number} of {len(paths)} images")
        try:
            pictures.append(_read_square(path, image_size))
            kept.append(path)
        except _BrokenImageError as error:
            if not skip_broken:
                raise ValueError(f"{path} cannot be read: {error}; mend or remove it, or use --skip-broken") from error
            broken.append(f"{path} ({error})")
    if broken:
        notify(f"left out {len(broken)} of {len(paths)} images that cannot be read, the first: {broken[0]}")
    if len(kept) < 2:
        raise ValueError(f"{folder} holds {len(kept)} readable image{'s' * (not kept)}; expected 2 or more")
    dataset = hold_out(name, _stack(pictures), folder_labels(folder, kept))
    return replace(dataset, class_names=() if dataset.train_labels is None else folder_classes(folder, kept))


def image_paths(folder: Path) -> list[Path]:
    """Return the image files below ``folder``, in order of their names.

    Raises:
        ValueError: no such folder, one that cannot be read, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of images")
    paths = sorted(_image_paths(folder), key=lambda path: path.relative_to(folder).parts)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its subfolders")
    return paths


def read_picture(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Return a picture as (C, H, W), C = 1 for a grey one, else 3; with ``size``, its middle square, shrunk to that.

    Raises:
        ValueError: the file is no picture, not one to trust, or too small.
    """
    try:
        return _read_square(path, size)
    except _BrokenImageError as error:
        raise ValueError(f"{path} cannot be read: {error}; mend or remove it") from error


def is_grey(path: Path) -> bool:
    """Return whether a picture is one that :func:`read_picture` gives as grey, from its header alone."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return (image.mode in ("1", "L", "I") or image.mode.startswith("I;16")) and (
                    "transparency" not in image.info
                )
    except Exception:  # the decoders raise errors of many kinds on a damaged file; reading it will say which
        return False


def _image_paths(folder: Path) -> Iterator[Path]:
    """Yield the image files below ``folder``, through links too, but through each folder only once."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"the folder {error.filename} cannot be read ({error.strerror})") from error

    seen = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        for file in files:
            path = Path(parent, file)
            # A pipe or a device could be read for ever; a dangling link is named when it is read.
            if not file.startswith(".") and path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink()):
                yield path


def _read_square(path: Path, size: int | None) -> NDArray[np.uint8]:
    """Return the middle square of a picture as (C, size, size), or all of it; C = 1 for a grey one, else 3."""
    from PIL import Image, ImageOps

    try:
        check_regular(path, bounded=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in metadata that is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                picture = _grey_or_rgb(ImageOps.exif_transpose(image)) if min(width, height) >= (size or 1) else None
    except Exception as error:  # the decoders raise errors of many kinds on a damaged file
        raise _BrokenImageError(error_line(error)) from error
    if picture is None:
        raise ValueError(
            f"{path} is {width}x{height}, smaller than --image-size {size}; use {min(width, height)} or less"
        )
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.BICUBIC)
    square = np.asarray(picture)
    return square[None] if square.ndim == 2 else np.ascontiguousarray(square.transpose(2, 0, 1))


def _grey_or_rgb(image: Picture) -> Picture:
    """Return a picture of any kind as one of mode L or RGB."""
    from PIL import Image

    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits a pixel: convert() would clip them at 255
        levels = np.asarray(image).clip(0, 65535) // 256
        return Image.fromarray(levels.astype(np.uint8))
    if image.mode == "F":
        raise _BrokenImageError("its pixels are floating-point numbers, of unknown range")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _stack(pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Return the pictures as (N, C, H, W); grey ones among coloured ones are repeated over the channels."""
    channels = max(len(picture) for picture in pictures)
    stacked = np.empty((len(pictures), channels, *pictures[0].shape[1:]), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        stacked[row] = picture
    return torch.from_numpy(stacked)


def folder_classes(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    """Return the names of the folders right below ``folder`` that the images lie in, in alphabetical order."""
    return tuple(sorted({path.relative_to(folder).parts[0] for path in paths}))


def folder_labels(folder: Path, paths: list[Path]) -> Tensor | None:
    """Return the label (N,) of each image, its subfolder's number, or None unless all lie in two or more of them."""
    parts = [path.relative_to(folder).parts for path in paths]
    classes = folder_classes(folder, paths)
    if len(classes) < 2 or any(len(each) == 1 for each in parts):
        return None
    index = {name: number for number, name in enumerate(classes)}
    return torch.tensor([index[each[0]] for each in parts])
