from __future__ import annotations

from pathlib import Path

import pytest
import torch

from snngan.data import Dataset
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.training_metrics import TrainingMetrics
from snngan.training.players import build_players
from snngan.training.run_folder import GanRun


@pytest.mark.parametrize("trained", [False, True])
def test_figures_of_a_generator_in_training(trained: bool, short_run: Path, digits: Dataset, tmp_path: Path) -> None:
    plan, device = GanRun.open(short_run).plan, torch.device("cpu")
    if trained:
        load_or_train_features(digits, tmp_path)
    players = build_players(plan, device)
    watch = TrainingMetrics(plan, digits, tmp_path, device)
    state = torch.get_rng_state()
    found = watch(1, players)
    assert found == watch(1, players)
    assert torch.equal(torch.get_rng_state(), state)
    names = {tag.partition("/")[2] for tag in found}
    assert {tag.partition("/")[0] for tag in found} == {"features" if trained else "pixels"}
    assert {"precision", "recall", "density", "coverage", "1nn_accuracy"} <= names
    assert ({"fid", "kid"} <= names) == trained
    assert found[f"{'features' if trained else 'pixels'}/1nn_accuracy"] > 0.9  # an untrained generator makes noise
