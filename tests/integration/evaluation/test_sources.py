"""Images from data sets, npz files and folders, in one random order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snngan.data import Dataset
from snngan.evaluation.sources import open_source


def test_data_sets_are_read_in_one_random_order(digits: Dataset) -> None:
    source, again = open_source("digits"), open_source("digits", split="test")
    assert (source.name, source.count, source.shape) == ("digits test", len(digits.test_images), (1, 8, 8))
    assert source.digest == again.digest != open_source("digits", split="train").digest
    images = torch.cat(list(source.chunks(130)))
    assert torch.equal(images, again.first(130))
    assert not torch.equal(images, digits.test_images[:130])
    assert source.labels is not None and digits.test_labels is not None
    row = int((digits.test_images == images[0]).flatten(1).all(1).nonzero()[0])
    assert source.labels[0] == digits.test_labels[row]
    assert len(source.first(10**6)) == source.count


def test_npz_files_with_and_without_halves(tmp_path: Path) -> None:
    images = np.arange(40, dtype=np.uint8).reshape(10, 1, 2, 2)
    np.savez(tmp_path / "some.npz", images=images)
    for text in (f"npz:{tmp_path / 'some.npz'}", str(tmp_path / "some.npz")):
        source = open_source(text)
        assert source.count == 10
        assert sorted(source.first(10)[:, 0, 0, 0].tolist()) == list(range(0, 40, 4))
    np.savez(tmp_path / "halves.npz", train_images=images[:6], test_images=images[6:])
    assert open_source(str(tmp_path / "halves.npz")).count == 4
    assert open_source(str(tmp_path / "halves.npz"), split="train").count == 6


def test_folders_of_gray_and_color_images(pictures: Path) -> None:
    source = open_source(str(pictures))
    assert (source.count, source.shape) == (12, (3, 10, 12))
    images = source.first(12)
    assert images.shape == (12, 3, 10, 12)
    assert int((images[:, 0] == images[:, 2]).flatten(1).all(1).sum()) == 6
    assert source.labels is not None
    assert sorted(source.labels.tolist()) == [0] * 8 + [1] * 4
    assert open_source(f"folder:{pictures}", image_size=8).shape == (3, 8, 8)


def test_images_of_two_sizes_need_image_size(pictures: Path) -> None:
    Image.new("RGB", (30, 30)).save(pictures / "True" / "large.png")
    with pytest.raises(ValueError, match=r"is (30x30|12x10), .* (30x30|12x10): give --image-size"):
        open_source(str(pictures)).first(13)
    assert open_source(str(pictures), image_size=10).first(13).shape == (13, 3, 10, 10)


def test_halves_of_a_folder(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pictures.rename(tmp_path / "set" / "train")
    for number in range(2):
        place = tmp_path / "set" / "test" / "True" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number, 0, 0)).save(place)
    train, test = (open_source(f"folder:{tmp_path / 'set'}", split=split) for split in ("train", "test"))
    assert (train.count, train.split, test.count, test.split) == (12, "train", 2, "test")
    assert sorted(test.first(2)[:, 0, 0, 0].tolist()) == [0, 1]
    assert train.labels is not None and sorted(train.labels.tolist()) == [0] * 8 + [1] * 4
    assert test.labels is not None and test.labels.tolist() == [1, 1]
    assert train.digest != test.digest


def test_skip_broken(pictures: Path) -> None:
    expected = open_source(str(pictures), image_size=8)
    Image.new("P", (1, 1)).save(pictures / "True" / "icon.gif")
    (pictures / "False" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    whole = (pictures / "False" / "01.png").read_bytes()
    (pictures / "zz").mkdir()
    (pictures / "zz" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"00\.png cannot be read|icon\.gif is 1x1|cut\.png cannot be read"):
        open_source(str(pictures), image_size=8).first(20)
    told: list[str] = []
    source = open_source(str(pictures), image_size=8, skip_broken=True, notify=told.append)
    assert source.digest == expected.digest and source.count == 12
    assert torch.equal(source.first(12), expected.first(12))
    assert source.labels is not None and expected.labels is not None
    assert torch.equal(source.labels, expected.labels)
    assert len(told) == 1 and "left out 3 of 15 images that cannot be used, the first" in told[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digist", "unknown dataset 'digist'; did you mean 'digits'"),
        ("some/where", "some/where is not a run folder, folder of images or npz file"),
        ("none.npz", "cannot find the file none.npz"),
        ("folder:nowhere", "nowhere is not there; expected a folder of images"),
        ("folder:", "folder: needs a path after the colon: folder:PATH"),
    ],
)
def test_unknown_sources(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_source(text)
