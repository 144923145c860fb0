"""Metrics while training: the same whenever they are computed, and without those that mean nothing in pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from snngan.config import TrainConfig
from snngan.data import Dataset
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.training_metrics import TrainingMetrics
from snngan.metrics import choose_metrics
from snngan.training.gan import GanTrainer
from snngan.training.run_folder import open_run


@pytest.mark.parametrize("trained", [False, True])
def test_metrics_while_training(trained: bool, short_run: Path, digits: Dataset, tmp_path: Path) -> None:
    config, device = open_run(short_run, TrainConfig).config, torch.device("cpu")
    if trained:
        load_or_train_features(digits, tmp_path)
    trainer = GanTrainer(config, digits, device)
    metrics = TrainingMetrics(config, digits, tmp_path, device)
    state = torch.get_rng_state()
    found = metrics(trainer, 1)
    assert found == metrics(trainer, 2)
    assert torch.equal(torch.get_rng_state(), state)
    prefix = "metrics/" if trained else "metrics/pixels/"
    chosen = [
        each
        for each in choose_metrics().values()
        if (trained or each.logged_in_pixels) and "training" not in each.needs
    ]
    assert set(found) == {f"{prefix}{name}" for metric in chosen for name in metric.values}
    assert ("metrics/fid" in found) == trained
    assert found[f"{prefix}1nn_accuracy"] > 0.9  # an untrained generator makes noise
