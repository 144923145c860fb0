"""How near samples are to training images: distances against a loop, the metric of copies, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import snngan
from snngan.data import to_unit_range
from snngan.data.datasets import load_dataset
from snngan.evaluation.features import Pixels
from snngan.evaluation.nearest import NUM_NEAREST, find_nearest
from snngan.evaluation.sources import array_source
from snngan.metrics.prdc import recall_by_class


def pictures(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)


def test_nearest_training_images_agree_with_a_loop() -> None:
    """Over chunks of 100, of which the last has fewer images than neighbors."""
    queries, train = pictures(7, 0), array_source("train", pictures(202, 1))
    found = find_nearest(queries, train, Pixels())
    images = train.first(202)
    for row, query in enumerate(queries):
        distances = [float((to_unit_range(query) - to_unit_range(each)).double().norm()) for each in images]
        nearest = sorted(range(202), key=lambda index: distances[index])[:NUM_NEAREST]
        for each in found.values():
            assert each.rows[row].tolist() == nearest
            assert_close(each.distances[row], torch.tensor([distances[index] for index in nearest]).double())


def measure(images: Tensor, **options: Any) -> dict[str, float]:
    return snngan.evaluate(images, "digits", features="pixels", metrics=["copying"], count=170, **options).metrics


def test_copies_are_told_from_new_images() -> None:
    digits = load_dataset("digits")
    copies = measure(digits.train_images[:170])
    assert copies["nearest_input"] == 0 and copies["copies_input"] == 1
    new = measure(digits.test_images)  # the held-out images themselves
    assert new["nearest_input"] == 1 and new["copies_input"] == pytest.approx(0.05, abs=0.01)
    far = measure(255 - digits.test_images.clamp(max=255))
    assert far["nearest_features"] > 2 and far["copies_features"] == 0


def test_the_picture_has_a_row_for_each_sample(tmp_path: Path) -> None:
    digits, path = load_dataset("digits"), tmp_path / "near.png"
    measure(digits.train_images[:170], nearest=path)
    with Image.open(path) as picture:
        columns, rows = 2 * (1 + NUM_NEAREST), 20
        pixels = np.asarray(picture)[:, :, 0]
        factor = picture.size[0] // (8 * columns)
        assert picture.size == (8 * columns * factor, 8 * rows * factor)
    cells = pixels[::factor, ::factor].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    assert (cells[:, 0] == cells[:, 1]).all() and (cells[:, 0] == cells[:, 5]).all()  # a copy of itself is nearest
    assert (cells[10:, 0] == digits.train_images[:10, 0].numpy()).all() or len(cells) == rows
    with pytest.raises(ValueError, match="exists already: give another --nearest, or --force to replace it"):
        measure(digits.train_images[:170], nearest=path)
    measure(digits.train_images[:170], nearest=path, force=True)
    with pytest.raises(ValueError, match=r"--nearest must be a name ending in \.png"):
        measure(digits.train_images[:170], nearest=tmp_path / "near.txt")


def test_without_known_training_images_nothing_is_said_unless_asked() -> None:
    images, other = pictures(40, 0), pictures(40, 1)
    options: dict[str, Any] = {"features": "pixels", "count": 40}
    assert "nearest_input" not in snngan.evaluate(images, other, **options).metrics
    for more in ({"metrics": ["copying"]}, {"nearest": "near.png"}):
        with pytest.raises(ValueError, match="copying is measured for a run, or against the test split of a data set"):
            snngan.evaluate(images, other, **options, **more)
    digits = load_dataset("digits").train_images[:100]
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
