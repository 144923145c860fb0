"""Public data sets: small files of each real format, read as torchvision reads them, and downloads."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io  # type: ignore[import-untyped]
import torch
import torchvision.datasets  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch.testing import assert_close

from snngan.data import DATASETS, public
from snngan.data.datasets import list_datasets, load_dataset
from snngan.data.public import PublicSource

NAMES = [name for name in DATASETS.names() if isinstance(DATASETS[name], PublicSource)]
IDX_NAMES = [name for name in NAMES if all("idx" in file for file in getattr(DATASETS[name], "files"))]  # noqa: B009
COUNTS = (12, 5)


def source_of(name: str) -> PublicSource:
    source = DATASETS[name]
    assert isinstance(source, PublicSource)
    return source


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


@pytest.mark.parametrize("name", NAMES)
def test_files_are_read_as_torchvision_reads_them(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    write_layout(tmp_path, source)
    assert "(torchvision layout)" in {row.name: row.where for row in list_datasets(tmp_path)}[name]
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


@pytest.mark.parametrize("name", NAMES)
def test_sets_are_kept_as_npz(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    write_layout(tmp_path, source)
    messages: list[str] = []
    first = load_dataset(name, data_dir=tmp_path, notify=messages.append)
    assert messages == [f"kept {name} as {tmp_path / name}.npz for the next time"]
    for file in source.files:
        (tmp_path / source.folder / file).unlink()
    second = load_dataset(name, data_dir=tmp_path, notify=messages.append)
    assert len(messages) == 1
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert_close(getattr(first, field), getattr(second, field))


@pytest.mark.parametrize("name", [name for name in NAMES if source_of(name).debian_package])
def test_compressed_files_of_a_debian_package_are_found(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    write_idx(tmp_path / "debian" / name, source, packed=True)
    assert "(Debian package)" in {row.name: row.where for row in list_datasets(tmp_path / "data")}[name]
    packaged = load_dataset(name, data_dir=tmp_path / "data")
    write_layout(tmp_path, source)
    assert_close(packaged.train_images, load_dataset(name, data_dir=tmp_path).train_images)


def test_a_missing_set_names_every_searched_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use --download, or apt install dataset-fashion-mnist") as caught:
        load_dataset("fashion-mnist", data_dir=tmp_path)
    for place in (tmp_path / "fashion-mnist.npz", tmp_path / "FashionMNIST" / "raw", tmp_path / "debian"):
        assert str(place) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_files_are_refused(name: str, damage: str, tmp_path: Path) -> None:
    source = source_of(name)
    write_layout(tmp_path, source)
    path = tmp_path / source.folder / source.files[0]
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"<html>not found</html>"}[damage])
    with pytest.raises(ValueError, match=f"the files of {name} in .* cannot be read .*--download") as caught:
        load_dataset(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / f"{name}.npz").exists()
    if name in IDX_NAMES:
        assert "is not a complete idx file of bytes" in str(caught.value)


@pytest.mark.parametrize("name", IDX_NAMES)
def test_images_and_labels_of_different_length_are_refused(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    write_layout(tmp_path, source)
    folder = tmp_path / source.folder
    (folder / source.files[1]).write_bytes(idx(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"images of shape \(12, 28, 28\) with labels of shape \(3,\)"):
        load_dataset(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_both_splits_are_downloaded_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(name)
    real = getattr(torchvision.datasets, source.torchvision_name)
    fetched: list[dict[str, object]] = []

    def fake(root: Path, *, download: bool, **options: object) -> object:
        if download:
            fetched.append(options)
            if len(fetched) == 1:
                write_layout(Path(root), source)
        return real(root, download=False, **options)

    monkeypatch.setattr(torchvision.datasets, source.torchvision_name, fake)
    for _ in range(2):
        load_dataset(name, data_dir=tmp_path, download=True)
    assert fetched == list(source.options)
    assert os.path.exists(tmp_path / f"{name}.npz")


def test_a_failed_download_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images:\nTried this mirror, got:\n") from URLError("no route")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(ValueError, match=r"mnist could not be downloaded .*Tried this mirror.*mnist\.npz") as caught:
        load_dataset("mnist", data_dir=tmp_path, download=True)
    assert "\n" not in str(caught.value)


def test_a_kept_set_is_loaded_without_torchvision(tmp_path: Path) -> None:
    import subprocess
    import sys

    images, labels = np.zeros((4, 1, 28, 28), np.uint8), np.arange(4)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "mnist.npz", **arrays)  # type: ignore[arg-type]
    program = (
        "import sys; from snngan.data.datasets import load_dataset, list_datasets\n"
        f"load_dataset('mnist', data_dir={str(tmp_path)!r}); list_datasets()\n"
        "print([name for name in ('torchvision', 'mlxtend', 'sklearn', 'scipy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
