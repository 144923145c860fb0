"""Targets for fuzzing: each reader of files, which may refuse any bytes only by the errors that it documents.

The first byte of an input selects how the rest is packed, so that mutations pass the first checksum.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_svg
import matplotlib.font_manager  # noqa: F401 (they create folders when they are imported)
import numpy as np
import torch
from PIL import Image

from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.data.folder import list_images, read_folder
from snngan.data.image_files import read_header
from snngan.data.npz import read_images, read_npz
from snngan.training.resolve import resolve
from snngan.training.run_folder import RunFolder, open_run

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(24) % 3


def few() -> Dataset:
    """Return 20 labeled images, and 4 held out."""
    images, labels = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    return Dataset("few", images[:20], labels[:20], images[20:], labels[20:])


def bytes_of_npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)  # type: ignore[operator]
    return buffer.getvalue()


def bytes_of_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class Target(ABC):
    """One reader, with an empty folder for its files.

    A call reads one input and returns whether it was accepted; errors other than ``ValueError`` are not caught.
    """

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Return inputs that are accepted, from which others are made."""

    @abstractmethod
    def read(self, form: int, content: bytes) -> None:
        """Read ``content`` packed in the way number ``form`` (0 to 255)."""

    def __call__(self, data: bytes) -> bool:
        if not data:
            return False
        try:
            self.read(data[0], data[1:])
        except ValueError:
            return False
        return True


def new_gan_run(folder: Path) -> RunFolder[TrainConfig]:
    """Return a new generator's run."""
    config = TrainConfig(
        objective="gan", arch="mlp", set=("width=4", "latent_dim=2", "hidden_layers=1"), batch_size=8, steps=6,
        metrics_every=0,
    )  # fmt: skip
    return RunFolder.create(folder / "run", resolve(config, few()), CPU)


class ConfigFile(Target):
    """A run folder's ``config.json``."""

    name = "config"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        config = resolve(ClassifyConfig(arch="cnn-small", batch_size=8, seeds="0:2"), few())
        runs: list[RunFolder[Any]] = [new_gan_run(folder), RunFolder.create(folder / "classifier", config, CPU)]
        self.written = [(run.path / "config.json").read_bytes() for run in runs]
        self.run = folder / "run"

    def seeds(self) -> list[bytes]:
        return [b"\0" + each for each in self.written]

    def read(self, form: int, content: bytes) -> None:
        (self.run / "config.json").write_bytes(content)
        run = open_run(self.run, Config)
        run.describe_changes()
        run.rewind(0)
        assert open_run(self.run, Config).config == run.config


class Npz(Target):
    """npz files as data sets, their archives or single arrays in them."""

    name = "npz"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "some.npz"

    def seeds(self) -> list[bytes]:
        arrays = {"train_images": IMAGES[:20], "train_labels": LABELS[:20], "test_images": IMAGES[20:]}
        floats = IMAGES[:, 0].astype(np.float32) / 127.5 - 1
        return [
            *(b"\0" + bytes_of_npz(compressed, **arrays) for compressed in (False, True)),
            b"\0" + bytes_of_npz(images=np.asfortranarray(floats)),
            *(bytes([form]) + bytes_of_npy(IMAGES) for form in (1, 2)),
        ]

    def read(self, form: int, content: bytes) -> None:
        form %= 3
        if form == 0:
            self.path.write_bytes(content)
        else:
            kind = zipfile.ZIP_DEFLATED if form == 2 else zipfile.ZIP_STORED
            with zipfile.ZipFile(self.path, "w", kind) as archive:
                archive.writestr("labels.npy", bytes_of_npy(LABELS))
                archive.writestr("images.npy", content)
        read_npz("some", self.path)
        read_images(self.path, "test")


class Idx(Target):
    """The files of MNIST's form, plain and packed, and the archive of notMNIST."""

    name = "idx"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = folder / "MNIST" / "raw"
        self.place.mkdir(parents=True)
        self.images = b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in IMAGES[:, 0].shape) + IMAGES.tobytes()
        self.labels = b"\0\0\x08\1" + len(LABELS).to_bytes(4, "big") + LABELS.astype(np.uint8).tobytes()
        for half in ("train", "t10k"):
            (self.place / f"{half}-images-idx3-ubyte").write_bytes(self.images)
            (self.place / f"{half}-labels-idx1-ubyte").write_bytes(self.labels)
        buffer, picture = io.BytesIO(), io.BytesIO()
        Image.new("L", (28, 28), 9).save(picture, "PNG")
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(4):
                entry = tarfile.TarInfo(f"notMNIST_small/{'AB'[number % 2]}/{number}.png")
                entry.size = len(picture.getvalue())
                archive.addfile(entry, io.BytesIO(picture.getvalue()))
        self.letters = buffer.getvalue()

    def seeds(self) -> list[bytes]:
        packed = [gzip.compress(each, mtime=0) for each in (self.images, self.letters)]
        return [b"\0" + self.images, b"\1" + self.labels, b"\2" + packed[0], b"\3" + self.images, b"\4" + packed[1],
                b"\5" + self.letters]  # fmt: skip

    def read(self, form: int, content: bytes) -> None:
        form %= 6
        if form in (3, 5):
            content = gzip.compress(content, 1, mtime=0)
        if form > 3:
            (self.folder / "notMNIST_small.tar.gz").write_bytes(content)
            load_dataset("notmnist", data_dir=self.folder, keep=False)
            return
        part, good = ("labels-idx1", self.labels) if form == 1 else ("images-idx3", self.images)
        plain = self.place / f"t10k-{part}-ubyte"
        path = plain.with_name(f"{plain.name}.gz") if form > 1 else plain
        plain.unlink()
        try:
            path.write_bytes(content)
            load_dataset("mnist", data_dir=self.folder, keep=False)
        finally:
            path.unlink()
            plain.write_bytes(good)


class Pictures(Target):
    """A folder of images."""

    name = "pictures"
    suffixes = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for place in ("a", "b"):
            (folder / "pictures" / place).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(folder / "pictures" / "b" / "good.png")

    def seeds(self) -> list[bytes]:
        found = []
        for number, suffix in enumerate(self.suffixes):
            for mode in ("L", "RGB", "P", "RGBA"):
                buffer = io.BytesIO()
                with suppress(OSError):  # not every format has every mode
                    form = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix)
                    Image.new("RGB", (12, 10), "blue").convert(mode).save(buffer, form)
                    found.append(bytes([number]) + buffer.getvalue())
        return found

    def read(self, form: int, content: bytes) -> None:
        path = self.folder / "pictures" / "a" / f"odd.{self.suffixes[form % len(self.suffixes)]}"
        path.write_bytes(content)
        try:
            for each in list_images(self.folder / "pictures"):
                read_header(each)
            read_folder("pictures", self.folder / "pictures", 8, skip_broken=False, notify=lambda line: None)
        finally:
            path.unlink()


TARGETS = {kind.name: kind for kind in (ConfigFile, Npz, Idx, Pictures)}
