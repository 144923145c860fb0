"""The numbers of the experiments on attacks and outliers, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snngan.data import Dataset
from snngan.experiments import Setting
from snngan.experiments.adversarial_training import layer_values
from snngan.experiments.dknn_calibration import correlation, gap
from snngan.experiments.outliers import area, outlier_images
from snngan.experiments.transferability import by_sides, directions, rate
from snngan.losses.snnl import soft_nearest_neighbor_loss

CPU = torch.device("cpu")


def test_correlation_and_gap() -> None:
    assert correlation([0.1, 0.4, 0.9], [0.2, 0.8, 1.8]) == pytest.approx(1)
    assert correlation([0.1, 0.4, 0.9], [0.9, 0.4, 0.1]) == pytest.approx(-0.95918, abs=1e-4)
    assert correlation([0.1, 0.4], [0.5, 0.5]) is None
    assert gap([0.1, 0.5], [0.4, 0.4]) == pytest.approx(0.2)


def test_an_area_is_the_share_of_pairs_in_order() -> None:
    known, strange = torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0.1, 0.5])
    pairs = [1.0 if own > other else 0.5 if own == other else 0.0 for own in known for other in strange]
    assert area(known, strange) == pytest.approx(sum(pairs) / 6)


def test_outliers_are_read_without_a_training_half_and_shrunk(tmp_path: Path) -> None:
    images = np.arange(4 * 16 * 16, dtype=np.uint64).astype(np.uint8).reshape(4, 1, 16, 16)
    none = np.zeros((0, 1, 16, 16), np.uint8)
    np.savez(tmp_path / "letters.npz", train_images=none, train_labels=np.zeros(0, np.int64), test_images=images,
             test_labels=np.zeros(4, np.int64))  # fmt: skip
    blank = [torch.zeros(2, channels, 8, 8, dtype=torch.uint8) for channels in (1, 3)]
    grey, coloured = (Dataset("own", half, None, half, None) for half in blank)
    setting = Setting(tmp_path, str(tmp_path), CPU, pytest.fail)
    assert outlier_images("letters", grey, setting).shape == (4, 1, 8, 8)
    with pytest.raises(ValueError, match="letters has images 1x8x8; those of own are 3x8x8"):
        outlier_images("letters", coloured, setting)


def test_transfer_counts_what_could_have_been_fooled() -> None:
    fooled = torch.tensor([True, True, False, False])
    assert rate(fooled, torch.tensor([True, False, True, True])) == pytest.approx(1 / 3)
    assert rate(fooled, torch.zeros(4, dtype=torch.bool)) == 0
    values = {
        (("a", 0), ("b", 1)): 0.2,
        (("a", 0), ("b", 2)): 0.4,
        (("a", 1), ("b", 0)): 0.5,
        (("b", 0), ("a", 1)): 0.9,
    }
    found = by_sides(values)
    assert found["a to b"]["values"] == pytest.approx([0.3, 0.5])
    assert found["b to a"]["values"] == [0.9]


def test_directions_are_gradients_of_length_1() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(5, 1, 2, 2)
    found = directions(model, images, 2, CPU)
    chances = model(images).softmax(1).detach()
    by_hand = (chances - nn.functional.one_hot(torch.full((5,), 2), 3)) @ model[1].weight.detach()
    torch.testing.assert_close(found, by_hand / by_hand.norm(dim=1, keepdim=True))
    assert all(weight.grad is None for weight in model.parameters())


def test_layers_are_measured_in_batches_of_128() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    images, labels = torch.rand(256, 1, 4, 4) * 2 - 1, torch.arange(256) % 3
    found = layer_values(model, ("2",), images, labels, CPU)
    hidden = model[2](model[1](images.flatten(1)))
    for name, points in (("2", hidden), ("logits", model[3](hidden))):
        for title, temperature in (("T = 100", 100.0), ("optimal T", "optimal")):
            halves = [soft_nearest_neighbor_loss(points[part], labels[part], temperature)
                      for part in (slice(0, 128), slice(128, 256))]  # fmt: skip
            assert found[title][name] == pytest.approx(float(sum(halves).detach()) / 2, rel=1e-5)
