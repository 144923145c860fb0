"""notMNIST: letters A to J in many typefaces, read from its author's archive of images without unpacking it."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from snngan.data import DATASETS, Dataset, DatasetSource
from snngan.data.holdout import hold_out

ARCHIVE = "notMNIST_small.tar.gz"
URL = f"http://yaroslavvb.com/upload/notMNIST/{ARCHIVE}"
SIZE = 8458043
"""Bytes of the complete archive; its author published no checksum."""
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class NotMNISTSource(DatasetSource):
    """The smaller, hand-cleaned part of Bulatov 2011: about 18700 letters, a tenth of them held out."""

    def find(self, data_dir: Path) -> str | None:
        path = data_dir / ARCHIVE
        return str(path) if path.exists() else None

    def download(self, data_dir: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(URL, data_dir, ARCHIVE)
        path = data_dir / ARCHIVE
        if (size := path.stat().st_size) != SIZE:
            path.unlink()
            raise ValueError(f"{URL} gave {size} bytes, not the {SIZE} of {ARCHIVE}; nothing was kept")

    def read(self, name: str, data_dir: Path) -> Dataset:
        from PIL import Image

        images, labels = [], []
        with tarfile.open(data_dir / ARCHIVE) as archive:
            for member in archive:
                letter = Path(member.name).parent.name
                if member.isfile() and letter in tuple(LETTERS):
                    try:
                        with Image.open(archive.extractfile(member), formats=["PNG"]) as image:  # type: ignore[arg-type]
                            images.append(np.asarray(image.convert("L")))
                    except (OSError, SyntaxError):  # two files are broken
                        continue
                    labels.append(LETTERS.index(letter))
        return hold_out(name, torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels))


DATASETS.register("notmnist")(NotMNISTSource((1, 28, 28), len(LETTERS)))
