"""The public sets that torchvision knows: found in its layout or where Debian puts them, else downloaded through it."""

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
from snngan.untrusted import check_memory

DEBIAN_FOLDER = Path("/usr/share/datasets")

Half = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


@dataclass(frozen=True)
class PublicSet:
    """A set of torchvision's, found again by its files.

    Args:
        torchvision_name: its class in ``torchvision.datasets``.
        halves: the class's options for the training and for the test half.
        folder: where torchvision puts its files, below the data folder.
        files: the names of those files.
        read: maps this object, the folder of the files and 0 (training) or 1 (test) to that half.
        debian_package: the package that puts the same files into a folder of /usr/share/datasets.
    """

    image_shape: ImageShape
    num_classes: int
    torchvision_name: str
    halves: tuple[dict[str, Any], dict[str, Any]]
    folder: str
    files: tuple[str, ...]
    read: Callable[[PublicSet, Path, int], Half]
    debian_package: str | None = None
    keep: bool = True

    @property
    def remedy(self) -> str:
        """The flag, or the package to install."""
        return "--download" if self.debian_package is None else f"--download, or apt install {self.debian_package}"

    def find(self, data_dir: Path) -> str | None:
        """Return the folder that all files of the set lie in, and whose layout it is."""
        folder = self._found(data_dir)
        if folder is None:
            return None
        return f"{folder} ({'torchvision layout' if folder == data_dir / self.folder else 'Debian package'})"

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Return both halves of the set, downloaded into ``data_dir`` where they are nowhere and ``download`` is true.

        Raises:
            ValueError: the set is nowhere, the download failed, or the files are damaged.
        """
        folder = self._found(data_dir)
        if folder is None:
            if not download:
                places = " or ".join(str(place) for place in self._folders(data_dir))
                raise ValueError(
                    f"{name} is not here: no {data_dir / name}.npz, and not {self.files[0]} and the like in {places};"
                    f" use {self.remedy}"
                )
            folder = self._download(name, data_dir)
        try:
            train, test = (self.read(self, folder, half) for half in (0, 1))
        except Exception as error:  # a damaged file fails in as many ways as there are formats
            raise ValueError(
                f"the files of {name} in {folder} cannot be read ({error_line(error)});"
                " mend that, or remove them and use --download"
            ) from error
        return Dataset(name, *train, *test)

    def _download(self, name: str, data_dir: Path) -> Path:
        for half in (0, 1):
            try:
                self.torchvision_half(data_dir, half, download=True)
            except Exception as error:  # network, disk, checksum, archive: each has its own kind of error
                raise ValueError(
                    f"{name} could not be downloaded into {data_dir} ({error_line(error)});"
                    f" check the network, or put the set there as {name}.npz"
                ) from error
        return data_dir / self.folder

    def torchvision_half(self, data_dir: Path, half: int, *, download: bool) -> Any:
        """Return torchvision's object for the training half (0) or the test half (1)."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision_name)(data_dir, download=download, **self.halves[half])

    def _folders(self, data_dir: Path) -> list[Path]:
        folders = [data_dir / self.folder]
        if self.debian_package is not None:
            folders.append(DEBIAN_FOLDER / self.debian_package.removeprefix("dataset-"))
        return folders

    def _found(self, data_dir: Path) -> Path | None:
        for folder in self._folders(data_dir):
            if all(_plain_or_packed(folder / file) for file in self.files):
                return folder
        return None


def _idx_half(source: PublicSet, folder: Path, half: int) -> Half:
    images, labels = (_read_idx(folder / file) for file in source.files[2 * half : 2 * half + 2])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"images of shape {tuple(images.shape)} with labels of shape {tuple(labels.shape)}")
    return images[:, None], labels.long()


def _emnist_half(source: PublicSet, folder: Path, half: int) -> Half:
    """EMNIST lies on its side, and its letters count from 1."""
    images, labels = _idx_half(source, folder, half)
    letters = source.halves[half]["split"] == "letters"
    return images.transpose(2, 3).contiguous(), labels - 1 if letters else labels


def _cifar_half(source: PublicSet, folder: Path, half: int) -> Half:
    """CIFAR's files are pickles: torchvision opens them only if their checksums are the known ones."""
    found = source.torchvision_half(folder.parent, half, download=False)
    return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)


def _svhn_half(source: PublicSet, folder: Path, half: int) -> Half:
    found = source.torchvision_half(folder, half, download=False)
    return torch.from_numpy(np.ascontiguousarray(found.data)), torch.from_numpy(found.labels)


def _read_idx(path: Path) -> Tensor:
    """Return the uint8 array of an idx file: two zero bytes, type, rank, big-endian sizes, then the bytes."""
    found = _plain_or_packed(path)
    assert found is not None, "find() saw it"
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            head = file.read(4)
            rank = head[3] if head[:3] == b"\0\0\x08" and len(head) == 4 else 0
            sizes = [int.from_bytes(file.read(4), "big") for _ in range(rank)]
            size = math.prod(sizes)
            check_memory(size, f"{found.name}, by its head,")
            content = bytearray(file.read(size + 1))  # no more than it declares, whatever it unpacks to
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{found.name}: {error_line(error)}") from error
    if not rank or len(content) != size:
        raise ValueError(f"{found.name} is no whole idx file of bytes")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(sizes))


def _plain_or_packed(path: Path) -> Path | None:
    """Return ``path``, or the same with .gz at the end, whichever is there."""
    return next((each for each in (path, path.with_name(f"{path.name}.gz")) if os.path.isfile(each)), None)


_IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")
_TRAIN_FLAG = ({"train": True}, {"train": False})


def _register_idx(name: str, torchvision_name: str, debian_package: str | None = None) -> None:
    files = tuple(f"{half}-{part}" for half in ("train", "t10k") for part in _IDX)
    folder = f"{torchvision_name}/raw"
    source = PublicSet((1, 28, 28), 10, torchvision_name, _TRAIN_FLAG, folder, files, _idx_half, debian_package)
    DATASETS.register(name)(source)


def _register_emnist(split: str, num_classes: int) -> None:
    files = tuple(f"emnist-{split}-{half}-{part}" for half in ("train", "test") for part in _IDX)
    halves = ({"split": split, "train": True}, {"split": split, "train": False})
    source = PublicSet((1, 28, 28), num_classes, "EMNIST", halves, "EMNIST/raw", files, _emnist_half)
    DATASETS.register(f"emnist-{split}")(source)


_register_idx("mnist", "MNIST")
_register_idx("fashion-mnist", "FashionMNIST", "dataset-fashion-mnist")
_register_idx("kmnist", "KMNIST")
_register_emnist("letters", 26)
_register_emnist("balanced", 47)
DATASETS.register("cifar10")(
    PublicSet(
        image_shape=(3, 32, 32),
        num_classes=10,
        torchvision_name="CIFAR10",
        halves=_TRAIN_FLAG,
        folder="cifar-10-batches-py",
        files=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        read=_cifar_half,
    )
)
DATASETS.register("svhn")(
    PublicSet(
        image_shape=(3, 32, 32),
        num_classes=10,
        torchvision_name="SVHN",
        halves=({"split": "train"}, {"split": "test"}),
        folder="",
        files=("train_32x32.mat", "test_32x32.mat"),
        read=_svhn_half,
    )
)
