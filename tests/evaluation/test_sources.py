from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from snngan.data import Dataset
from snngan.evaluation.sources import open_source


def test_a_data_set_is_read_in_one_random_order_for_all_time(digits: Dataset) -> None:
    source = open_source("digits")
    again = open_source("digits", split="test")
    assert (source.name, source.count, source.shape) == ("digits test", len(digits.test_images), (1, 8, 8))
    assert source.digest == again.digest != open_source("digits", split="train").digest
    images = torch.cat(list(source.chunks(130)))
    assert len(images) == 130
    assert torch.equal(images, again.first(130))
    assert not torch.equal(images, digits.test_images[:130])
    assert source.labels is not None
    assert digits.test_labels is not None
    place = int((digits.test_images == images[0]).flatten(1).all(1).nonzero()[0])
    assert source.labels[0] == digits.test_labels[place]
    assert len(source.first(10**6)) == source.count


def test_an_npz_of_samples_is_taken_whole(tmp_path: Path) -> None:
    images = np.arange(40, dtype=np.uint8).reshape(10, 1, 2, 2)
    np.savez(tmp_path / "some.npz", images=images)
    for text in (f"npz:{tmp_path / 'some.npz'}", str(tmp_path / "some.npz")):
        source = open_source(text)
        assert source.count == 10
        assert sorted(source.first(10)[:, 0, 0, 0].tolist()) == list(range(0, 40, 4))
    np.savez(tmp_path / "halves.npz", train_images=images[:6], test_images=images[6:])
    assert open_source(str(tmp_path / "halves.npz")).count == 4
    assert open_source(str(tmp_path / "halves.npz"), split="train").count == 6


def test_a_folder_is_read_in_colour_and_only_when_asked(pictures: Path) -> None:
    source = open_source(str(pictures))
    assert (source.count, source.shape) == (12, (3, 10, 12))
    images = source.first(12)
    assert images.shape == (12, 3, 10, 12)
    assert int((images[:, 0] == images[:, 2]).flatten(1).all(1).sum()) == 6
    assert source.labels is not None
    assert sorted(source.labels.tolist()) == [0] * 8 + [1] * 4
    assert open_source(f"folder:{pictures}", image_size=8).shape == (3, 8, 8)


def test_pictures_of_two_sizes_want_one_size(pictures: Path) -> None:
    from PIL import Image

    Image.new("RGB", (30, 30)).save(pictures / "True" / "large.png")
    with pytest.raises(
        ValueError, match=r"is 30x30, .* 12x10: give --image-size|is 12x10, .* 30x30: give --image-size"
    ):
        open_source(str(pictures)).first(13)
    assert open_source(str(pictures), image_size=10).first(13).shape == (13, 3, 10, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digist", "unknown dataset 'digist'; did you mean 'digits'"),
        ("some/where", "some/where is no run folder, folder of images or npz file"),
        ("none.npz", "there is no file none.npz"),
        ("folder:nowhere", "nowhere is not there; expected a folder of images"),
    ],
)
def test_what_is_nothing_is_refused(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_source(text)
