"""Networks that experiments train in run folders, what is read from these, and tensors that are computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import data_folder, load_dataset
from snngan.evaluation.report import read_metrics
from snngan.evaluation.training_metrics import TrainingMetrics
from snngan.experiments import ExperimentContext
from snngan.files import load_tensors, save_tensors
from snngan.training.checkpoint import checkpoint_paths, load_newest
from snngan.training.classifier import ClassifierTrainer, fixed_permutation
from snngan.training.gan import GanTrainer
from snngan.training.resolve import check_labels, resolve
from snngan.training.run_folder import RunFolder, open_run
from snngan.training.trainer import Trainer, train

C = TypeVar("C", bound=Config)
GanRun = RunFolder[TrainConfig]
ClassifierRun = RunFolder[ClassifyConfig]
Log = Mapping[str, tuple[list[int], list[float]]]
"""Steps and values by tag, of one seed."""


def train_generator(
    name: str, data: Dataset, context: ExperimentContext, *, stages: Sequence[int] = (), **options: Any
) -> GanRun:
    """Return the finished run ``runs/NAME`` of a generator: found in the context's folder, continued, or trained now.

    The ``options`` are fields of ``TrainConfig``; samples of the steps ``stages`` are kept for :func:`load_stage`.

    Raises:
        ValueError: the folder holds a different run.
        DivergedError: a loss or a weight is not finite.
    """
    config = _resolve(TrainConfig, data, context, {"sample_every": options["steps"], **options})

    def make_trainer(run: GanRun, checkpoint: dict[str, Any] | None) -> GanTrainer:
        metrics = TrainingMetrics(config, data, data_folder(config.data_dir) / "features", context.device)
        latents = torch.randn(500, 1024, generator=torch.Generator().manual_seed(1))

        def measure(trainer: GanTrainer, number: int) -> dict[str, float]:
            if number in stages:
                samples = trainer.sample(latents[:, : trainer.latent_dim].to(context.device))
                save_tensors(_stage_path(run, number), {"samples": samples})
            return metrics(trainer, number)

        return GanTrainer(run.config, data, context.device, checkpoint, measure)

    return _finish(name, config, context, make_trainer)


def train_classifiers(name: str, data: Dataset, context: ExperimentContext, **options: Any) -> ClassifierRun:
    """Return the finished run of classifiers, one per seed, as :func:`train_generator` for ``ClassifyConfig``."""
    return _finish(
        name,
        resolve_classifiers(data, context, **options),
        context,
        lambda run, checkpoint: ClassifierTrainer(run.config, data, context.device, checkpoint),
    )


def resolve_classifiers(data: Dataset, context: ExperimentContext, **options: Any) -> ClassifyConfig:
    """Return the config of :func:`train_classifiers`; raises ``ValueError`` for options that do not fit."""
    config = _resolve(ClassifyConfig, data, context, options)
    return ClassifierTrainer(config, data, context.device).config  # which names the layers


def _resolve(kind: type[C], data: Dataset, context: ExperimentContext, options: dict[str, Any]) -> C:
    spacing = {"checkpoint_every": max(1, options["steps"] // 10)}
    return resolve(kind(data_dir=context.data_dir, **{**spacing, **options}), data)


def _finish(
    name: str,
    config: C,
    context: ExperimentContext,
    make_trainer: Callable[[RunFolder[C], dict[str, Any] | None], Trainer],
) -> RunFolder[C]:
    """Return the run of a resolved ``config``, trained to its last step."""
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
            train(make_trainer(run, checkpoint), run)
    return run


def seed_logs(run: GanRun | ClassifierRun) -> list[Log]:
    """Return the metrics of each seed of a run."""
    log, seeds = read_metrics(run), run.config.seed_list
    prefixes = [f"seed-{seed}/" for seed in seeds] if len(seeds) > 1 else [""]
    return [
        {tag.removeprefix(each): values for tag, values in log.items() if tag.startswith(each)} for each in prefixes
    ]


def load_stage(run: GanRun, step: int) -> Tensor:
    """Return the samples (500, C, H, W) that :func:`train_generator` kept at a stage; raises ``ValueError``."""
    path = _stage_path(run, step)
    if not path.exists():
        raise ValueError(f"{run.path} has no samples of step {step}: remove it, and it is trained again")
    return load_tensors(path)[0]["samples"]


def _stage_path(run: GanRun, step: int) -> Path:
    return run.path / f"stage-{step:08d}.safetensors"


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
