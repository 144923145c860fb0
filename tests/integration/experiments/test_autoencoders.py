"""Autoencoders with and without the loss, their kept codes, and the rows that are compared with pt-snnl's."""

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
from snngan.experiments import ExperimentContext
from snngan.experiments.autoencoders import VARIANTS, LatentCode
from snngan.experiments.classifiers import PT_SNNL_2020, TemperatureAndFactor
from snngan.losses.temperature import AnnealedTemperature, FixedTemperature, parse_temperature
from snngan.models.autoencoder import Autoencoder
from snngan.seeds import seed_for
from snngan.training.divergence import DivergedError

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"batch_size": 64, "widths": "32-32", "alpha": 1.0}
CODES = LatentCode(**OPTIONS, steps=60)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", keep=False)


@pytest.fixture
def context(tmp_path: Path) -> ExperimentContext:
    return ExperimentContext(tmp_path, None, CPU, lambda line: None)


def test_the_baseline_is_plain_training(digits: Dataset, context: ExperimentContext) -> None:
    torch.manual_seed(seed_for(3, "weights"))
    network = Autoencoder(digits.image_shape, 4, (32, 32))
    batches = Batches(digits.train_images, 64, seed=3, device=CPU)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(60):
        images = to_unit_range(batches.next_stored()[0])
        optimizer.zero_grad()
        F.mse_loss(network(images), images).backward()
        optimizer.step()
    codes, error = CODES.codes("baseline", 3, digits, context)
    held_out = to_unit_range(digits.test_images)
    torch.testing.assert_close(codes, network.encoder(held_out).detach(), rtol=1e-4, atol=1e-4)
    assert error == pytest.approx(float(F.mse_loss(network(held_out), held_out).detach()), rel=1e-4)


def test_variants_differ_and_the_loss_separates_classes(digits: Dataset, context: ExperimentContext) -> None:
    def loss(code: torch.Tensor) -> float:
        return float(soft_nearest_neighbor_loss(code, digits.test_labels, "optimal"))

    codes = {name: CODES.codes(name, 0, digits, context)[0] for name in VARIANTS}
    values = {name: loss(code) for name, code in codes.items()}
    assert all(values[name] < values["baseline"] - 0.02 for name in VARIANTS if name != "baseline"), values
    assert len({code.sum().item() for code in codes.values()}) == len(VARIANTS)
    part = codes["SNNL of half the code"]
    assert loss(part[:, :2]) < loss(part[:, 2:])
    assert not torch.equal(CODES.codes("baseline", 1, digits, context)[0], codes["baseline"])


def test_codes_are_reused_and_other_data_or_options_refused(digits: Dataset, context: ExperimentContext) -> None:
    first = CODES.codes("baseline", 0, digits, context)
    silent = ExperimentContext(context.folder, None, CPU, pytest.fail)
    assert CODES.codes("baseline", 0, digits, silent)[0].equal(first[0])
    other = Dataset("digits", digits.test_images, digits.test_labels, digits.train_images, digits.train_labels)
    for experiment, data in ((CODES, other), (LatentCode(**OPTIONS, steps=5), digits)):
        with pytest.raises(ValueError, match="holds a different run than this experiment's"):
            experiment.codes("baseline", 0, data, context)
    (path,) = (context.folder / "codes").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        CODES.codes("baseline", 0, digits, context)


def test_divergence_writes_nothing(digits: Dataset, context: ExperimentContext, monkeypatch: Any) -> None:
    monkeypatch.setattr("snngan.experiments.autoencoders.F.mse_loss", lambda *each: each[0].sum() * torch.nan)
    with pytest.raises(DivergedError, match="step 50: the autoencoder's loss is nan"):
        CODES.codes("baseline", 0, digits, context)
    assert not list(context.folder.iterdir())


def test_rows_have_the_order_of_the_published_ones() -> None:
    rows = TemperatureAndFactor().rows(235)
    assert {len(each) for each in PT_SNNL_2020.values()} == {len(rows)}
    assert list(rows) == [
        "baseline", "T = 100, factor +10", "T = 100, factor -10", "annealed T, factor +10", "annealed T, factor -10",
    ]  # fmt: skip
    assert [row["alpha"] for row in rows.values()] == [0, 10, -10, 10, -10]
    rules = [parse_temperature(row["temperature"]) for row in rows.values() if "temperature" in row]
    assert [type(rule) for rule in rules] == [FixedTemperature] * 2 + [AnnealedTemperature] * 2
    assert [(rule.initial, rule.period, rule.power, rule.relative) for rule in rules[2:]] == [(1, 235, 0.55, False)] * 2
