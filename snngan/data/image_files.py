"""Image files of every mode and depth as 8-bit gray or RGB arrays, and the one way in which images are made smaller."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from snngan.data import error_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may recognize, whatever the file's name: for some of the others it runs external programs."""
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
"""TIFF tags: bits per sample; 0 where white is zero; 2 where channels are stored apart; 2 for signed numbers."""


class UnusableImageError(ValueError):
    """An image file that cannot be used; ``reason`` says in a few words what is wrong with it, without its path."""

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
    try:
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
        UnusableImageError: the file cannot be decoded, is huge, of unknown range or smaller than ``smallest``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if min(width, height) >= smallest:
                    return _to_8_bits(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds on a damaged file
        reason = error_line(error)
        message = f"{path} cannot be read: {reason}; repair or remove it, or use --skip-broken"
        raise UnusableImageError(reason, message) from error
    reason = f"{width}x{height}, too small for images of {smallest}x{smallest}"
    advice = "remove it" if min(width, height) < 8 else f"use --image-size {min(width, height)} or less"
    advice += ", or --skip-broken to leave it out"
    raise UnusableImageError(reason, f"{path} is {reason}; {advice}")


def read_image(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Return :func:`open_image` as (C, H, W) with C = 1 (gray) or 3, cropped and resized to ``size`` if given."""
    image = open_image(path, size or 1)
    return to_array(image if size is None else resize_image(image, size))


def describe_resize(size: int) -> str:
    """Return the name of the method of :func:`resize_image`, which is recorded with measurements."""
    return f"center crop, Pillow bicubic to {size}x{size}"


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Crop an 8-bit image to its central square and resize that to ``size`` pixels, with Pillow's antialiasing."""
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images (N, C, H, W), C = 1 or 3, to (N, C, size, size), each by :func:`resize_image`."""
    resized = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for target, each in zip(resized.numpy(), images.permute(0, 2, 3, 1).numpy(), strict=True):
        image = Image.fromarray(each[:, :, 0] if each.shape[2] == 1 else np.ascontiguousarray(each))
        target[:] = to_array(resize_image(image, size))
    return resized


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image of mode L or RGB as (1, H, W) or (3, H, W)."""
    return np.ascontiguousarray(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert an opened image of any mode to mode L or RGB, rotated as its EXIF data say."""
    is_gray, tags = _is_16_bit_gray(image), getattr(image, "tag_v2", {})
    layout = str(getattr(image, "tile", [])[:1])  # which Pillow forgets once the pixels are loaded
    is_16_bit = is_gray or ";16" in layout or 16 in tags.get(BITS, ())
    is_signed = 2 in tags.get(SAMPLE_FORMAT, ()) or (image.format == "TIFF" and image.mode == "I")
    if image.mode == "F" or is_signed:
        raise ValueError(
            "its pixels are floating-point, signed or 32-bit numbers, of unknown range; save it with 8 bits"
        )
    if is_16_bit and not is_gray and ("transparency" in image.info or tags.get(PLANAR) == 2):
        raise ValueError("its 16-bit colors are stored in a way that Pillow does not read; save it with 8 bits")
    image = ImageOps.exif_transpose(image)
    transparency = image.info.get("transparency")
    for name, step in (("L;2", 85), ("L;4", 17)):  # Pillow leaves the transparent level as it is stored
        if f"'{name}'" in layout and transparency is not None:
            image.info["transparency"] = transparency * step
    if is_16_bit:
        levels = np.asarray(image)  # of colors, Pillow keeps the upper 8 bits
        alpha = levels[..., -1] if image.mode in ("LA", "RGBA") else np.full(1, 255)
        colors = levels[..., :-1] if image.mode in ("LA", "RGBA") else levels
        is_dark = alpha.max() < 16 or (alpha.min() == 255 and colors.max() < 16)
        if 0 < levels.max() < 4096 if is_gray else is_dark:
            raise ValueError(
                "its 16-bit levels are all below 4096, as in 12-bit data stored with 16 bits, so it would come out "
                "nearly black; multiply them by 16, or save it with 8 bits"
            )
        if is_gray:
            levels = 65535 - levels if tags.get(PHOTOMETRIC) == 0 else levels
            image = Image.fromarray((levels // 256).astype(np.uint8))
            if transparency is not None:
                image.putalpha(Image.fromarray((levels != transparency).astype(np.uint8) * 255))
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _is_16_bit_gray(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")
