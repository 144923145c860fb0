"""How images become one picture: a grid of them, or a scatter plot where they are points of the plane."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snngan.data import to_uint8
from snngan.files import replacing

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) uint8."""
SMALLEST_GRID = 400
"""Grids are enlarged by whole factors until they are at least this many pixels wide."""


def picture(images: Tensor, *, columns: int | None = None, behind: Tensor | None = None) -> Picture:
    """Return ``images`` (N, C, H, W) in [-1, 1] as one picture.

    Points (N, 1, 1, 2) become a scatter plot in red, over the points ``behind`` in gray; ``behind`` is not drawn
    under a grid. ``columns`` defaults to the square root of N.
    """
    if images.shape[1:] == (1, 1, 2):
        return scatter(images, behind)
    return grid(to_uint8(images), columns)


def grid(images: Tensor, columns: int | None = None, *, scale: bool = True) -> Picture:
    """Return uint8 ``images`` (N, C, H, W), gray or RGB, row by row; enlarged if ``scale`` and small."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, 3), np.uint8)
    cells[:count] = images[:, :3].cpu().permute(0, 2, 3, 1).numpy() if channels >= 3 else images[:, 0, :, :, None].cpu()
    sheet = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    factor = max(1, math.ceil(SMALLEST_GRID / sheet.shape[1])) if scale else 1
    return np.ascontiguousarray(sheet.repeat(factor, 0).repeat(factor, 1))


def scatter(points: Tensor, behind: Tensor | None = None, size: int = SMALLEST_GRID) -> Picture:
    """Return a plot of ``points`` (N, 1, 1, 2) in red over the points ``behind`` in gray; the frame is [-1, 1]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(canvas)
    for layer, color in ((behind, (170, 170, 170)), (points, (200, 30, 30))):
        if layer is not None:
            for x, y in (layer.flatten(1).cpu().numpy() + 1) / 2 * (size - 1):
                draw.ellipse((x - 2, size - y - 3, x + 2, size - y + 1), fill=color)
    return np.asarray(canvas)


def save_png(content: Picture, path: Path) -> None:
    """Write a picture as a PNG file, its folder made if need be, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        Image.fromarray(content).save(file, format="PNG")
