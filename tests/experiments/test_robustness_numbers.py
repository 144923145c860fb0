"""The numbers of the experiments on attacks and outliers, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snngan.data import Dataset
from snngan.experiments import Setting
from snngan.experiments.adversarial_training import batches_of, layer_values, those_that_learned
from snngan.experiments.dknn_calibration import beside, correlation, gap
from snngan.experiments.outliers import area, outlier_images
from snngan.experiments.transferability import by_sides, directions, rate
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.stats import summarize

CPU = torch.device("cpu")


def test_correlation_and_gap() -> None:
    def points(accuracy: list[float], credibility: list[float]) -> dict[str, list[float]]:
        return {"dknn_accuracy": accuracy, "credibility": credibility}

    assert correlation(points([0.1, 0.4, 0.9], [0.2, 0.8, 1.8])) == pytest.approx(1)
    assert correlation(points([0.1, 0.4, 0.9], [0.9, 0.4, 0.1])) == pytest.approx(-0.95918, abs=1e-4)
    assert correlation(points([0.1, 0.4], [0.5, 0.5])) is None
    assert gap(points([0.1, 0.5], [0.4, 0.4])) == pytest.approx(0.2)
    baseline, other = [points([0.1, 0.5], [0.4, 0.4])] * 2, [points([0.1, 0.5], [0.1, 0.4]), points([0.1], [0.2])]
    found = beside(baseline, other, gap)
    assert found is not None
    assert found["values"] == pytest.approx([0.05, 0.1])
    assert found["difference"]["values"] == pytest.approx([-0.15, -0.1])
    assert beside(baseline, [points([0.1, 0.4], [0.5, 0.5])], correlation) is None


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
    gray, colored = (Dataset("own", half, None, half, None) for half in blank)
    setting = Setting(tmp_path, str(tmp_path), CPU, pytest.fail)
    assert outlier_images("letters", gray, 9, setting).shape == (4, 1, 8, 8)
    with pytest.raises(ValueError, match="letters has images 1x8x8; those of own are 3x8x8"):
        outlier_images("letters", colored, 9, setting)


def test_transfer_counts_what_could_have_been_fooled() -> None:
    fooled = torch.tensor([True, True, False, False])
    assert rate(fooled, torch.tensor([True, False, True, True])) == pytest.approx(1 / 3)
    assert rate(fooled, torch.zeros(4, dtype=torch.bool)) is None


def test_pairs_that_share_a_network_are_not_taken_for_independent() -> None:
    """A value that is the sum of one of each network: the interval is that of the mean of twice those."""
    each = [0.1, 0.5, 0.2, 0.7]
    values = {(("a", one), ("a", other)): each[one] + each[other]
              for one in range(4) for other in range(4) if one != other}  # fmt: skip
    values |= {(("a", seed), ("a", seed)): value for seed, value in enumerate(each)}
    found = by_sides(values | {(("a", 0), ("b", 1)): 0.3, (("b", 1), ("a", 0)): None})
    assert found["a to a"] is not None and found["a to itself"] is not None and found["a to b"] is not None
    assert found["a to a"]["values"] == pytest.approx([2 * value for value in each])
    assert found["a to a"]["interval"] == pytest.approx(summarize([2 * value for value in each])["interval"])
    assert found["a to itself"]["interval"] == pytest.approx(summarize(each)["interval"])
    assert (found["a to b"]["mean"], found["a to b"]["interval"]) == (0.3, None)
    assert found["b to a"] is None


def test_directions_are_gradients_of_length_1() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(5, 1, 2, 2)
    found = directions(model, images, 2, CPU)
    chances = model(images).softmax(1).detach()
    by_hand = (chances - nn.functional.one_hot(torch.full((5,), 2), 3)) @ model[1].weight.detach()
    torch.testing.assert_close(found, by_hand / by_hand.norm(dim=1, keepdim=True))
    assert all(weight.grad is None for weight in model.parameters())


def test_a_network_at_chance_says_nothing_of_layers() -> None:
    assert those_that_learned([0.11, 0.94, 0.2, 0.21], 10) == [1, 3]
    assert those_that_learned([0.11, 0.1], 10) == [0, 1]


def test_layers_are_measured_in_batches_of_128() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    images, labels = torch.rand(300, 1, 4, 4) * 2 - 1, torch.arange(300) % 3
    found = layer_values(model, ("2",), batches_of(images), labels, CPU)
    hidden = model[2](model[1](images.flatten(1)))
    for name, points in (("2", hidden), ("logits", model[3](hidden))):
        for title, temperature in (("T = 100", 100.0), ("optimal T", "optimal")):
            halves = [soft_nearest_neighbor_loss(points[part], labels[part], temperature)
                      for part in (slice(0, 128), slice(128, 256))]  # fmt: skip
            assert found[title][name] == pytest.approx(float(sum(halves).detach()) / 2, rel=1e-5)
    assert [len(batch) for batch in batches_of(images)] == [128, 128]
    assert [len(batch) for batch in batches_of(images[:90])] == [90]
