"""notMNIST: letters A to J in many typefaces, read from its author's archive of images without unpacking it."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from snngan.data import DATASETS, Dataset, ImageShape, error_line
from snngan.data.holdout import hold_out

ARCHIVE = "notMNIST_small.tar.gz"
URL = f"http://yaroslavvb.com/upload/notMNIST/{ARCHIVE}"
SIZE = 8458043
"""Bytes of the complete archive; its author published no checksum."""
LETTERS = "ABCDEFGHIJ"
LARGEST, LARGEST_UNPACKED = 1 << 20, 1 << 28
"""Bounds in bytes of one image, which has about 500, and of the unpacked archive, which has about 30 million."""


@dataclass(frozen=True)
class NotMNISTSource:
    """The smaller, hand-cleaned part of Bulatov 2011: about 18700 letters, a tenth of them held out."""

    image_shape: ImageShape = (1, 28, 28)
    num_classes: int = len(LETTERS)
    keep: bool = True
    remedy: str = "--download"

    def find(self, data_dir: Path) -> str | None:
        """Return the path of the archive, or None if it is missing."""
        path = data_dir / ARCHIVE
        return str(path) if path.exists() else None

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Read the archive, and download it first if it is missing and ``download`` is true.

        Raises:
            ValueError: the archive is missing, could not be downloaded completely, or cannot be read.
        """
        path = data_dir / ARCHIVE
        if not path.exists():
            if not download:
                raise ValueError(f"{name} is not here: no {data_dir / name}.npz and no {path}; use {self.remedy}")
            _download(name, path)
        try:
            return hold_out(name, *_read_archive(path))
        except Exception as error:  # a damaged archive fails in many ways
            raise ValueError(f"{path} cannot be read ({error_line(error)}); remove it and use --download") from error


def _download(name: str, path: Path) -> None:
    from torchvision.datasets.utils import download_url

    try:
        download_url(URL, path.parent, path.name)
    except Exception as error:  # network, disk: each raises its own kind of error
        raise ValueError(
            f"{name} could not be downloaded into {path.parent} ({error_line(error)}); check the network, or put "
            f"{ARCHIVE} there"
        ) from error
    size = path.stat().st_size
    if size != SIZE:
        path.unlink()
        raise ValueError(f"{URL} gave {size} bytes, not the {SIZE} of {ARCHIVE}; nothing was kept")


def _read_archive(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, 1, 28, 28) uint8 and labels (N,); the few files that are empty or broken are left out."""
    from PIL import Image

    images, labels = [], []
    with gzip.open(path) as file:
        content = file.read(LARGEST_UNPACKED + 1)
    if len(content) > LARGEST_UNPACKED:
        raise ValueError(f"it unpacks to more than {LARGEST_UNPACKED >> 20} MiB")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            if member.size < 0:  # would be read again and again
                raise ValueError("it has a file of negative size")
            letter = Path(member.name).parent.name
            if not member.isfile() or not 0 < member.size <= LARGEST or letter not in tuple(LETTERS):
                continue
            extracted = archive.extractfile(member)
            assert extracted is not None
            try:
                with Image.open(io.BytesIO(extracted.read()), formats=["PNG"]) as image:
                    if image.size != (28, 28):
                        continue
                    images.append(np.asarray(image.convert("L")))
            except (OSError, SyntaxError, Image.DecompressionBombError):
                continue
            labels.append(LETTERS.index(letter))
    if len(images) < 2:
        raise ValueError(f"it holds {len(images)} letters of 28x28 pixels, expected 2 or more")
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels)


DATASETS.register("notmnist")(NotMNISTSource())
