"""Folders of images as data sets: sizes, colors, splits, classes, broken files; ambiguous folders are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.data.folder import SIZES
from snngan.evaluation.sources import open_source
from snngan.models import ARCHITECTURES
from snngan.models.layers import base_and_doublings


def save(path: Path, color: object = (9, 9, 9), *, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)  # type: ignore[arg-type]


def save_many(folder: Path, *places: str, count: int = 3) -> None:
    for place in places:
        for number in range(count):
            save(folder / place / f"{number}.png", size=(8, 8))


def load(folder: Path, image_size: int | None = 8, *, skip: bool = False) -> tuple[Dataset, str]:
    """Return the set and all lines told about it."""
    lines: list[str] = []
    dataset = load_dataset(f"folder:{folder}", image_size=image_size, skip_broken=skip, notify=lines.append)
    return dataset, "\n".join(lines)


def refused(folder: Path, message: str, image_size: int | None = 8, *, skip: bool = False) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, image_size, skip=skip)
    assert "\n" not in str(caught.value)


def colors(dataset: Dataset) -> list[tuple[int, ...]]:
    """Return the middle pixel of every image, in the order of its values."""
    images = torch.cat((dataset.train_images, dataset.test_images))
    middle = images.shape[-1] // 2
    return sorted(tuple(image[:, middle, middle].tolist()) for image in images)


def labels(dataset: Dataset) -> tuple[list[int] | None, list[int] | None]:
    both = dataset.train_labels, dataset.test_labels
    return tuple(None if split is None else split.tolist() for split in both)  # type: ignore[return-value]


def test_any_image_file_at_any_depth_counts(tmp_path: Path) -> None:
    names = ("a.PNG", "b.bmp", "sub/c.Tiff", "sub/deeper/d.gif", "e.webp", "f.ppm")
    for number, name in enumerate(names):
        save(tmp_path / "set" / name, (40 * number, 0, 0))
    for name in ("notes.txt", "._a.png", ".cache/x.png"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_text("hidden, or not an image")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "linked").symlink_to(tmp_path / "set")
    dataset, _ = load(tmp_path / "all")
    assert dataset.image_shape == (3, 8, 8) and dataset.train_images.dtype == torch.uint8
    assert labels(dataset) == (None, None)
    reds = [red for red, _, _ in colors(dataset)]
    assert_close(torch.tensor(reds), torch.arange(6) * 40, rtol=0, atol=8)  # webp is lossy


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(70, 65)], 64), ([(500, 63)], 56), ([(40, 50)], 32), ([(64, 64), (32, 90)], 32), ([(28, 28)], 28),
        ([(27, 99)], 16), ([(15, 15)], 14), ([(8, 9)], 8), ([(5, 6)], 5),
        ([(5, 5), (5, 7), (1, 1)], None), ([(64, 64), (7, 100)], None),
    ],
)  # fmt: skip
def test_the_default_size_is_the_largest_that_all_have(
    sizes: list[tuple[int, int]], expected: int | None, tmp_path: Path
) -> None:
    for number, size in enumerate(sizes * 2):
        save(tmp_path / f"{number}.png", size=size)
    if expected is None:
        refused(tmp_path, r"too small for images of (64x64|5x5); remove it, or --skip-broken", None)
        return
    dataset, told = load(tmp_path, None)
    assert dataset.image_shape == (3, expected, expected)
    assert dataset.digest() == load(tmp_path, None)[0].digest()
    assert (f"image size {expected}, because " in told) == (8 <= expected < 64)


def test_each_folder_is_read_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(6):
            save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    dataset, _ = load(tmp_path)
    assert len(dataset.train_images) + len(dataset.test_images) == 12
    assert dataset.class_names == ("a", "b")


@pytest.mark.parametrize("empty", ["train", "test"])
def test_an_empty_split_is_refused(empty: str, tmp_path: Path) -> None:
    for name in {"train", "test"} - {empty}:
        for label in ("a", "b"):
            save(tmp_path / name / label / "1.png")
    (tmp_path / empty).mkdir()
    refused(tmp_path, f"{empty} must hold a split of the data set, got no images; fill or remove it")


def test_default_sizes_are_those_of_every_architecture() -> None:
    for size in SIZES:
        for name in ARCHITECTURES.names():
            ARCHITECTURES[name]().generator((3, size, size))
    for size in {*range(SIZES[-1], SIZES[0])} - {*SIZES}:
        with pytest.raises(ValueError, match="4 or 7 times a power of 2"):
            base_and_doublings((3, size, size), "dcgan")


def test_both_splits_have_one_size_and_number_of_colors(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "train" / f"{number}.png", 77, mode="L", size=(64, 64))
        save(tmp_path / "test" / f"{number}.png", (1, 2, 3), size=(40, 40))
    dataset, _ = load(tmp_path, None)
    assert dataset.train_images.shape == dataset.test_images.shape == (2, 3, 32, 32)
    assert colors(dataset) == [(1, 2, 3)] * 2 + [(77, 77, 77)] * 2


@pytest.mark.parametrize(("mode", "color", "level"), [("L", 77, 77), ("1", 1, 255), ("I;16", 0x4D80, 77)])
def test_gray_images_stay_gray(mode: str, color: int, level: int, tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"{number}.png", color, mode=mode)
    assert colors(load(tmp_path)[0]) == [(level,)] * 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(48, 64, 16), (33, 20, 7), (20, 33, 20), (8, 8, 8)])
def test_folders_and_arrays_give_the_same_pixels(
    channels: int, height: int, width: int, size: int, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, height, width, channels), dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze(2) if channels == 1 else image).save(tmp_path / "folder" / f"{number:02d}.png")
    np.savez(tmp_path / "set.npz", images=images.transpose(0, 3, 1, 2))
    names = f"folder:{tmp_path / 'folder'}", f"npz:{tmp_path / 'set.npz'}"
    loaded = [load_dataset(name, image_size=size) for name in names]
    assert torch.equal(loaded[0].train_images, loaded[1].train_images)
    assert torch.equal(loaded[0].test_images, loaded[1].test_images)
    sources = [open_source(name, image_size=size) for name in names]
    assert torch.equal(sources[0].first(12), sources[1].first(12))
    for each in (*loaded, *sources):
        assert each.resize == ("none" if height == size == width else f"center crop, Pillow bicubic to {size}x{size}")


def test_resized_images_are_cropped_and_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((4, 64, 80), dtype=np.uint8)
    stripes[:, :, 8:72:2] = 200
    np.savez(tmp_path / "set.npz", images=stripes)
    resized = load_dataset(f"npz:{tmp_path / 'set.npz'}", image_size=8).train_images
    # each pixel averages 8 columns or more; at the edge, the filter reaches beyond the square
    assert (resized.float() - 100).abs().max() <= 15


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "TEST"), ("training", "testing"), ("train", "val")]
)
def test_train_and_test_are_the_splits(train: str, test: str, tmp_path: Path) -> None:
    save_many(tmp_path, f"{train}/cat", f"{train}/dog/small", count=4)
    save_many(tmp_path, f"{test}/dog", count=2)
    dataset, told = load(tmp_path)
    assert labels(dataset) == ([0] * 4 + [1] * 4, [1] * 2)
    assert dataset.class_names == ("cat", "dog") and dataset.num_classes == 2 and not told


@pytest.mark.parametrize(
    ("places", "expected", "message"),
    [
        (("cat", "cat/x", "ant", "dog"), None, ""),
        (("train", "test"), (None, None), ""),
        (("train/a", "train/b", "test"), ([0, 0, 0, 1, 1, 1], None), "0.png and 2 more lie outside the class folders"),
        (("train/a", "train/b", "val/a", "test/b"), ([0, 0, 0, 1, 1, 1], [1, 1, 1]), "val is not used: test is the"),
        (("train/a", "train/b"), None, "has no folder test: a tenth of train is held out"),
        (("train", "bus", "car"), None, ""),
        (("train", "tram"), None, ""),
        (("a", "b", "."), (None, None), "0.png and 2 more lie outside the class folders, so the images have no labels"),
    ],
)
def test_layouts(places: tuple[str, ...], expected: object, message: str, tmp_path: Path) -> None:
    save_many(tmp_path, *places)
    dataset, told = load(tmp_path)
    assert message in told and bool(told) == bool(message)
    assert bool(dataset.why_no_labels) == ("outside" in message)
    if expected is None:
        names = sorted({place.removeprefix("train/").split("/")[0] for place in places})
        assert dataset.class_names == tuple(names) and dataset.train_labels is not None
        assert len(dataset.test_images) == max(1, 3 * len(places) // 10)
        assert set(dataset.train_labels.tolist()) == set(range(len(names)))
    else:
        assert labels(dataset) == expected


def test_classes_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/1.png", "cat/x/2.png", "ant/1.png", "dog/1.png")):
        save(tmp_path / name, (number * 10, 0, 0))
    dataset, _ = load(tmp_path)
    assert dataset.train_labels is not None and dataset.test_labels is not None
    numbers = torch.cat((dataset.train_labels, dataset.test_labels)).tolist()
    reds = torch.cat((dataset.train_images, dataset.test_images))[:, 0, 4, 4].tolist()
    assert sorted(zip(reds, numbers, strict=True)) == [(0, 1), (10, 1), (20, 0), (30, 2)]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("train/a", "train/b", "tets/a", "tets/b"), "called train and test .*, got train and tets; rename tets"),
        (("trian", "test"), "got test and trian; rename trian"),
        (("train/a", "train/b", "holdout/a"), "got train and holdout; rename holdout"),
        (("train", "test", "extra"), "must hold nothing beside train and test, .* got extra; move that away"),
        (("train", "test", "."), "must hold nothing beside train and test, .* got 0.png"),
        (("train/a", "train/b", "test/a", "test/c"), "test must hold classes of .*train only, got c; rename or remove"),
    ],
)
def test_ambiguous_splits_are_refused(places: tuple[str, ...], message: str, tmp_path: Path) -> None:
    save_many(tmp_path, *places)
    refused(tmp_path, message)


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "small", "stray"])
def test_an_unusable_image_is_named_or_left_out(kind: str, tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number % 2}/{number}.png", (number, 0, 0))
    path = tmp_path / ("cover.png" if kind == "stray" else "1/1.png")
    save(path, size=(7, 99))
    if kind != "small":
        path.write_bytes({"empty": b"", "cut": path.read_bytes()[:60]}.get(kind, b"not an image"))
    refused(tmp_path, rf"{path.name} (is 7x99, too small for|cannot be read: ).*--skip-broken")
    dataset, told = load(tmp_path, skip=True)
    kept = [(number, 0, 0) for number in range(4) if kind == "stray" or number != 1]
    assert colors(dataset) == kept and dataset.num_classes == 2
    assert told.count("\n") == 0 and f"left out 1 of {len(kept) + 1} images" in told and str(path) in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_subfolder_is_named(tmp_path: Path) -> None:
    save(tmp_path / "open" / "a.png")
    (tmp_path / "closed").mkdir(mode=0)
    refused(tmp_path, r"the folder .*closed cannot be read \(Permission denied\)")


def test_bad_folders(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "missing is not there; expected a folder of images")
    refused(tmp_path, "holds no images")
    save(tmp_path / "train" / "a.png")
    refused(tmp_path / "train" / "a.png", r"a\.png is a file; expected a folder")
    refused(tmp_path, "train must hold 2 usable images or more, got 1")
    refused(tmp_path, r"a\.png is 16x16, too small for images of 20x20; use --image-size 16 or less", 20)
    refused(tmp_path, "must hold 2 usable images or more, got 0", 20, skip=True)
    save(tmp_path / "train" / "b.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.png").write_text("not an image")
    refused(tmp_path, "test must hold 1 usable images or more, got 0", skip=True)
