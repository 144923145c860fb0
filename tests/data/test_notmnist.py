"""notMNIST: a small archive of the same layout, broken files in it, and downloads."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snngan.data import notmnist
from snngan.data.datasets import list_datasets, load_dataset


def png(letter: int, number: int, side: int = 28) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((side, side), 20 * letter + number, np.uint8)).save(content, "png")
    return content.getvalue()


def write_archive(path: Path) -> None:
    """Write 4 images per letter, an empty file, one that is not an image, one too large, a link and other names."""
    files = {f"notMNIST_small/{letter}/{number}.png": png(place, number)
             for place, letter in enumerate(notmnist.LETTERS) for number in range(4)}  # fmt: skip
    files |= {"notMNIST_small/A/empty.png": b"", "notMNIST_small/B/broken.png": b"not an image",
              "notMNIST_small/C/large.png": png(2, 9, 40), "notMNIST_small/Z/0.png": png(1, 1),
              "../../A/outside.txt": b"x"}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("notMNIST_small/A/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


def where(data_dir: Path) -> str:
    return next(row.where for row in list_datasets(data_dir) if row.name == "notmnist")


def test_the_archive_is_read_and_kept_as_npz(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert where(data_dir) == "not here: --download"
    write_archive(data_dir / notmnist.ARCHIVE)
    assert where(data_dir) == str(data_dir / notmnist.ARCHIVE)
    dataset = load_dataset("notmnist", data_dir=data_dir)
    images = torch.cat([dataset.train_images, dataset.test_images])
    assert dataset.train_labels is not None and dataset.test_labels is not None
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    assert images.shape == (40, 1, 28, 28)
    assert torch.equal(images[:, 0, 5, 5] // 20, labels.to(torch.uint8))
    assert labels.bincount().tolist() == [4] * 10
    assert sorted(path.name for path in data_dir.iterdir()) == sorted([notmnist.ARCHIVE, "notmnist.npz"])
    assert list(tmp_path.iterdir()) == [data_dir]
    (data_dir / notmnist.ARCHIVE).unlink()
    assert torch.equal(load_dataset("notmnist", data_dir=data_dir).test_images, dataset.test_images)


def test_an_incomplete_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"notmnist is not here: no .*notmnist\.npz and no .*; use --download"):
        load_dataset("notmnist", data_dir=tmp_path)
    asked = []
    write_archive(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()

    def fetch(url: str, root: Path, filename: str) -> None:
        asked.append(url)
        root.mkdir(exist_ok=True)
        (root / filename).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(ValueError, match=r"not the 8458043 of notMNIST_small\.tar\.gz; nothing was kept"):
        load_dataset("notmnist", data_dir=tmp_path, download=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(notmnist, "SIZE", len(content))
    assert load_dataset("notmnist", data_dir=tmp_path, download=True).num_classes == 10
    assert asked == [notmnist.URL] * 2

    def fail(url: str, root: Path, filename: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(ValueError, match=r"notmnist could not be downloaded into .* \(no route\)"):
        load_dataset("notmnist", data_dir=tmp_path / "new", download=True)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / notmnist.ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cannot be read .*; remove it and use --download"):
        load_dataset("notmnist", data_dir=tmp_path)
    whole = tmp_path / "whole" / notmnist.ARCHIVE
    write_archive(whole)
    whole.write_bytes(whole.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        load_dataset("notmnist", data_dir=whole.parent)
    for size in (1 << 63, -512):  # more than a file position can hold; an endless loop
        entry = tarfile.TarInfo("notMNIST_small/A/0.png")
        entry.size = size
        whole.write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
        with pytest.raises(ValueError, match="cannot be read"):
            load_dataset("notmnist", data_dir=whole.parent)
