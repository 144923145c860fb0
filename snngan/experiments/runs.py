"""Runs that experiments train in their folder, and tensors that they compute once and keep there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from snngan.checkpoint import checkpoint_paths, load_newest
from snngan.config import Config
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.evaluation.report import read_metrics
from snngan.experiments import ExperimentContext
from snngan.files import load_tensors, save_tensors
from snngan.training.classifier import fixed_permutation
from snngan.training.resolve import check_labels
from snngan.training.run_folder import RunFolder, open_run
from snngan.training.trainer import Trainer, train

C = TypeVar("C", bound=Config)
Log = Mapping[str, tuple[list[int], list[float]]]
"""Steps and values by tag, of one seed."""


def train_to_end(
    name: str, config: C, context: ExperimentContext, make_trainer: Callable[[C, Any], Trainer]
) -> RunFolder[C]:
    """Return the finished run ``runs/NAME``: found in the context's folder, continued, or trained now.

    Raises:
        ValueError: the folder holds a run of another config than the resolved ``config``.
        DivergedError: a loss or a weight is not finite.
    """
    path = context.folder / "runs" / name
    is_new = not path.exists()
    run = RunFolder.create(path, config, context.device) if is_new else open_run(path, type(config))
    same = {"data_dir": config.data_dir, "checkpoint_every": config.checkpoint_every}
    if {**run.config.to_json(), **same} != config.to_json():
        raise ValueError(f"{path} holds a different run than this experiment's: give another --out, or remove it")
    with run.lock():
        checkpoint = load_newest(run.checkpoints, context.notify) if checkpoint_paths(run.checkpoints) else None
        if checkpoint is None and not is_new:  # interrupted before its first checkpoint
            run.rewind(-1, context.device)
        if checkpoint is None or checkpoint["step"] < config.steps:
            since = f" from step {checkpoint['step']}" if checkpoint else ""
            for line in (f"{config.steps} steps{since}", *run.describe_changes()):
                context.notify(f"{name}: {line}")
            train(make_trainer(run.config, checkpoint), run)
    return run


def seed_logs(run: RunFolder[C]) -> list[Log]:
    """Return the metrics of each seed of a run."""
    log, seeds = read_metrics(run), run.config.seed_list
    prefixes = [f"seed-{seed}/" for seed in seeds] if len(seeds) > 1 else [""]
    return [
        {tag.removeprefix(each): values for tag, values in log.items() if tag.startswith(each)} for each in prefixes
    ]


def compute_once(
    path: Path, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors in the file ``path``; if it does not exist, ``compute`` makes them and they are kept there.

    Raises:
        ValueError: the file is damaged or of other ``settings``.
    """
    if not path.exists():
        save_tensors(path, compute(), settings)
    tensors, found = load_tensors(path)
    if found != json.loads(json.dumps(settings)):
        raise ValueError(f"{path} holds a different run than this experiment's: give another --out, or remove it")
    return tensors


def load_labeled(name: str, context: ExperimentContext) -> Dataset:
    """Return the data set ``name``; raises ``ValueError`` unless both splits have labels of two classes or more."""
    data = load_dataset(name, data_dir=context.data_dir, notify=context.notify)
    check_labels(data)
    return data


def held_out_subset(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices (N,) of at most ``count`` test images in a fixed random order, and their labels (N,)."""
    assert data.test_labels is not None
    subset = fixed_permutation(data.test_images)[:count]
    return subset, data.test_labels[subset]
