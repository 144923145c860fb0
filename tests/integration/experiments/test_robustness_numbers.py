"""The numbers of the experiments on attacks and outliers, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snngan.data import Dataset
from snngan.experiments import ExperimentContext
from snngan.experiments.adversarial import (
    conditional_rate,
    layer_losses,
    num_batches,
    seeds_that_learned,
    summarize_pairs,
    unit_gradients,
)
from snngan.experiments.dknn import area_under_roc, compare_with_baseline, correlation, gap, outlier_images
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.stats import summarize

CPU = torch.device("cpu")


def test_correlation_and_gap() -> None:
    def curves(accuracy: list[float], credibility: list[float]) -> dict[str, list[float]]:
        return {"dknn_accuracy": accuracy, "credibility": credibility}

    assert correlation(curves([0.1, 0.4, 0.9], [0.2, 0.8, 1.8])) == pytest.approx(1)
    assert correlation(curves([0.1, 0.4, 0.9], [0.9, 0.4, 0.1])) == pytest.approx(-0.95918, abs=1e-4)
    assert correlation(curves([0.1, 0.4], [0.5, 0.5])) is None
    assert gap(curves([0.1, 0.5], [0.4, 0.4])) == pytest.approx(0.2)
    baseline, other = [curves([0.1, 0.5], [0.4, 0.4])] * 2, [curves([0.1, 0.5], [0.1, 0.4]), curves([0.1], [0.2])]
    found = compare_with_baseline(baseline, other, gap)
    assert found is not None
    assert found["values"] == pytest.approx([0.05, 0.1])
    assert found["difference"]["values"] == pytest.approx([-0.15, -0.1])
    assert compare_with_baseline(baseline, [curves([0.1, 0.4], [0.5, 0.5])], correlation) is None


def test_an_area_is_the_share_of_pairs_in_order() -> None:
    known, strange = torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0.1, 0.5])
    pairs = [1.0 if own > other else 0.5 if own == other else 0.0 for own in known for other in strange]
    assert area_under_roc(known, strange) == pytest.approx(sum(pairs) / 6)


def test_outliers_are_read_without_a_training_split_and_shrunk(tmp_path: Path) -> None:
    images = np.arange(4 * 16 * 16, dtype=np.uint64).astype(np.uint8).reshape(4, 1, 16, 16)
    none = np.zeros((0, 1, 16, 16), np.uint8)
    np.savez(tmp_path / "letters.npz", train_images=none, train_labels=np.zeros(0, np.int64), test_images=images,
             test_labels=np.zeros(4, np.int64))  # fmt: skip
    blank = [torch.zeros(2, channels, 8, 8, dtype=torch.uint8) for channels in (1, 3)]
    gray, colored = (Dataset("own", half, None, half, None) for half in blank)
    context = ExperimentContext(tmp_path, str(tmp_path), CPU, pytest.fail)
    assert outlier_images("letters", gray, 9, context).shape == (4, 1, 8, 8)
    with pytest.raises(ValueError, match="images of letters must be 3x8x8 like those of own, got 1x8x8"):
        outlier_images("letters", colored, 9, context)


def test_transfer_is_conditional() -> None:
    fooled = torch.tensor([True, True, False, False])
    assert conditional_rate(fooled, torch.tensor([True, False, True, True])) == pytest.approx(1 / 3)
    assert conditional_rate(fooled, torch.zeros(4, dtype=torch.bool)) is None


def test_intervals_of_pairs_are_jackknifed_over_seeds() -> None:
    """A value that is the sum of one of each network: the interval is that of the mean of twice those."""
    each = [0.1, 0.5, 0.2, 0.7]
    values = {(("a", one), ("a", other)): each[one] + each[other]
              for one in range(4) for other in range(4) if one != other}  # fmt: skip
    values |= {(("a", seed), ("a", seed)): value for seed, value in enumerate(each)}
    found = summarize_pairs(values | {(("a", 0), ("b", 1)): 0.3, (("b", 1), ("a", 0)): None})
    assert found["a to a"] is not None and found["a to itself"] is not None and found["a to b"] is not None
    assert found["a to a"]["values"] == pytest.approx([2 * value for value in each])
    assert found["a to a"]["interval"] == pytest.approx(summarize([2 * value for value in each])["interval"])
    assert found["a to itself"]["interval"] == pytest.approx(summarize(each)["interval"])
    assert (found["a to b"]["mean"], found["a to b"]["interval"]) == (0.3, None)
    assert found["b to a"] is None


def test_unit_gradients_have_length_1() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(5, 1, 2, 2)
    found = unit_gradients(model, images, 2, CPU)
    chances = model(images).softmax(1).detach()
    by_hand = (chances - nn.functional.one_hot(torch.full((5,), 2), 3)) @ model[1].weight.detach()
    torch.testing.assert_close(found, by_hand / by_hand.norm(dim=1, keepdim=True))
    assert all(weight.grad is None for weight in model.parameters())


def test_networks_at_chance_are_excluded() -> None:
    assert seeds_that_learned([0.11, 0.94, 0.2, 0.21], 10) == [1, 3]
    assert seeds_that_learned([0.11, 0.1], 10) == [0, 1]


def test_layers_are_measured_in_batches_of_128() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    images, labels = torch.rand(300, 1, 4, 4) * 2 - 1, torch.arange(300) % 3
    found = layer_losses(model, ("2",), images, labels, CPU)
    hidden = model[2](model[1](images.flatten(1)))
    for name, features in (("2", hidden), ("logits", model[3](hidden))):
        for title, temperature in (("T = 100", 100.0), ("optimal T", "optimal")):
            halves = [soft_nearest_neighbor_loss(features[part], labels[part], temperature)
                      for part in (slice(0, 128), slice(128, 256))]  # fmt: skip
            assert found[title, name] == pytest.approx(float(sum(halves).detach()) / 2, rel=1e-5)
    assert (num_batches(images), num_batches(images[:90])) == (2, 1)
    few = layer_losses(model, ("2",), images[:90], labels, CPU)
    wanted = soft_nearest_neighbor_loss(hidden[:90], labels[:90], 100.0)
    assert few["T = 100", "2"] == pytest.approx(float(wanted.detach()), rel=1e-5)
