"""Objectives side by side: the split that learning rates are chosen on, the chosen rate, and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from snngan.data.datasets import load_dataset
from snngan.experiments import ExperimentContext
from snngan.experiments.one_step import OneStepGenerators, predict_fid, validation_split
from snngan.stats import summarize_correlations, summarize_shares
from snngan.training.divergence import DivergedError

CPU = torch.device("cpu")


def test_learning_rates_are_chosen_without_test_images() -> None:
    data = load_dataset("digits", keep=False)
    part = validation_split(data)
    rows = {image.numpy().tobytes() for image in data.train_images}
    assert len(part.train_images) + len(part.test_images) == len(data.train_images)
    assert len(part.test_images) == len(data.train_images) // 10
    assert all(image.numpy().tobytes() in rows for image in (*part.train_images, *part.test_images))
    assert part.train_labels is not None and len(part.train_labels) == len(part.train_images)
    assert torch.equal(validation_split(data).test_images, part.test_images)


@pytest.mark.slow
def test_the_best_rate_is_used_and_one_that_diverges_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = OneStepGenerators.train

    def diverge(self: OneStepGenerators, name: str, *arguments: object, **options: object) -> object:
        if "rate0.5" in name:
            raise DivergedError("infinite")
        return train(self, name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(OneStepGenerators, "train", diverge)
    data_dir = str(tmp_path / "data")
    context = ExperimentContext(tmp_path / "out", data_dir, CPU, lambda line: None)
    options = {"rows": ("drifting-pixels", "rpgan"), "conditional": True, "options": ("arch=mlp", "width=16")}
    experiment = OneStepGenerators(seeds=(0, 1), steps=10, rates=(1e-6, 1e-2, 0.5), **options)  # type: ignore[arg-type]
    numbers = experiment.run(context).numbers
    assert set(numbers["rows"]) == {"drifting-pixels", "rpgan"}
    for row in numbers["rows"].values():
        known = {rate: fid for rate, fid in row["tuning"].items() if fid is not None}
        assert [*known] == ["1e-06", "0.01"]
        assert row["learning_rate"] == float(min(known, key=lambda rate: known[rate]))
        assert row["steps"] == [10, 10]
        assert 0 <= row["recall"]["interval"][0] <= row["recall"]["interval"][1] <= 1
    config = json.loads((tmp_path / "out/runs/rpgan-rate0.01-seed1000/config.json").read_text())["config"]
    assert config["discriminator_learning_rate"] == 0.0025
    assert config["objective_options"] == {"r1": 1.0, "r2": 1.0}


def test_a_row_that_diverges_in_every_seed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*arguments: object, **options: object) -> object:
        raise DivergedError("infinite")

    monkeypatch.setattr(OneStepGenerators, "train", diverge)
    context = ExperimentContext(tmp_path / "out", str(tmp_path / "data"), CPU, lambda line: None)
    result = OneStepGenerators(seeds=(0, 1), steps=10, rates=(1e-3,), rows=("rpgan",)).run(context)
    assert result.numbers["rows"] == {}
    assert result.numbers["diverged"] == ["rpgan, seed 0: infinite", "rpgan, seed 1: infinite"]


def test_intervals_stay_within_bounds() -> None:
    found = summarize_shares([0.0, 0.01, 0.0])
    assert found["mean"] == pytest.approx(0.01 / 3)
    assert 0 <= found["interval"][0] < 0.01 / 3 < found["interval"][1] < 0.1
    assert summarize_shares([0.5, 0.5])["interval"] == pytest.approx([0.5, 0.5])
    assert summarize_shares([0.4])["interval"] is None
    low, high = summarize_correlations([-0.9, -1.0, -0.95])["interval"]
    assert -1 < low < -0.95 < high < 1
    assert summarize_correlations([0.1, 0.3, 0.2])["interval"] == pytest.approx([-0.05, 0.43], abs=0.03)


def test_readings_that_predict_the_last_fid() -> None:
    """A score that falls with the final FID from the start, a loss that has nothing to do with it."""
    random = torch.rand(12, generator=torch.Generator().manual_seed(0)).tolist()
    ends = [
        (
            {
                "entanglement/input_score": ([1, 2, 3], [1.0 - fid / 20, 0.0, 1.0 - fid / 20]),
                "loss/generator": ([1, 2, 3], [random[fid]] * 3),
                "loss/discriminator": ([1], [0.0]),
            },
            float(fid),
        )
        for fid in range(12)
    ]
    found = predict_fid(ends)
    assert set(found) == {"score in pixels", "generator's loss"}
    assert [*found["score in pixels"]] == ["1.0"]  # all alike after 30 %
    assert found["score in pixels"]["1.0"]["mean"] == pytest.approx(-1)
    assert found["score in pixels"]["1.0"]["interval"] == pytest.approx([-1, -1])
    low, high = found["generator's loss"]["1.0"]["interval"]
    assert -1 <= low < 0 < high <= 1
