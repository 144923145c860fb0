"""Many images drawn as one: a grid, or a scatter plot for 2-D points."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snngan.data import POINT_SHAPE, to_uint8
from snngan.files import replacing

Pixels = NDArray[np.uint8]
"""An RGB image (H, W, 3), or a gray one (H, W)."""
MIN_WIDTH = 400
"""Grids are enlarged by whole factors to this width in pixels or more; scatter plots have exactly this width."""


def draw_images(images: Tensor, *, columns: int | None = None, background: Tensor | None = None) -> Pixels:
    """Draw ``images`` (N, C, H, W) in [-1, 1] as one image (height, width, 3): a grid of ``columns``.

    2-D points (N, 1, 1, 2) are drawn as a scatter plot in red, over the points ``background`` in gray.
    """
    return draw_points(images, background) if images.shape[1:] == POINT_SHAPE else draw_grid(to_uint8(images), columns)


def draw_grid(images: Tensor, columns: int | None = None, *, enlarge: bool = True) -> Pixels:
    """Draw uint8 ``images`` (N, C, H, W), gray or RGB, row by row; ``columns`` defaults to the square root of N."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, 3), np.uint8)
    cells[:count] = (images[:, :3] if channels >= 3 else images[:, :1]).cpu().permute(0, 2, 3, 1).numpy()
    sheet = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    factor = max(1, math.ceil(MIN_WIDTH / sheet.shape[1])) if enlarge else 1
    return np.ascontiguousarray(sheet.repeat(factor, 0).repeat(factor, 1))


def draw_points(points: Tensor, background: Tensor | None = None) -> Pixels:
    """Draw ``points`` (N, 1, 1, 2) in red over the points ``background`` in gray; both axes show [-1, 1]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (MIN_WIDTH, MIN_WIDTH), "white")
    draw = ImageDraw.Draw(canvas)
    for layer, color in ((background, (170, 170, 170)), (points, (200, 30, 30))):
        if layer is not None:
            for x, y in (layer.flatten(1).cpu().numpy() + 1) / 2 * (MIN_WIDTH - 1):
                draw.ellipse((x - 2, MIN_WIDTH - y - 3, x + 2, MIN_WIDTH - y + 1), fill=color)
    return np.asarray(canvas)


def save_png(pixels: Pixels, path: Path) -> None:
    """Write ``pixels`` atomically as a PNG file; folders are created as needed.

    Raises:
        OSError: the file cannot be written.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        Image.fromarray(pixels).save(file, format="PNG")
