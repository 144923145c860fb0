"""Image files of every mode and depth as 8-bit gray or RGB arrays, and the one way in which images are made smaller."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import error_line
from snngan.files import check_regular

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may recognize, whatever the file's name: for some of the others it runs external programs."""
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
"""TIFF tags: bits per sample; 0 where white is zero; 2 where channels are stored apart; 2 for signed numbers."""
_GRAY_STEPS = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow multiplies the levels of PNG files with 2 and 4 bits, but not their transparent level."""
_DARK = (
    "its 16-bit levels are all below 4096, as in 12-bit data stored with 16 bits, so it would come out nearly black; "
    "multiply them by 16, or save it with 8 bits"
)


class UnusableImageError(ValueError):
    """An image file that cannot be decoded, has pixels of unknown range, or is too small.

    Attributes:
        reason: what is wrong with it, in a few words, without its path.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """Size of an image file in pixels, and whether :func:`open_image` returns it as gray."""

    width: int
    height: int
    is_gray: bool


def read_header(path: Path) -> Header | None:
    """Return the header of an image file, or None if it cannot be read; :func:`open_image` then says why."""
    from PIL import Image

    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                is_gray = image.mode in ("1", "L") or _is_16_bit_gray(image)
                return Header(*image.size, is_gray and "transparency" not in image.info)
    except Exception:  # Pillow's decoders raise errors of many kinds on a damaged file
        return None


def open_image(path: Path, smallest: int = 1) -> Image.Image:
    """Decode an image file to mode L or RGB, rotated as its EXIF data say, with transparent parts white.

    Raises:
        UnusableImageError: the file cannot be decoded, its pixels have an unknown range, or a side is shorter than
            ``smallest`` pixels.
    """
    from PIL import Image

    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if min(width, height) >= smallest:
                    return _to_8_bits(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds on a damaged file
        reason = error_line(error)
        raise UnusableImageError(
            reason, f"{path} cannot be read: {reason}; repair or remove it, or use --skip-broken"
        ) from error
    reason, side = f"{width}x{height}, too small for images of {smallest}x{smallest}", min(width, height)
    advice = f"use --image-size {side} or less" if side >= 8 else "remove it"
    raise UnusableImageError(reason, f"{path} is {reason}; {advice}, or use --skip-broken to leave it out")


def read_image(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Return an image file as (C, H, W) with C = 1 (gray) or 3, cropped and resized to ``size`` pixels where given.

    Raises:
        UnusableImageError: as :func:`open_image`; also if a side is shorter than ``size``.
    """
    image = open_image(path, size or 1)
    return image_to_array(image if size is None else resize_image(image, size))


def describe_resize(size: int) -> str:
    """Return the name of the method of :func:`resize_image`, which is recorded with measurements."""
    return f"center crop, Pillow bicubic to {size}x{size}"


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Crop an 8-bit image to its central square and resize that to ``size`` pixels, with Pillow's antialiasing."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images (N, C, H, W), C = 1 or 3, to (N, C, size, size), each by :func:`resize_image`."""
    from PIL import Image

    resized = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    pixels, targets = images.permute(0, 2, 3, 1).numpy(), resized.numpy()
    for row, each in enumerate(pixels):  # one by one: no second copy of a large data set
        image = Image.fromarray(each[:, :, 0] if each.shape[2] == 1 else np.ascontiguousarray(each))
        targets[row] = image_to_array(resize_image(image, size))
    return resized


def image_to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image of mode L or RGB as (1, H, W) or (3, H, W)."""
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert an opened image of any mode to mode L or RGB, rotated as its EXIF data say."""
    from PIL import Image, ImageOps

    rawmode = _rawmode(image)  # Pillow forgets it once the pixels are loaded
    white_is_zero = _tag(image, PHOTOMETRIC, 1) == 0
    _check_range(image)
    image = ImageOps.exif_transpose(image)
    transparency = image.info.get("transparency")
    if _is_16_bit_gray(image):
        levels = np.asarray(image)
        if 0 < levels.max() < 4096:
            raise ValueError(_DARK)
        levels = 65535 - levels if white_is_zero else levels
        gray = Image.fromarray((levels // 256).astype(np.uint8))
        if transparency is None:
            return gray
        image = Image.merge("LA", (gray, Image.fromarray((levels != transparency).astype(np.uint8) * 255)))
    elif ";16" in rawmode:
        _check_16_bit_colors(image)
        if transparency is not None:
            raise ValueError("its transparent color has 16 bits; save it with an alpha channel")
    elif transparency is not None and rawmode in _GRAY_STEPS:
        image.info["transparency"] = transparency * _GRAY_STEPS[rawmode]
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _check_range(image: Image.Image) -> None:
    """Raise ``ValueError`` if the pixel format does not say which levels are black and white."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of unknown range; save it with 8 bits")
    if _tag(image, SAMPLE_FORMAT, 1) == 2 or (image.format == "TIFF" and image.mode == "I"):
        raise ValueError("its pixels are signed or 32-bit integers, of unknown range; save it with 8 bits")
    if _tag(image, PLANAR, 1) == 2 and _tag(image, BITS, 8) > 8 and len(image.getbands()) > 1:
        raise ValueError("its 16-bit colors lie in separate planes, which Pillow does not read; save it with 8 bits")


def _check_16_bit_colors(image: Image.Image) -> None:
    """Raise ``ValueError`` if 16-bit colors, whose upper 8 bits Pillow keeps, use 12 bits or fewer."""
    levels = {band: np.asarray(image.getchannel(band)) for band in image.getbands()}
    alpha = levels.pop("A", np.full(1, 255))
    if alpha.max() < 16 or (alpha.min() == 255 and max(each.max() for each in levels.values()) < 16):
        raise ValueError(_DARK)


def _is_16_bit_gray(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _rawmode(image: Image.Image) -> str:
    """Return Pillow's name for the pixel layout in the file, such as ``RGB;16B``, or an empty string."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, list | tuple) and arguments else arguments)


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the number stored under a TIFF tag, the first one where there is one per channel."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
