"""Images out: one grid, an npz file or a folder of PNG files, by the name of the target."""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import Tensor

from snngan.data import to_uint8
from snngan.data.pictures import picture, save_png
from snngan.files import check_absent, write_npz


def check_target(path: Path, *, force: bool) -> None:
    """Raise ``ValueError`` if nothing can or may be written under ``path``, before any work is done.

    With ``force``, a file may be replaced, and so may a folder that holds nothing but numbered pictures.
    """
    if path.suffix.lower() in (".png", ".npz"):
        if path.is_dir():
            raise ValueError(f"--out {path} is a folder; give a file name")
        check_absent(path, force=force)
    elif path.suffix and not str(path).endswith(os.sep) and not path.is_dir():
        raise ValueError(f"--out takes a name ending in .png or .npz, or a folder, not {path}")
    elif path.is_file():
        raise ValueError(f"--out {path} is a file; give a new folder, or a name ending in .png or .npz")
    elif path.is_dir() and any(path.iterdir()):
        check_absent(path, force=force)
        if others := [each.name for each in path.iterdir() if not re.fullmatch(r"[0-9]{6}\.png", each.name)]:
            raise ValueError(f"--out {path} holds files that no command wrote, such as {others[0]}: give a new folder")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {parent}")


def export_images(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write ``images`` (N, C, H, W) in [-1, 1] to ``path``: .png one picture, .npz the key ``images``, else a folder.

    In npz and folder, pictures are uint8; points of the plane (N, 1, 1, 2) stay float32 and have no folder form. A file
    at ``path`` is replaced, and in a folder the pictures ``000000.png``, ``000001.png``, ...

    Raises:
        ValueError: the images hold NaN, are points for a folder, or the disk did not take them.
    """
    is_points = images.shape[1:] == (1, 1, 2)
    try:
        if path.suffix.lower() == ".png":
            save_png(picture(images, columns=columns), path)
        elif path.suffix.lower() == ".npz":
            arrays = {"images": (images if is_points else to_uint8(images)).numpy()}
            write_npz(path, arrays, compressed=True)
        elif is_points:
            raise ValueError(f"--out {path}: points have no picture each; give a name ending in .png or .npz")
        else:
            pixels = to_uint8(images)
            for former in path.glob(f"{'[0-9]' * 6}.png"):
                former.unlink()
            for index in range(len(pixels)):
                save_png(pixels[index].permute(1, 2, 0).squeeze(2).numpy(), path / f"{index:06d}.png")
    except OSError as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error
