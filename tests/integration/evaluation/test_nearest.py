"""How near samples are to training images: the metric of copies, and the picture; the recall of each class."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import snngan
from snngan.data import to_unit_range
from snngan.data.datasets import load_dataset
from snngan.evaluation.nearest import NUM_NEAREST
from snngan.metrics.prdc import recall_by_class


def pictures(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)


def measure(images: Tensor, **options: Any) -> dict[str, float]:
    return snngan.evaluate(images, "digits", features="pixels", metrics=["copying"], count=170, **options).metrics


def test_copies_are_told_from_new_images() -> None:
    digits = load_dataset("digits")
    copies = measure(digits.train_images[:170])
    assert copies["nearest_input"] < 1e-6 and copies["copies_input"] == 1
    new = measure(digits.test_images)  # the held-out images themselves
    assert new["nearest_input"] == 1 and new["copies_input"] == pytest.approx(0.05, abs=0.01)
    far = measure(255 - digits.test_images.clamp(max=255))
    assert far["nearest_features"] > 2 and far["copies_features"] == 0


def test_the_picture_has_a_row_for_each_sample(tmp_path: Path) -> None:
    """Of 30 samples the last two are copies; the features are the upper halves of images."""
    digits, path = load_dataset("digits"), tmp_path / "near.png"
    train, copies = digits.train_images, digits.train_images[[5, 3]]
    samples = torch.cat([digits.test_images[:28], copies])
    sys.modules["halves"] = ModuleType("halves")
    sys.modules["halves"].features = lambda images: images[:, :, :4].flatten(1)  # type: ignore[attr-defined]
    options: dict[str, Any] = {"features": "halves:features", "metrics": ["fid"], "nearest": path}
    try:
        assert set(snngan.evaluate(samples, "digits", **options).metrics) == {"fid"}
    finally:
        del sys.modules["halves"]
    with Image.open(path) as picture:
        columns, rows = 2 * (1 + NUM_NEAREST), 20
        factor = picture.size[0] // (8 * columns)
        assert picture.size == (8 * columns * factor, 8 * rows * factor)
        pixels = torch.from_numpy(np.asarray(picture)[::factor, ::factor, 0].copy())
    cells = pixels.view(rows, 8, columns, 8).transpose(1, 2)
    assert sorted(cells[:2, 0].flatten(1).tolist()) == sorted(copies.flatten(1).tolist())
    assert (cells[:2, 0] == cells[:2, 5]).all()  # its nearest in pixels
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))  # in which tensors are read
    samples = samples[order]
    assert (cells[10:, 0] == samples[:10, 0]).all()
    for images, first in ((samples[:, :, :4], 1), (samples, 5)):
        height = images.shape[2]
        distances = torch.cdist(to_unit_range(images[:1]).flatten(1), to_unit_range(train[:, :, :height]).flatten(1))
        assert (cells[10, first : first + NUM_NEAREST] == train[distances[0].argsort()[:NUM_NEAREST], 0]).all()


def test_a_picture_is_not_replaced(tmp_path: Path) -> None:
    images, path = load_dataset("digits").train_images[:170], tmp_path / "near.png"
    measure(images, nearest=path)
    with pytest.raises(ValueError, match="exists already: give another --nearest, or --force to replace it"):
        measure(images, nearest=path)
    measure(images, nearest=path, force=True)
    with pytest.raises(ValueError, match=r"--nearest must be a name ending in \.png"):
        measure(images, nearest=tmp_path / "near.txt")


def test_without_known_training_images_nothing_is_said_unless_asked() -> None:
    images, other = pictures(40, 0), pictures(40, 1)
    options: dict[str, Any] = {"features": "pixels", "count": 40}
    assert "nearest_input" not in snngan.evaluate(images, other, **options).metrics
    for more in ({"metrics": ["copying"]}, {"nearest": "near.png"}):
        with pytest.raises(ValueError, match=r"copying needs the training images, .*; got tensor as the reference"):
            snngan.evaluate(images, other, **options, **more)
    digits = load_dataset("digits").train_images[:100]
    with pytest.raises(ValueError, match="; got digits train as the reference"):
        snngan.evaluate(digits, "digits", split="train", nearest="near.png", **options)
    assert "copies_input" not in snngan.evaluate(digits, "digits", split="train", **options).metrics


def test_recall_of_each_class() -> None:
    real, fake = pictures(60, 0).flatten(1).float(), pictures(40, 1).flatten(1).float()
    labels = torch.arange(60) % 3
    real[labels == 2] += 1000  # a class that is missed
    reach = torch.cdist(fake, fake).fill_diagonal_(torch.inf).kthvalue(5, 1).values
    recalled = (torch.cdist(real, fake) <= reach).any(1)
    found = recall_by_class(real, fake, labels)
    assert found == {each: pytest.approx(float(recalled[labels == each].float().mean())) for each in range(3)}
    assert found[2] == 0 < found[0]


def test_recall_by_class_is_printed_and_saved_lowest_first() -> None:
    digits = load_dataset("digits")
    sixes = digits.train_images[torch.as_tensor(digits.train_labels) == 6][:100]
    found = snngan.evaluate(sixes, "digits", features="pixels", metrics=["prdc"])
    assert list(found.recall_by_class.values()) == sorted(found.recall_by_class.values())
    assert list(found.recall_by_class)[-1] == "6"
    assert "  recall by class, lowest first: " in "\n".join(found.lines())
    assert '"recall_by_class": {"' in found.to_json()
    assert not snngan.evaluate(sixes, sixes.clone(), features="pixels", metrics=["prdc"]).recall_by_class
