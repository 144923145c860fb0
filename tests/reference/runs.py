"""Tiny trainings on random images: a run takes a tenth of a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from snngan.api import make_trainer
from snngan.checkpoint import load_newest
from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import Dataset
from snngan.training.resolve import resolve
from snngan.training.run_folder import RunFolder
from snngan.training.trainer import Outcome, train

CPU = torch.device("cpu")


def gan_config(data: Dataset, *settings: str, **options: Any) -> TrainConfig:
    """Return the resolved config of a tiny generator; ``settings`` are added to those that keep it tiny."""
    tiny: dict[str, Any] = {
        "dataset": data.name, "objective": "snnl-pixel", "arch": "mlp", "steps": 6, "batch_size": 16,
        "learning_rate": 1e-3, "checkpoint_every": 2, "sample_every": 3, "log_every": 1, "metrics_every": 0,
        "set": ("width=16", "latent_dim=8", "hidden_layers=2", *settings),
    }  # fmt: skip
    return resolve(TrainConfig(**tiny | options), data)


def classifier_config(data: Dataset, **options: Any) -> ClassifyConfig:
    """Return the resolved config of a tiny classifier."""
    tiny: dict[str, Any] = {
        "dataset": data.name, "arch": "feedforward", "set": ("widths=16-8",), "alpha": -0.1, "steps": 6,
        "batch_size": 24, "checkpoint_every": 2, "log_every": 1,
    }  # fmt: skip
    return resolve(ClassifyConfig(**tiny | options), data)


def new_run(name: str | Path, config: Config) -> RunFolder[Any]:
    """Return the new run folder ``name``, which is in the current folder."""
    return RunFolder.create(Path(name), config, CPU)


def train_run(
    run: RunFolder[Any], data: Dataset, state: Mapping[str, Any] | None = None, device: torch.device = CPU, **hooks: Any
) -> Outcome:
    """Train a run to its end, or from the ``state`` of a checkpoint on; ``hooks`` are those of ``train``."""
    return train(make_trainer(run.config, data, device, state), run, **hooks)


def state_of(run: RunFolder[Any]) -> dict[str, Any]:
    """Return the newest checkpoint, which must not be damaged."""
    return load_newest(run.checkpoints, pytest.fail)


def metrics_of(run: RunFolder[Any]) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def stop_after(step: int) -> Callable[[], bool]:
    """Return a ``should_stop`` that is true at its call number ``step``."""
    calls: list[None] = []

    def should_stop() -> bool:
        calls.append(None)
        return len(calls) >= step

    return should_stop
