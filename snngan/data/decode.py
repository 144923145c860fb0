"""One image file as a picture of 8 bits, gray or RGB: the right picture for every mode and depth, or an error."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snngan.data import error_line
from snngan.untrusted import check_regular

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name: of its other formats some run another program."""
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
"""Tags of a TIFF: bits a sample; 0 where white is zero; 2 where each channel lies apart; 2 where numbers are signed."""
_GRAY_STEPS = {"L;2": 85, "L;4": 17}
"""By what Pillow multiplies the levels of PNG files with 2 and 4 bits, but not their transparent level."""
_DARK = (
    "its 16-bit levels are all below 4096, as of 12-bit data in a 16-bit file, so it would come out nearly black; "
    "multiply them by 16, or save it with 8 bits"
)


class UnusableImageError(ValueError):
    """A file that is not an image, not one to trust, of pixels of unknown range, or too small.

    Attributes:
        reason: what is wrong with it, in a few words, without its path.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _UnknownRangeError(Exception):
    """The levels of a picture do not say which are black and white; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """What an image file says before its pixels: its size, and whether :func:`open_picture` gives it as gray."""

    width: int
    height: int
    is_gray: bool


def read_header(path: Path) -> Header | None:
    """Return the header of an image file, or None where it cannot be read; reading the pixels then says why."""
    from PIL import Image

    try:
        check_regular(path, bounded=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                is_gray = image.mode in ("1", "L") or _is_16_bit_gray(image)
                return Header(*image.size, is_gray and "transparency" not in image.info)
    except Exception:  # the decoders raise errors of many kinds on a damaged file
        return None


def open_picture(path: Path, smallest: int = 1) -> Picture:
    """Return an image file as a picture of mode L or RGB, turned as its EXIF data say, transparent parts white.

    Raises:
        UnusableImageError: it is not an image, not one to trust, of pixels of unknown range, or has a side below
            ``smallest`` pixels.
    """
    from PIL import Image

    try:
        check_regular(path, bounded=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in metadata that is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if min(width, height) >= smallest:
                    return _to_8_bits(image)
    except Exception as error:  # the decoders raise errors of many kinds on a damaged file
        reason = error_line(error)
        raise UnusableImageError(
            reason, f"{path} cannot be read: {reason}; repair or remove it, or use --skip-broken"
        ) from error
    reason, side = f"{width}x{height}, too small for images of {smallest}x{smallest}", min(width, height)
    advice = f"use --image-size {side} or less" if side >= 8 else "remove it"
    raise UnusableImageError(reason, f"{path} is {reason}; {advice}, or use --skip-broken to leave it out")


def _to_8_bits(image: Picture) -> Picture:
    """Return an opened image of any mode as one of mode L or RGB, turned as its EXIF data say."""
    from PIL import Image, ImageOps

    rawmode = _rawmode(image)  # loading the pixels forgets it
    white_is_zero = _tag(image, PHOTOMETRIC, 1) == 0
    _check_range(image)
    picture = ImageOps.exif_transpose(image)
    transparency = picture.info.get("transparency")
    if _is_16_bit_gray(picture):
        levels = np.asarray(picture)
        if 0 < levels.max() < 4096:
            raise _UnknownRangeError(_DARK)
        levels = 65535 - levels if white_is_zero else levels
        gray = Image.fromarray((levels // 256).astype(np.uint8))
        if transparency is None:
            return gray
        picture = Image.merge("LA", (gray, Image.fromarray((levels != transparency).astype(np.uint8) * 255)))
    elif ";16" in rawmode:
        _check_depth(picture)
        if transparency is not None:
            raise _UnknownRangeError("its transparent color has 16 bits; save it with an alpha channel")
    elif transparency is not None and rawmode in _GRAY_STEPS:
        picture.info["transparency"] = transparency * _GRAY_STEPS[rawmode]
    if picture.has_transparency_data:
        picture = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _check_range(image: Picture) -> None:
    """Raise ``_UnknownRangeError`` where the kind of the pixels does not say which levels are black and white."""
    if image.mode == "F":
        raise _UnknownRangeError("its pixels are floating-point numbers, of unknown range; save it with 8 bits")
    if _tag(image, SAMPLE_FORMAT, 1) == 2 or (image.format == "TIFF" and image.mode == "I"):
        raise _UnknownRangeError("its pixels are signed or 32-bit integers, of unknown range; save it with 8 bits")
    if _tag(image, PLANAR, 1) == 2 and _tag(image, BITS, 8) > 8 and len(image.getbands()) > 1:
        raise _UnknownRangeError("its 16-bit colors lie in separate planes, which Pillow does not read")


def _check_depth(picture: Picture) -> None:
    """Raise ``_UnknownRangeError`` where 16-bit colors, of which Pillow keeps the upper 8 bits, were of fewer bits."""
    levels = {band: np.asarray(picture.getchannel(band)) for band in picture.getbands()}
    alpha = levels.pop("A", np.full(1, 255))
    if alpha.max() < 16 or (alpha.min() == 255 and max(each.max() for each in levels.values()) < 16):
        raise _UnknownRangeError(_DARK)


def _is_16_bit_gray(image: Picture) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _rawmode(image: Picture) -> str:
    """Return Pillow's name for the pixels as they lie in the file, such as ``RGB;16B``, or an empty string."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, list | tuple) and arguments else arguments)


def _tag(image: Picture, tag: int, default: int) -> int:
    """Return the number that a TIFF has under ``tag``, the first where there is one a channel."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
