"""Public data sets: those of torchvision, from its files or Debian's, and notMNIST, from its author's archive."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from snngan.data import DATASETS, Dataset, DatasetSource

DEBIAN_FOLDER = Path("/usr/share/datasets")
"""Where Debian's packages dataset-NAME install the files of MNIST-like sets, compressed."""
NOTMNIST = "notMNIST_small.tar.gz"
NOTMNIST_URL = f"http://yaroslavvb.com/upload/notMNIST/{NOTMNIST}"
NOTMNIST_BYTES = 8458043
"""Bytes of the complete archive; its author published no checksum."""
LETTERS = "ABCDEFGHIJ"

Labeled = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


@dataclass(frozen=True, kw_only=True)
class PublicSource(DatasetSource):
    """A data set of torchvision, found by its files.

    Args:
        torchvision_name: its class in ``torchvision.datasets``.
        options: keyword arguments of that class for the training and for the test split.
        folder: the folder of its files, relative to the data folder.
        files: the names of those files.
        read_split: maps this object, the folder of the files and 0 (training) or 1 (test) to that split.
        debian_name: NAME of the Debian package dataset-NAME that has the same files.
    """

    torchvision_name: str
    options: tuple[dict[str, Any], dict[str, Any]]
    folder: str
    files: tuple[str, ...]
    read_split: Callable[[PublicSource, Path, int], Labeled]
    debian_name: str | None = None

    def find(self, data_dir: Path) -> str | None:
        folders = [data_dir / self.folder, *([DEBIAN_FOLDER / self.debian_name] if self.debian_name else [])]
        return next((str(each) for each in folders if all(_find_file(each / file) for file in self.files)), None)

    def download(self, data_dir: Path) -> None:
        for split in (0, 1):
            self.open_torchvision(data_dir, split, download=True)

    def read(self, name: str, data_dir: Path) -> Dataset:
        folder = Path(self.find(data_dir) or data_dir)
        return Dataset(name, *self.read_split(self, folder, 0), *self.read_split(self, folder, 1))

    def open_torchvision(self, data_dir: Path, split: int, *, download: bool) -> Any:
        """Return torchvision's data set of the training split (0) or the test split (1)."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision_name)(data_dir, download=download, **self.options[split])


def _read_mnist(source: PublicSource, folder: Path, split: int) -> Labeled:
    images, labels = (_read_idx(folder / file) for file in source.files[2 * split : 2 * split + 2])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"images of shape {tuple(images.shape)} with labels of shape {tuple(labels.shape)}")
    return images[:, None], labels.long()


def _read_emnist(source: PublicSource, folder: Path, split: int) -> Labeled:
    """Read EMNIST, whose images are stored transposed and whose letters are numbered from 1."""
    images, labels = _read_mnist(source, folder, split)
    return images.transpose(2, 3).contiguous(), labels - int(source.options[split]["split"] == "letters")


def _read_cifar(source: PublicSource, folder: Path, split: int) -> Labeled:
    """Read CIFAR, whose files are pickles: torchvision opens them only if their checksums match."""
    found = source.open_torchvision(folder.parent, split, download=False)
    return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)


def _read_svhn(source: PublicSource, folder: Path, split: int) -> Labeled:
    found = source.open_torchvision(folder, split, download=False)
    return torch.from_numpy(np.ascontiguousarray(found.data)), torch.from_numpy(found.labels)


def _read_idx(path: Path) -> Tensor:
    """Return the uint8 array of an idx file: two zero bytes, type, rank, big-endian sizes, then the bytes."""
    found = _find_file(path) or path
    with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
        content = bytearray(file.read())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{found.name} is not an idx file of bytes")
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + sizes.nbytes).reshape(sizes))


def _find_file(path: Path) -> Path | None:
    """Return ``path``, or the same path ending in .gz, whichever exists."""
    return next((each for each in (path, path.with_name(f"{path.name}.gz")) if each.is_file()), None)


@dataclass(frozen=True)
class NotMNISTSource(DatasetSource):
    """notMNIST: the smaller, hand-cleaned part of Bulatov 2011, about 18700 letters, read from its archive."""

    def find(self, data_dir: Path) -> str | None:
        path = data_dir / NOTMNIST
        return str(path) if path.exists() else None

    def download(self, data_dir: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(NOTMNIST_URL, data_dir, NOTMNIST)
        path = data_dir / NOTMNIST
        if (size := path.stat().st_size) != NOTMNIST_BYTES:
            path.unlink()
            raise ValueError(
                f"{NOTMNIST_URL} gave {size} bytes, not the {NOTMNIST_BYTES} of {NOTMNIST}; nothing was kept"
            )

    def read(self, name: str, data_dir: Path) -> Dataset:
        images, labels = [], []
        with tarfile.open(data_dir / NOTMNIST) as archive:
            for member in archive:
                letter = Path(member.name).parent.name
                if member.isfile() and letter in tuple(LETTERS):
                    try:
                        with Image.open(archive.extractfile(member), formats=["PNG"]) as image:  # type: ignore[arg-type]
                            images.append(np.asarray(image.convert("L")))
                    except (OSError, SyntaxError):  # two files are broken
                        continue
                    labels.append(LETTERS.index(letter))
        return Dataset.hold_out(name, torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels))


_TRAIN_FLAG = ({"train": True}, {"train": False})
_IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")

for _name, _class, _debian_name in (
    ("mnist", "MNIST", None), ("fashion-mnist", "FashionMNIST", "fashion-mnist"), ("kmnist", "KMNIST", None),
):  # fmt: skip
    DATASETS.register(_name)(PublicSource(
        (1, 28, 28), 10, torchvision_name=_class, options=_TRAIN_FLAG, folder=f"{_class}/raw", read_split=_read_mnist,
        files=tuple(f"{split}-{part}" for split in ("train", "t10k") for part in _IDX), debian_name=_debian_name,
        remedy=f"--download, or apt install dataset-{_debian_name}" if _debian_name else "--download",
    ))  # fmt: skip
for _split, _num_classes in (("letters", 26), ("balanced", 47)):
    DATASETS.register(f"emnist-{_split}")(PublicSource(
        (1, 28, 28), _num_classes, torchvision_name="EMNIST", folder="EMNIST/raw", read_split=_read_emnist,
        options=({"split": _split, "train": True}, {"split": _split, "train": False}),
        files=tuple(f"emnist-{_split}-{split}-{part}" for split in ("train", "test") for part in _IDX),
    ))  # fmt: skip
DATASETS.register("cifar10")(PublicSource(
    (3, 32, 32), 10, torchvision_name="CIFAR10", options=_TRAIN_FLAG, folder="cifar-10-batches-py",
    files=(*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"), read_split=_read_cifar,
))  # fmt: skip
DATASETS.register("svhn")(PublicSource(
    (3, 32, 32), 10, torchvision_name="SVHN", options=({"split": "train"}, {"split": "test"}), folder="",
    files=("train_32x32.mat", "test_32x32.mat"), read_split=_read_svhn,
))  # fmt: skip
DATASETS.register("notmnist")(NotMNISTSource((1, 28, 28), len(LETTERS)))
