"""How images are made smaller: one method for image files and arrays, so that equal images stay equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def describe_resize(size: int) -> str:
    """Name the method of this file, for the record of a measurement."""
    return f"center crop, Pillow bicubic to {size}x{size}"


def resize_picture(picture: Picture, size: int) -> Picture:
    """Crop an 8-bit picture to its middle square and shrink that to ``size``, with the antialiasing of Pillow."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (size, size), method=Image.Resampling.BICUBIC)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Return (N, C, H, W) uint8 images, C 1 or 3, as (N, C, size, size), each by :func:`resize_picture`."""
    from PIL import Image

    resized = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    pixels, targets = images.permute(0, 2, 3, 1).numpy(), resized.numpy()
    for row, image in enumerate(pixels):  # one by one: no second copy of a large set
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image))
        targets[row] = picture_to_array(resize_picture(picture, size))
    return resized


def picture_to_array(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture of mode L or RGB as (1, H, W) or (3, H, W)."""
    pixels = np.array(picture)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
