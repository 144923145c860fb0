"""Folders of images: class folders, splits, stray files and links; ambiguous folders are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from snngan.data.folder_layout import list_images

from snngan.data import Dataset
from snngan.data.datasets import load_dataset


def save(folder: Path, *names: str) -> None:
    """Save a small image under each name; all are of different colors."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), tuple(name.encode()[-7:-4])).save(folder / name)


def save_many(folder: Path, *places: str, count: int = 3) -> None:
    save(folder, *(f"{place}/{number}.png" for place in places for number in range(count)))


def load(folder: Path, messages: list[str] | None = None) -> Dataset:
    return load_dataset(f"folder:{folder}", notify=([] if messages is None else messages).append)


def labels(dataset: Dataset) -> tuple[list[int] | None, list[int] | None]:
    both = dataset.train_labels, dataset.test_labels
    return tuple(None if split is None else split.tolist() for split in both)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "TEST"), ("training", "testing"), ("train", "val"), ("train", "valid"),
     ("train", "validation")],
)  # fmt: skip
def test_train_and_test_are_the_splits(train: str, test: str, tmp_path: Path) -> None:
    save_many(tmp_path, f"{train}/cat", f"{train}/dog/small", count=4)
    save_many(tmp_path, f"{test}/dog", count=2)
    messages: list[str] = []
    dataset = load(tmp_path, messages)
    assert labels(dataset) == ([0] * 4 + [1] * 4, [1] * 2)
    assert dataset.class_names == ("cat", "dog") and dataset.num_classes == 2
    assert all("image size 8" in line for line in messages)


def test_splits_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    save_many(tmp_path, "train", count=5)
    save_many(tmp_path, "test", count=2)
    dataset = load(tmp_path)
    assert (len(dataset.train_images), len(dataset.test_images)) == (5, 2)
    assert labels(dataset) == (None, None)
    assert not dataset.num_classes and dataset.why_no_labels == ""


def test_the_test_split_alone_may_lack_class_folders(tmp_path: Path) -> None:
    save_many(tmp_path, "train/a", "train/b")
    save(tmp_path, "test/1.png", "test/2.png")
    messages: list[str] = []
    dataset = load(tmp_path, messages)
    assert labels(dataset) == ([0, 0, 0, 1, 1, 1], None)
    assert any(f"{tmp_path / 'test' / '1.png'} and 1 more lie outside the class folders" in line for line in messages)


def test_validation_images_are_not_used_beside_a_test_split(tmp_path: Path) -> None:
    save_many(tmp_path, "train/a", "train/b", "val/a", "test/b")
    messages: list[str] = []
    assert labels(load(tmp_path, messages)) == ([0, 0, 0, 1, 1, 1], [1, 1, 1])
    assert any("val is not used: test is the held-out split" in line for line in messages)


def test_a_tenth_of_train_is_held_out_without_test(tmp_path: Path) -> None:
    save_many(tmp_path, "train/a", "train/b", count=10)
    (tmp_path / "notes.txt").write_text("no image")
    messages: list[str] = []
    dataset = load(tmp_path, messages)
    assert dataset.class_names == ("a", "b") and len(dataset.test_images) == 2
    assert any("has no folder test: a tenth of train is held out" in line for line in messages)


@pytest.mark.parametrize("names", [("train", "bus", "car"), ("test", "control"), ("train", "tram"), ("a", "b")])
def test_classes_may_be_called_train_or_test(names: tuple[str, ...], tmp_path: Path) -> None:
    save_many(tmp_path, *names)
    assert load(tmp_path).class_names == tuple(sorted(names))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("train/a", "train/b", "tets/a", "tets/b"), "called train and test .*, got train and tets; rename tets"),
        (("train", "tets"), "got train and tets; rename tets"),
        (("trian", "test"), "got test and trian; rename trian"),
        (("train/a", "train/b", "holdout/a"), "got train and holdout; rename holdout"),
        (("train", "test", "extra"), "must hold nothing beside train and test, .* got extra; move that away"),
        (("train", "test", "."), "must hold nothing beside train and test, .* got 0.png"),
        (("train/a", "train/b", "test/a", "test/c"), "test must hold classes of .*train only, got c; rename or remove"),
    ],
)
def test_ambiguous_splits_are_refused(places: tuple[str, ...], message: str, tmp_path: Path) -> None:
    save_many(tmp_path, *places)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("full", "empty"), [("train", "test"), ("test", "train"), ("train", "val")])
def test_empty_splits_are_refused(full: str, empty: str, tmp_path: Path) -> None:
    save_many(tmp_path, f"{full}/a", f"{full}/b")
    (tmp_path / empty / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{empty} must hold a split of the data set, got no images; fill or remove"):
        load(tmp_path)


def test_an_image_outside_the_class_folders_is_named(tmp_path: Path) -> None:
    save_many(tmp_path, "a", "b")
    save(tmp_path, "cover.png")
    messages: list[str] = []
    dataset = load(tmp_path, messages)
    assert labels(dataset) == (None, None)
    assert dataset.why_no_labels == f"{tmp_path / 'cover.png'} lies outside the class folders"
    assert (
        sum("cover.png lies outside the class folders, so the images have no labels" in line for line in messages) == 1
    )


def test_a_broken_image_outside_the_class_folders_is_ignored(tmp_path: Path) -> None:
    save_many(tmp_path, "a", "b")
    (tmp_path / "cover.png").write_bytes(b"broken")
    dataset = load_dataset(f"folder:{tmp_path}", skip_broken=True)
    assert dataset.num_classes == 2 and dataset.why_no_labels == ""


def test_circular_links_are_ignored(tmp_path: Path) -> None:
    save(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert [path.name for path in list_images(tmp_path)] == ["1.png", "1.png"]
    assert torch.equal(load(tmp_path).train_images, load(tmp_path).train_images)
