"""Autoencoders with and without the loss, what is kept of them, and the rows that stand beside pt-snnl's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from snngan import soft_nearest_neighbor_loss
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.data.datasets import load_dataset
from snngan.experiments import Setting
from snngan.experiments.autoencoders import SIDES, Autoencoders
from snngan.experiments.temperature_and_factor import PUBLISHED, TemperatureAndFactor
from snngan.losses.temperature import AnnealedTemperature, FixedTemperature, parse_temperature
from snngan.models.autoencoder import Autoencoder
from snngan.seeds import seed_for
from snngan.training.divergence import DivergedError

CPU = torch.device("cpu")
SIZE = Autoencoders(dataset="digits", steps=60, batch_size=64, code=4, widths="32-32", alpha=1.0)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", keep=False)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, None, CPU, lambda line: None)


def test_the_baseline_is_plain_training(digits: Dataset, setting: Setting) -> None:
    torch.manual_seed(seed_for(3, "weights"))
    network = Autoencoder(digits.image_shape, 4, (32, 32))
    batches = Batches(digits.train_images, 64, seed=3, device=CPU)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(60):
        images = batches.next_images()
        optimizer.zero_grad()
        F.mse_loss(network(images), images).backward()
        optimizer.step()
    codes, error = SIZE.codes("baseline", 3, digits, setting)
    held_out = to_unit_range(digits.test_images)
    torch.testing.assert_close(codes, network.encoder(held_out).detach(), rtol=1e-4, atol=1e-4)
    assert error == pytest.approx(float(F.mse_loss(network(held_out), held_out).detach()), rel=1e-4)


def test_each_side_has_a_code_of_its_own_and_the_loss_parts_it(digits: Dataset, setting: Setting) -> None:
    codes = {side: SIZE.codes(side, 0, digits, setting)[0] for side in SIDES}
    values = {
        side: float(soft_nearest_neighbor_loss(code, digits.test_labels, "optimal")) for side, code in codes.items()
    }
    assert all(values[side] < values["baseline"] - 0.02 for side in SIDES if side != "baseline"), values
    assert len({code.sum().item() for code in codes.values()}) == len(SIDES)
    halves = [
        float(soft_nearest_neighbor_loss(codes["SNNL of half the code"][:, part], digits.test_labels, "optimal"))
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert halves[0] < halves[1]  # its first half is the one that knows
    assert not torch.equal(SIZE.codes("baseline", 1, digits, setting)[0], codes["baseline"])


def test_what_was_trained_is_found_again_but_not_for_other_data_or_settings(digits: Dataset, setting: Setting) -> None:
    first = SIZE.codes("baseline", 0, digits, setting)
    assert SIZE.codes("baseline", 0, digits, Setting(setting.folder, None, CPU, pytest.fail))[0].equal(first[0])
    other = Dataset("digits", digits.test_images, digits.test_labels, digits.train_images, digits.train_labels)
    for size, data in ((SIZE, other), (Autoencoders(dataset="digits", steps=5, batch_size=64, code=4), digits)):
        with pytest.raises(ValueError, match="holds another run than this experiment's"):
            size.codes("baseline", 0, data, setting)


def test_one_that_diverges_says_so_and_leaves_nothing(digits: Dataset, setting: Setting, monkeypatch: Any) -> None:
    monkeypatch.setattr("snngan.experiments.autoencoders.F.mse_loss", lambda *each: each[0].sum() * torch.nan)
    with pytest.raises(DivergedError, match="step 50: the autoencoder's loss is nan"):
        SIZE.codes("baseline", 0, digits, setting)
    assert not list(setting.folder.iterdir())


def test_the_rows_are_in_the_order_of_the_published_ones() -> None:
    rows = TemperatureAndFactor(dataset="mnist", seeds=1, steps=1, batch_size=1, learning_rate=1.0, every=1).rows(235)
    assert [len(each) for each in PUBLISHED.values()] == [len(rows)] * 2
    assert list(rows) == [
        "baseline", "T = 100, factor +10", "T = 100, factor -10", "annealed T, factor +10", "annealed T, factor -10",
    ]  # fmt: skip
    assert [row["alpha"] for row in rows.values()] == [0, 10, -10, 10, -10]
    rules = [parse_temperature(row["temperature"]) for row in rows.values() if "temperature" in row]
    assert [type(rule) for rule in rules] == [FixedTemperature] * 2 + [AnnealedTemperature] * 2
    assert [(rule.initial, rule.period, rule.power, rule.relative) for rule in rules[2:]] == [(1, 235, 0.55, False)] * 2
