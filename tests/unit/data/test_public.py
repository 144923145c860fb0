"""Public data sets: small files of each real format, read as torchvision reads them, and downloads."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io  # type: ignore[import-untyped]
import torch
import torchvision.datasets  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

from snngan.data import DATASETS, public
from snngan.data.datasets import list_datasets, load_dataset
from snngan.data.public import PublicSource

SOURCES = {name: source for name in DATASETS.names() if isinstance(source := DATASETS[name], PublicSource)}
COUNTS = (12, 5)


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, source: PublicSource, *, packed: bool = False) -> None:
    rng = np.random.default_rng(0)
    first = 1 if "letters" in source.files[0] else 0
    folder.mkdir(parents=True)
    for split, count in enumerate(COUNTS):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % source.num_classes + first).astype(np.uint8)
        for name, array in zip(source.files[2 * split :], (images, labels), strict=False):
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


def write_cifar(folder: Path, source: PublicSource) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in source.files[:6]:
        entry = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": rng.integers(0, 10, 4).tolist()}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def write_svhn(folder: Path, source: PublicSource) -> None:
    rng = np.random.default_rng(0)
    for name, count in zip(source.files, COUNTS, strict=True):
        labels = np.arange(1, count + 1, dtype=np.uint8).reshape(-1, 1) % 10 + 1  # 10 stands for the digit 0
        pixels = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        scipy.io.savemat(folder / name, {"X": pixels, "y": labels})


WRITERS: dict[str, Callable[[Path, PublicSource], None]] = {"CIFAR10": write_cifar, "SVHN": write_svhn}


def write_layout(data_dir: Path, source: PublicSource) -> None:
    WRITERS.get(source.torchvision_name, write_idx)(data_dir / source.folder, source)


@pytest.fixture(autouse=True)
def _accept_small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let torchvision accept the small files despite their checksums; hide an installed Debian package."""
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).is_file()
        )
    monkeypatch.setattr(public, "DEBIAN_FOLDER", tmp_path / "debian")


@pytest.mark.parametrize("name", SOURCES)
def test_files_are_read_as_torchvision_reads_them(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    write_layout(tmp_path, source)
    assert list_datasets(tmp_path)[name] == str(tmp_path / source.folder)
    dataset = load_dataset(name, data_dir=tmp_path)
    assert dataset.image_shape == source.image_shape
    splits = ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels))
    for split, (images, labels) in enumerate(splits):
        oracle = source.open_torchvision(tmp_path, split, download=False)
        assert labels is not None and len(images) == len(labels) == len(oracle)
        for row, (image, label) in enumerate(oracle):
            pixels = torch.from_numpy(np.array(image))
            upright = pixels.T if "emnist" in name else pixels
            shape = upright[None] if upright.ndim == 2 else upright.permute(2, 0, 1)
            assert_close(images[row], shape)
            assert labels[row] == label - (name == "emnist-letters")
        assert labels.min() >= 0 and labels.max() < source.num_classes


def test_compressed_files_of_a_debian_package_are_found(tmp_path: Path) -> None:
    name = "fashion-mnist"
    with pytest.raises(ValueError, match="use --download, or apt install dataset-fashion-mnist"):
        load_dataset(name, data_dir=tmp_path / "data")
    write_idx(tmp_path / "debian" / name, SOURCES[name], packed=True)
    assert list_datasets(tmp_path / "data")[name] == str(tmp_path / "debian" / name)
    packaged = load_dataset(name, data_dir=tmp_path / "data")
    write_layout(tmp_path, SOURCES[name])
    assert_close(packaged.train_images, load_dataset(name, data_dir=tmp_path).train_images)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_files_are_refused(name: str, damage: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    write_layout(tmp_path, source)
    path = tmp_path / source.folder / source.files[0]
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"<html>not found</html>"}[damage])
    with pytest.raises(ValueError, match=f"the files of {name} in .* cannot be read .*--download") as caught:
        load_dataset(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / f"{name}.npz").exists()


@pytest.mark.parametrize("name", SOURCES)
def test_both_splits_are_downloaded_once_and_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCES[name]
    real = getattr(torchvision.datasets, source.torchvision_name)
    fetched: list[dict[str, object]] = []

    def fake(root: Path, *, download: bool, **options: object) -> object:
        if download:
            fetched.append(options)
            if len(fetched) == 1:
                write_layout(Path(root), source)
        return real(root, download=False, **options)

    monkeypatch.setattr(torchvision.datasets, source.torchvision_name, fake)
    messages: list[str] = []
    first = load_dataset(name, data_dir=tmp_path, download=True, notify=messages.append)
    assert messages == [f"kept {name} as {tmp_path / name}.npz for the next time"]
    for file in source.files:
        (tmp_path / source.folder / file).unlink()
    second = load_dataset(name, data_dir=tmp_path, download=True, notify=messages.append)
    assert len(messages) == 1 and fetched == list(source.options)
    assert first.labeled_digest() == second.labeled_digest()


def test_a_failed_download_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images:\nTried this mirror, got:\n") from URLError("no route")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(ValueError, match=r"mnist could not be downloaded .*Tried this mirror.*mnist\.npz") as caught:
        load_dataset("mnist", data_dir=tmp_path, download=True)
    assert "\n" not in str(caught.value)


def png(letter: int, number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((28, 28), 20 * letter + number, np.uint8)).save(content, "png")
    return content.getvalue()


def write_archive(path: Path) -> None:
    """Write 4 images per letter, an empty file, one that is not an image, and other names."""
    files = {f"notMNIST_small/{letter}/{number}.png": png(place, number)
             for place, letter in enumerate(public.LETTERS) for number in range(4)}  # fmt: skip
    files |= {"notMNIST_small/A/empty.png": b"", "notMNIST_small/B/broken.png": b"not an image",
              "notMNIST_small/Z/0.png": png(1, 1), "../../A/outside.txt": b"x"}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_notmnist_is_read_from_its_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / public.NOTMNIST)
    assert list_datasets(tmp_path)["notmnist"] == str(tmp_path / public.NOTMNIST)
    dataset = load_dataset("notmnist", data_dir=tmp_path)
    images = torch.cat([dataset.train_images, dataset.test_images])
    assert dataset.train_labels is not None and dataset.test_labels is not None
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    assert images.shape == (40, 1, 28, 28)
    assert torch.equal(images[:, 0, 5, 5] // 20, labels.to(torch.uint8))
    assert labels.bincount().tolist() == [4] * 10
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([public.NOTMNIST, "notmnist.npz"])
    (tmp_path / "notmnist.npz").unlink()
    (tmp_path / public.NOTMNIST).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cannot be read .*; remove them and use --download"):
        load_dataset("notmnist", data_dir=tmp_path)


def test_an_incomplete_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, root: Path, filename: str) -> None:
        assert url == public.NOTMNIST_URL
        write_archive(root / filename)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(ValueError, match=r"not the 8458043 of notMNIST_small\.tar\.gz; nothing was kept"):
        load_dataset("notmnist", data_dir=tmp_path, download=True)
    assert not list(tmp_path.iterdir())
    write_archive(tmp_path / "whole" / public.NOTMNIST)
    monkeypatch.setattr(public, "NOTMNIST_BYTES", (tmp_path / "whole" / public.NOTMNIST).stat().st_size)
    assert load_dataset("notmnist", data_dir=tmp_path, download=True).num_classes == 10
