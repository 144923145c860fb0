"""notMNIST: letters A to J of many typefaces, read out of its author's archive of pictures, which is never unpacked."""

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
"""Bytes of the whole archive; its author gives no checksum."""
LETTERS = "ABCDEFGHIJ"
LARGEST, LARGEST_UNPACKED, MOST_FILES = 1 << 20, 1 << 28, 200_000
"""Bytes of one picture, which has some 500, and of the unpacked archive, which has some 30 million in 18700 files."""


@dataclass(frozen=True)
class NotMNIST:
    """The smaller, hand-cleaned half of Bulatov 2011, some 18700 letters, a tenth of them held out."""

    image_shape: ImageShape = (1, 28, 28)
    num_classes: int = len(LETTERS)
    keep: bool = True
    remedy: str = "--download"

    def find(self, data_dir: Path) -> str | None:
        """Return the archive's path, if it is there."""
        path = data_dir / ARCHIVE
        return str(path) if path.exists() else None

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Return the set, its archive fetched first where it is not here and ``download`` is true.

        Raises:
            ValueError: it is not here, could not be fetched whole, or cannot be read.
        """
        path = data_dir / ARCHIVE
        if not path.exists():
            if not download:
                raise ValueError(f"{name} is not here: no {data_dir / name}.npz and no {path}; use {self.remedy}")
            _fetch(name, path)
        try:
            return hold_out(name, *_pictures(path))
        except Exception as error:  # a damaged archive fails in many ways
            raise ValueError(f"{path} cannot be read ({error_line(error)}); remove it and use --download") from error


def _fetch(name: str, path: Path) -> None:
    from torchvision.datasets.utils import download_url

    try:
        download_url(URL, path.parent, path.name)
    except Exception as error:  # network, disk: each has its own kind of error
        raise ValueError(
            f"{name} could not be downloaded into {path.parent} ({error_line(error)}); check the network, or put "
            f"{ARCHIVE} there"
        ) from error
    if path.stat().st_size != SIZE:
        found = path.stat().st_size
        path.unlink()
        raise ValueError(f"{URL} gave {found} bytes, not the {SIZE} of {ARCHIVE}; nothing was kept")


def _pictures(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, 1, 28, 28) uint8 and labels (N,) of the archive; the few files that are empty are left out."""
    from PIL import Image

    images, labels = [], []
    with gzip.open(path) as file:
        content = file.read(LARGEST_UNPACKED + 1)
    if len(content) > LARGEST_UNPACKED:
        raise ValueError(f"it unpacks to more than {LARGEST_UNPACKED >> 20} MiB")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for number, member in enumerate(archive):
            if member.size < 0 or number == MOST_FILES:  # backwards it would go on for ever
                raise ValueError("its files are too many, or of less than no bytes")
            letter = Path(member.name).parent.name
            if not member.isfile() or not 0 < member.size <= LARGEST or letter not in tuple(LETTERS):
                continue
            own = archive.extractfile(member)
            assert own is not None
            try:
                with Image.open(io.BytesIO(own.read()), formats=["PNG"]) as picture:
                    if picture.size != (28, 28):
                        continue
                    images.append(np.asarray(picture.convert("L")))
            except (OSError, SyntaxError, Image.DecompressionBombError):
                continue
            labels.append(LETTERS.index(letter))
    if len(images) < 2:
        raise ValueError(f"{len(images)} letters of 28x28")
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels)


DATASETS.register("notmnist")(NotMNIST())
