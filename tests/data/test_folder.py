"""Folders of images as data sets: sizes, colors, labels, broken files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.data.folder import SIZES
from snngan.models import ARCHITECTURES
from snngan.models.layers import base_and_doublings


def save(path: Path, color: object, *, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)  # type: ignore[arg-type]


def load(folder: Path, image_size: int | None = 8, *, skip: bool = False, messages: list[str] | None = None) -> Dataset:
    notify = ([] if messages is None else messages).append
    return load_dataset(f"folder:{folder}", image_size=image_size, skip_broken=skip, notify=notify)


def colors(dataset: Dataset) -> list[tuple[int, ...]]:
    """Return the middle pixel of every image, in the order of its values."""
    images = torch.cat((dataset.train_images, dataset.test_images))
    middle = images.shape[-1] // 2
    return sorted(tuple(image[:, middle, middle].tolist()) for image in images)


def test_any_image_file_at_any_depth_counts(tmp_path: Path) -> None:
    names = ("a.PNG", "b.bmp", "sub/c.Tiff", "sub/deeper/d.gif", "e.webp", "f.ppm")
    for number, name in enumerate(names):
        save(tmp_path / name, (40 * number, 0, 0))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_text("a hidden file of macOS")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_text("hidden")
    dataset = load(tmp_path)
    assert dataset.image_shape == (3, 8, 8) and dataset.train_images.dtype == torch.uint8
    assert dataset.train_labels is None and dataset.test_labels is None
    reds = [red for red, _, _ in colors(dataset)]
    assert_close(torch.tensor(reds), torch.arange(6) * 40, rtol=0, atol=8)  # webp is lossy


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(70, 65)], 64), ([(64, 64)], 64), ([(500, 63)], 56), ([(40, 50)], 32), ([(32, 32)], 32),
        ([(64, 64), (32, 90)], 32), ([(28, 28)], 28), ([(27, 99)], 16), ([(15, 15)], 14), ([(8, 9)], 8),
        ([(64, 64), (16, 16)], 16),
        ([(5, 6)], 5), ([(5, 5), (5, 7), (1, 1)], None), ([(64, 64), (1, 1)], None), ([(64, 64), (7, 100)], None),
    ],
)  # fmt: skip
def test_the_default_size_is_the_largest_that_all_have(
    sizes: list[tuple[int, int]], expected: int | None, tmp_path: Path
) -> None:
    for number, size in enumerate(sizes * 2):
        save(tmp_path / f"{number}.png", (9, 9, 9), size=size)
    if expected is None:
        with pytest.raises(ValueError, match=r"too small for images of (64x64|5x5); remove it, or use --skip-broken"):
            load(tmp_path, None)
        return
    messages: list[str] = []
    first, second = load(tmp_path, None, messages=messages), load(tmp_path, None)
    assert first.image_shape == (3, expected, expected)
    assert first.digest() == second.digest()
    assert (f"image size {expected}, because " in " ".join(messages)) == (8 <= expected < 64)


def test_default_sizes_are_those_of_every_architecture() -> None:
    for size in SIZES:
        for name in ARCHITECTURES.names():
            ARCHITECTURES[name]().generator((3, size, size))
    for size in {*range(SIZES[-1], SIZES[0])} - {*SIZES}:
        with pytest.raises(ValueError, match="4 or 7 times a power of 2"):
            base_and_doublings((3, size, size), "dcgan")


def test_the_default_size_is_that_of_both_splits(tmp_path: Path) -> None:
    for split, side in (("train", 64), ("test", 40)):
        for number in range(2):
            save(tmp_path / split / f"{number}.png", (9, 9, 9), size=(side, side))
    dataset = load(tmp_path, None)
    assert dataset.train_images.shape[2:] == dataset.test_images.shape[2:] == (32, 32)


def test_a_colored_test_split_makes_both_rgb(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "train" / f"{number}.png", 77, mode="L")
        save(tmp_path / "test" / f"{number}.png", (1, 2, 3))
    dataset = load(tmp_path)
    assert dataset.train_images.shape == dataset.test_images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("image_size", [None, 32, 64])
@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_tiny_images_are_left_out_and_named(image_size: int | None, mode: str, tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", (number, 0, 0), size=(64, 64))
    save(tmp_path / "pixel.gif", 0, mode=mode, size=(1, 1))
    save(tmp_path / "thin.png", (9, 9, 9), size=(300, 2))
    with pytest.raises(
        ValueError, match=r"pixel\.gif is 1x1, too small for images of .*remove it, or use --skip-broken"
    ):
        load(tmp_path, image_size)
    messages: list[str] = []
    dataset = load(tmp_path, image_size, skip=True, messages=messages)
    assert colors(dataset) == [(number, 0, 0) for number in range(4)]
    assert dataset.image_shape == (3, image_size or 64, image_size or 64)
    assert (
        len(messages) == 1
        and "left out 2 of 6 images" in messages[0]
        and "pixel.gif (1x1, too small for" in messages[0]
    )


@pytest.mark.parametrize(("mode", "color", "level"), [("L", 77, 77), ("1", 1, 255), ("I;16", 0x4D80, 77)])
def test_gray_images_stay_gray(mode: str, color: int, level: int, tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"{number}.png", color, mode=mode)
    dataset = load(tmp_path)
    assert dataset.image_shape == (1, 8, 8)
    assert colors(dataset) == [(level,)] * 2


def test_one_colored_image_makes_all_rgb(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 77, mode="L")
    save(tmp_path / "b.png", (10, 20, 30))
    assert colors(load(tmp_path)) == [(10, 20, 30), (77, 77, 77)]


def test_photographs_are_turned_as_their_exif_data_say(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", exif=exif)
    image = load(tmp_path).train_images[0]
    assert image[0, 0, 0] < 15 and image[0, -1, 0] > 240


def test_subfolders_are_labels_in_alphabetical_order(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/1.png", "cat/x/2.png", "ant/1.png", "dog/1.png")):
        save(tmp_path / name, (number * 10, 0, 0))
    dataset = load(tmp_path)
    assert dataset.train_labels is not None and dataset.test_labels is not None
    labels = torch.cat((dataset.train_labels, dataset.test_labels)).tolist()
    reds = torch.cat((dataset.train_images, dataset.test_images))[:, 0, 4, 4].tolist()
    assert sorted(zip(reds, labels, strict=True)) == [(0, 1), (10, 1), (20, 0), (30, 2)]


@pytest.mark.parametrize("names", [("one/1.png", "one/2.png"), ("a/1.png", "b/2.png", "3.png"), ("1.png", "2.png")])
def test_no_labels_without_two_subfolders_that_hold_all(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        save(tmp_path / name, (0, 0, 0))
    assert load(tmp_path).train_labels is None


def test_each_linked_folder_is_read_once(tmp_path: Path) -> None:
    save(tmp_path / "real" / "a.png", (1, 0, 0))
    save(tmp_path / "real" / "b.png", (2, 0, 0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "set")
    assert colors(load(tmp_path / "set")) == [(1, 0, 0), (2, 0, 0)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_subfolder_is_named(tmp_path: Path) -> None:
    save(tmp_path / "open" / "a.png", (1, 0, 0))
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(ValueError, match=r"the folder .*closed cannot be read \(Permission denied\)"):
        load(tmp_path)


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _broken(kind: str, path: Path) -> None:
    save(path, (1, 2, 3), size=(64, 64))
    content = path.read_bytes()
    bomb_side = int(Image.MAX_IMAGE_PIXELS or 0) ** 0.5
    path.write_bytes(
        {
            "empty": b"",
            "text": b"not an image",
            "cut": content[: len(content) // 2],
            "bomb-warning": _png_that_claims(int(bomb_side * 1.2), int(bomb_side * 1.2)),
            "bomb-error": _png_that_claims(60000, 60000),
        }[kind]
    )


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "bomb-warning", "bomb-error"])
def test_a_broken_image_is_named_or_left_out(kind: str, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", (number, 0, 0))
    _broken(kind, tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png cannot be read: .*--skip-broken") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    messages: list[str] = []
    assert colors(load(tmp_path, skip=True, messages=messages)) == [(0, 0, 0), (2, 0, 0)]
    assert len(messages) == 1 and "left out 1 of 3 images" in messages[0] and str(tmp_path / "1.png") in messages[0]
    if kind.startswith("bomb"):
        assert "decompression bomb" in messages[0]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing is not there; expected a folder of images"):
        load(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no images"):
        load(tmp_path)
    save(tmp_path / "a.png", (0, 0, 0))
    with pytest.raises(ValueError, match=r"a\.png is a file; expected a folder"):
        load(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds 1 usable image; expected 2 or more"):
        load(tmp_path)
    with pytest.raises(
        ValueError, match=r"a\.png is 16x16, too small for images of 20x20; use --image-size 16 or less"
    ):
        load(tmp_path, 20)
    with pytest.raises(ValueError, match="holds 0 usable images; expected 2 or more"):
        load(tmp_path, 20, skip=True)
    _broken("text", tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds 0 usable images; expected 2 or more"):
        load(tmp_path, skip=True)
    save(tmp_path / "train" / "b.png", (0, 0, 0))
    save(tmp_path / "train" / "c.png", (0, 0, 0))
    (tmp_path / "test").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "test" / "a.png")
    with pytest.raises(ValueError, match="test holds 0 usable images; expected 1 or more"):
        load(tmp_path, skip=True)
