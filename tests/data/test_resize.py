"""Images are resized to equal pixels, whatever they are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snngan.data.datasets import load_dataset
from snngan.data.image_files import describe_resize, resize_images
from snngan.evaluation.sources import open_source


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(64, 64, 16), (64, 64, 63), (48, 64, 16), (64, 48, 16), (33, 20, 7), (20, 33, 20), (9, 16, 8)],
)
def test_folders_and_arrays_give_the_same_pixels(
    channels: int, height: int, width: int, size: int, tmp_path: Path
) -> None:
    shape = (12, height, width, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
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
        assert each.resize == f"center crop, Pillow bicubic to {size}x{size}"


def test_images_of_the_requested_size_are_unchanged(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "folder" / f"{number:02d}.png")
    np.savez(tmp_path / "set.npz", images=images)
    for name in (f"folder:{tmp_path / 'folder'}", f"npz:{tmp_path / 'set.npz'}"):
        dataset = load_dataset(name, image_size=8)
        together = torch.cat((dataset.train_images, dataset.test_images))
        assert torch.equal(together.sort(0).values, torch.from_numpy(images).sort(0).values)
        assert dataset.resize == open_source(name, image_size=8).resize == open_source(name).resize == "none"


def test_data_sets_record_how_they_were_resized() -> None:
    assert load_dataset("digits").resize == open_source("digits").resize == "none"
    assert load_dataset("digits", image_size=4).resize == describe_resize(4)
    assert open_source("digits", image_size=4).resize == "center crop, Pillow bicubic to 4x4"


def test_resized_images_are_antialiased() -> None:
    stripes = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    stripes[:, :, :, ::2] = 200
    # each pixel averages 8 columns or more, except at the edge, where the filter is cut off
    assert (resize_images(stripes, 8).float() - 100).abs().max() <= 5


def test_memory_layout_does_not_matter() -> None:
    images = torch.randint(0, 256, (3, 20, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    channels_first = images.permute(0, 3, 1, 2)
    assert torch.equal(resize_images(channels_first, 8), resize_images(channels_first.contiguous(), 8))
    gray = images.permute(0, 3, 1, 2)[:, :1]
    assert torch.equal(resize_images(gray, 8), resize_images(gray.contiguous(), 8))
