"""Images written for the user as one grid, an npz file or a folder of PNG files, chosen by the name of the output."""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import Tensor

from snngan.data import POINT_SHAPE, to_uint8
from snngan.data.grids import draw_images, save_png
from snngan.files import check_absent, write_npz


def check_output(path: Path, *, force: bool) -> None:
    """Raise ``ValueError`` if :func:`save_images` could not write to ``path``, or would replace something.

    With ``force``, a file may be replaced, and so may a folder that holds only numbered PNG files.
    """
    if path.suffix.lower() in (".png", ".npz"):
        if path.is_dir():
            raise ValueError(f"--out {path} is a folder; give a file name")
        check_absent(path, force=force)
    elif path.suffix and not str(path).endswith(os.sep) and not path.is_dir():
        raise ValueError(f"--out must be a name ending in .png or .npz, or a folder, got {path}")
    elif path.is_file():
        raise ValueError(f"--out {path} is a file; give a new folder, or a name ending in .png or .npz")
    elif path.is_dir() and any(path.iterdir()):
        check_absent(path, force=force)
        if others := [each.name for each in path.iterdir() if not re.fullmatch(r"[0-9]{6}\.png", each.name)]:
            raise ValueError(f"--out {path} holds other files, such as {others[0]}: give a new folder")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ValueError(f"--out {path}: cannot find the folder {parent}")


def save_images(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write ``images`` (N, C, H, W) in [-1, 1]: as one grid (.png), under the key ``images`` (.npz), else to a folder.

    Images in npz files and folders are uint8; 2-D points (N, 1, 1, 2) stay float32 in npz files. An existing file is
    replaced, and in a folder the files ``000000.png``, ``000001.png``, ...

    Raises:
        ValueError: the images hold NaN, are 2-D points for a folder, or cannot be written.
    """
    is_points = images.shape[1:] == POINT_SHAPE
    try:
        if path.suffix.lower() == ".png":
            save_png(draw_images(images, columns=columns), path)
        elif path.suffix.lower() == ".npz":
            write_npz(path, {"images": (images if is_points else to_uint8(images)).numpy()}, compressed=True)
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
