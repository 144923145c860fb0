"""Images for the user: many drawn as one, a grid or a scatter plot, or written as an npz file or single PNG files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from snngan.data import POINT_SHAPE, to_uint8
from snngan.files import check_absent, replacing, write_npz

Pixels = NDArray[np.uint8]
"""An RGB image (H, W, 3), or a gray one (H, W)."""
FRAME = 80
"""Milliseconds that each frame of a film is shown."""
COLORS = 24
"""Colors of each frame of a film."""
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
    canvas = Image.new("RGB", (MIN_WIDTH, MIN_WIDTH), "white")
    draw = ImageDraw.Draw(canvas)
    for layer, color in ((background, (170, 170, 170)), (points, (200, 30, 30))):
        if layer is not None:
            for x, y in (layer.flatten(1).cpu().numpy() + 1) / 2 * (MIN_WIDTH - 1):
                draw.ellipse((x - 2, MIN_WIDTH - y - 3, x + 2, MIN_WIDTH - y + 1), fill=color)
    return np.asarray(canvas)


def save_png(pixels: Pixels, path: Path) -> None:
    """Write ``pixels`` atomically as a PNG file; folders are created as needed. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        Image.fromarray(pixels).save(file, format="PNG")


def save_gif(frames: Sequence[Image.Image], path: Path, milliseconds: int, last: int) -> None:
    """Write ``frames`` of one size atomically as an endless GIF film; folders are created as needed.

    Each frame is shown for so many milliseconds, the last one for ``last``. Raises ``OSError``.
    """
    first, *rest = frames
    durations = [milliseconds] * len(rest) + [last]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


def check_output(path: Path, *, force: bool, option: str = "--out", film: bool = False) -> None:
    """Raise ``ValueError`` if :func:`save_images` could not write to ``path``, or would replace something.

    Names ending in .gif are allowed for a ``film``.

    With ``force``, a file may be replaced, and so may a folder that holds only numbered PNG files.
    """
    if path.suffix.lower() in (".png", ".npz", *((".gif",) if film else ())):
        if path.is_dir():
            raise ValueError(f"{option} {path} is a folder; give a file name")
        check_absent(path, force=force, option=option)
    elif path.suffix and not str(path).endswith(os.sep) and not path.is_dir():
        names = ".png, .npz or .gif" if film else ".png or .npz"
        raise ValueError(f"--out must be a name ending in {names}, or a folder, got {path}")
    elif path.is_file():
        raise ValueError(f"--out {path} is a file; give a new folder, or a name ending in .png or .npz")
    elif path.is_dir() and any(path.iterdir()):
        check_absent(path, force=force)
        if others := [each.name for each in path.iterdir() if not re.fullmatch(r"[0-9]{6}\.png", each.name)]:
            raise ValueError(f"--out {path} holds other files, such as {others[0]}: give a new folder")
    if not (parent := path.absolute().parent).is_dir():
        raise ValueError(f"{option} {path}: cannot find the folder {parent}")


def save_images(
    images: Tensor,
    path: Path,
    columns: int | None = None,
    labels: Tensor | None = None,
    per_frame: int | None = None,
) -> None:
    """Write ``images`` (N, C, H, W) in [-1, 1]: as one grid (.png), under the key ``images`` (.npz), else to a folder.

    A name ending in .gif gets a film of grids, with ``per_frame`` images each. Images in npz files, beside their
    ``labels`` (N,) if given, and in folders are uint8; 2-D points (N, 1, 1, 2) stay float32 in npz files. An existing
    file is replaced, and in a folder ``000000.png``, ``000001.png``, ...

    Raises:
        ValueError: they cannot be written.
    """
    is_points = images.shape[1:] == POINT_SHAPE
    try:
        if path.suffix.lower() == ".png":
            save_png(draw_images(images, columns=columns), path)
        elif path.suffix.lower() == ".gif":
            chunks = torch.split(images, per_frame or len(images))
            frames = [Image.fromarray(draw_images(each, columns=columns)).quantize(COLORS) for each in chunks]
            save_gif(frames, path, FRAME, FRAME)
        elif path.suffix.lower() == ".npz":
            arrays = {"images": (images if is_points else to_uint8(images)).numpy()}
            write_npz(path, arrays if labels is None else {**arrays, "labels": labels.numpy()}, compressed=True)
        elif is_points:
            raise ValueError(f"--out must end in .png or .npz for 2-D points, got the folder {path}")
        else:
            pixels = to_uint8(images)
            for former in path.glob(f"{'[0-9]' * 6}.png"):
                former.unlink()
            for index, image in enumerate(pixels):
                save_png(image.permute(1, 2, 0).squeeze(2).numpy(), path / f"{index:06d}.png")
    except OSError as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error
