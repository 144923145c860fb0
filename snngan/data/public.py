"""Public data sets of torchvision, read from its files or Debian's, or downloaded through torchvision."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snngan.data import DATASETS, Dataset, ImageShape, error_line
from snngan.memory import check_memory

DEBIAN_FOLDER = Path("/usr/share/datasets")

Labeled = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


@dataclass(frozen=True)
class PublicSource:
    """A data set of torchvision, found by its files.

    Args:
        torchvision_name: its class in ``torchvision.datasets``.
        options: keyword arguments of that class for the training and for the test split.
        folder: the folder of its files, relative to the data folder.
        files: the names of those files.
        read: maps this object, the folder of the files and 0 (training) or 1 (test) to that split.
        debian_package: the Debian package that installs the same files to /usr/share/datasets.
    """

    image_shape: ImageShape
    num_classes: int
    torchvision_name: str
    options: tuple[dict[str, Any], dict[str, Any]]
    folder: str
    files: tuple[str, ...]
    read: Callable[[PublicSource, Path, int], Labeled]
    debian_package: str | None = None
    keep: bool = True

    @property
    def remedy(self) -> str:
        """The option, or the package to install."""
        return "--download" if self.debian_package is None else f"--download, or apt install {self.debian_package}"

    def find(self, data_dir: Path) -> str | None:
        """Return the folder that has all files of the set, and whether they are torchvision's or Debian's."""
        folder = self._find_folder(data_dir)
        if folder is None:
            return None
        return f"{folder} ({'torchvision layout' if folder == data_dir / self.folder else 'Debian package'})"

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Read both splits, downloaded to ``data_dir`` first if they are missing and ``download`` is true.

        Raises:
            ValueError: the set is missing, the download failed, or the files are damaged.
        """
        folder = self._find_folder(data_dir)
        if folder is None and not download:
            places = " or ".join(str(place) for place in self._folders(data_dir))
            raise ValueError(
                f"{name} is not here: no {data_dir / name}.npz, and not {self.files[0]} and the like in {places};"
                f" use {self.remedy}"
            )
        if folder is None:
            try:
                for split in (0, 1):
                    self.open_torchvision(data_dir, split, download=True)
            except Exception as error:  # network, disk, checksum, archive: each raises its own kind of error
                raise ValueError(
                    f"{name} could not be downloaded into {data_dir} ({error_line(error)});"
                    f" check the network, or put the set there as {name}.npz"
                ) from error
            folder = data_dir / self.folder
        try:
            train, test = (self.read(self, folder, split) for split in (0, 1))
        except Exception as error:  # a damaged file fails in as many ways as there are formats
            raise ValueError(
                f"the files of {name} in {folder} cannot be read ({error_line(error)});"
                " repair them, or remove them and use --download"
            ) from error
        return Dataset(name, *train, *test)

    def open_torchvision(self, data_dir: Path, split: int, *, download: bool) -> Any:
        """Return torchvision's data set of the training split (0) or the test split (1)."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision_name)(data_dir, download=download, **self.options[split])

    def _folders(self, data_dir: Path) -> list[Path]:
        debian = self.debian_package and DEBIAN_FOLDER / self.debian_package.removeprefix("dataset-")
        return [data_dir / self.folder, *([debian] if debian else [])]

    def _find_folder(self, data_dir: Path) -> Path | None:
        for folder in self._folders(data_dir):
            if all(_find_file(folder / file) for file in self.files):
                return folder
        return None


def _read_idx_split(source: PublicSource, folder: Path, split: int) -> Labeled:
    images, labels = (_read_idx(folder / file) for file in source.files[2 * split : 2 * split + 2])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"images of shape {tuple(images.shape)} with labels of shape {tuple(labels.shape)}")
    return images[:, None], labels.long()


def _read_emnist(source: PublicSource, folder: Path, split: int) -> Labeled:
    """Read EMNIST, whose images are stored transposed and whose letters are numbered from 1."""
    images, labels = _read_idx_split(source, folder, split)
    letters = source.options[split]["split"] == "letters"
    return images.transpose(2, 3).contiguous(), labels - 1 if letters else labels


def _read_cifar(source: PublicSource, folder: Path, split: int) -> Labeled:
    """Read CIFAR, whose files are pickles: torchvision opens them only if their checksums match."""
    found = source.open_torchvision(folder.parent, split, download=False)
    return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)


def _read_svhn(source: PublicSource, folder: Path, split: int) -> Labeled:
    found = source.open_torchvision(folder, split, download=False)
    return torch.from_numpy(np.ascontiguousarray(found.data)), torch.from_numpy(found.labels)


def _read_idx(path: Path) -> Tensor:
    """Return the uint8 array of an idx file: two zero bytes, type, rank, big-endian sizes, then the bytes."""
    found = _find_file(path)
    assert found is not None, "the caller has found it before"
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            header = file.read(4)
            rank = header[3] if header[:3] == b"\0\0\x08" and len(header) == 4 else 0
            sizes = [int.from_bytes(file.read(4), "big") for _ in range(rank)]
            size = math.prod(sizes)
            check_memory(size, f"{found.name}, by its header,")
            content = bytearray(file.read(size + 1))  # one more byte shows whether the file is longer than declared
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{found.name}: {error_line(error)}") from error
    if not rank or len(content) != size:
        raise ValueError(f"{found.name} is not a complete idx file of bytes")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(sizes))


def _find_file(path: Path) -> Path | None:
    """Return ``path``, or the same path ending in .gz, whichever exists."""
    return next((each for each in (path, path.with_name(f"{path.name}.gz")) if os.path.isfile(each)), None)


_IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")
_TRAIN_FLAG = ({"train": True}, {"train": False})

for _name, _torchvision_name, _debian_package in (
    ("mnist", "MNIST", None),
    ("fashion-mnist", "FashionMNIST", "dataset-fashion-mnist"),
    ("kmnist", "KMNIST", None),
):
    _folder = f"{_torchvision_name}/raw"
    _files = tuple(f"{split}-{part}" for split in ("train", "t10k") for part in _IDX)
    DATASETS.register(_name)(
        PublicSource((1, 28, 28), 10, _torchvision_name, _TRAIN_FLAG, _folder, _files, _read_idx_split, _debian_package)
    )
for _split, _num_classes in (("letters", 26), ("balanced", 47)):
    _files = tuple(f"emnist-{_split}-{split}-{part}" for split in ("train", "test") for part in _IDX)
    _options = ({"split": _split, "train": True}, {"split": _split, "train": False})
    DATASETS.register(f"emnist-{_split}")(
        PublicSource((1, 28, 28), _num_classes, "EMNIST", _options, "EMNIST/raw", _files, _read_emnist)
    )
_CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
DATASETS.register("cifar10")(
    PublicSource((3, 32, 32), 10, "CIFAR10", _TRAIN_FLAG, "cifar-10-batches-py", _CIFAR_FILES, _read_cifar)
)
_SVHN_OPTIONS, _SVHN_FILES = ({"split": "train"}, {"split": "test"}), ("train_32x32.mat", "test_32x32.mat")
DATASETS.register("svhn")(PublicSource((3, 32, 32), 10, "SVHN", _SVHN_OPTIONS, "", _SVHN_FILES, _read_svhn))
