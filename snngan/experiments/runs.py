"""Networks that experiments train in run folders, and what is read from these.

No other file of the experiments imports from ``snngan.training``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import data_folder, load_dataset
from snngan.evaluation.classifier import load_ensemble
from snngan.evaluation.report import read_metrics
from snngan.evaluation.training_metrics import TrainingMetrics
from snngan.experiments import ExperimentContext
from snngan.experiments.cache import load_arrays, save_arrays
from snngan.files import read_json
from snngan.training.checkpoint import checkpoint_paths, load_newest
from snngan.training.classifier import ClassifierTrainer, classification_metrics, compute_logits, fixed_permutation
from snngan.training.divergence import DivergedError as DivergedError
from snngan.training.environment import environment as environment
from snngan.training.gan import GanTrainer
from snngan.training.resolve import build_architecture, check_labels, resolve
from snngan.training.run_folder import RunFolder, open_run
from snngan.training.sampling import draw_latents, latent_plane, load_generator, sample_images
from snngan.training.trainer import train

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
    steps = options["steps"]
    spacing = {"sample_every": steps, "checkpoint_every": max(1, steps // 10)}
    config = resolve(TrainConfig(data_dir=context.data_dir, **{**spacing, **options}), data)
    with _open_or_create_run(name, config, context) as (run, checkpoint):
        if checkpoint is None or checkpoint["step"] < steps:
            metrics = TrainingMetrics(config, data, data_folder(config.data_dir) / "features", context.device)
            latents = torch.randn(500, 1024, generator=torch.Generator().manual_seed(1))

            def measure(trainer: GanTrainer, number: int) -> dict[str, float]:
                if number in stages:
                    samples = trainer.sample(latents[:, : trainer.latent_dim].to(context.device)).cpu()
                    save_arrays(_stage_path(run, number), {"samples": samples})
                return metrics(trainer, number)

            train(GanTrainer(run.config, data, context.device, checkpoint, measure), run)
        return run


def train_classifiers(name: str, data: Dataset, context: ExperimentContext, **options: Any) -> ClassifierRun:
    """Return the finished run of classifiers, one per seed, as :func:`train_generator` for ``ClassifyConfig``."""
    spacing = {"checkpoint_every": max(1, options["steps"] // 10)}
    config = resolve(ClassifyConfig(data_dir=context.data_dir, **{**spacing, **options}), data)
    config = ClassifierTrainer(config, data, context.device).config  # which names the layers
    with _open_or_create_run(name, config, context) as (run, checkpoint):
        if checkpoint is None or checkpoint["step"] < config.steps:
            train(ClassifierTrainer(run.config, data, context.device, checkpoint), run)
        return run


def check_classifier_options(data: Dataset, **options: Any) -> None:
    """Raise ``ValueError`` for what :func:`train_classifiers` would refuse."""
    ClassifierTrainer(resolve(ClassifyConfig(**options), data), data, torch.device("cpu"))


@contextmanager
def _open_or_create_run(
    name: str, config: C, context: ExperimentContext
) -> Iterator[tuple[RunFolder[C], dict[str, Any] | None]]:
    """Yield the run of a resolved ``config`` and its newest checkpoint, while no other process can train in its folder.

    Raises:
        ValueError: the folder holds a different run, no run, or one that is being trained.
    """
    path = context.folder / "runs" / name
    is_new = not path.exists()
    if is_new:
        run = RunFolder.create(path, config, context.device)
    else:
        run = open_run(path, type(config))
        run.check_links()
        same = {"data_dir": config.data_dir, "checkpoint_every": config.checkpoint_every}
        if {**run.config.to_json(), **same} != config.to_json():
            raise ValueError(f"{path} holds a different run than this experiment's: give another --out, or remove it")
    with run.lock():
        checkpoint = None
        if checkpoint_paths(run.checkpoints):
            checkpoint = load_newest(run.checkpoints, context.notify)
        elif not is_new:  # interrupted before its first checkpoint
            run.rewind(-1, context.device)
        if checkpoint is None or checkpoint["step"] < config.steps:
            since = f" from step {checkpoint['step']}" if checkpoint else ""
            context.notify(f"{name}: {config.steps} steps{since}")
            for line in run.describe_changes():
                context.notify(f"{name}: {line}")
        yield run, checkpoint


def run_environments(folder: Path) -> list[dict[str, Any]]:
    """Return the environments in which the runs of an experiment's folder were trained, without repetitions."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("runs/*/config.json")):
        own = read_json(path).get("environment")
        if own and own not in found:
            found.append(own)
    return found


def seed_logs(run: GanRun | ClassifierRun) -> list[Log]:
    """Return the metrics of each seed of a run."""
    log = read_metrics(run)
    seeds = run.config.seed_list
    if len(seeds) < 2:
        return [log]
    prefixes = [f"seed-{seed}/" for seed in seeds]
    return [
        {tag.removeprefix(each): values for tag, values in log.items() if tag.startswith(each)} for each in prefixes
    ]


def load_stage(run: GanRun, step: int) -> Tensor:
    """Return the samples (500, C, H, W) that :func:`train_generator` kept at a stage; raises ``ValueError``."""
    path = _stage_path(run, step)
    if not path.exists():
        raise ValueError(f"{run.path} has no samples of step {step}: remove it, and it is trained again")
    return load_arrays(path)["samples"]


def _stage_path(run: GanRun, step: int) -> Path:
    return run.path / f"stage-{step:08d}.npz"


def sample_random(run: GanRun, count: int) -> Tensor:
    """Return ``count`` samples (N, C, H, W) of a run's averaged generator for random latents of seed 0."""
    return sample_images(load_generator(run.path), draw_latents(count, build_architecture(run.config).latent_dim, 0))


def sample_plane(run: GanRun, side: int) -> Tensor:
    """Return ``side`` times ``side`` samples (N, C, H, W) on a plane through the latent space, of seed 0."""
    return sample_images(load_generator(run.path), latent_plane(build_architecture(run.config).latent_dim, side, 0))


def load_networks(run: ClassifierRun, device: torch.device) -> list[nn.Module]:
    """Return the trained classifiers of a run, one per seed, in evaluation mode."""
    return [network.to(device).eval() for network in load_ensemble(run, device)[0].networks()]


def held_out_accuracy(run: ClassifierRun, data: Dataset, device: torch.device) -> float:
    """Return the accuracy of a run of one seed on the test images of ``data``."""
    assert data.test_labels is not None
    logits = compute_logits(load_ensemble(run, device)[0], data.test_images, device)
    return float(classification_metrics(logits, data.test_labels)["accuracy"])


def load_labeled(name: str, context: ExperimentContext) -> Dataset:
    """Return the data set ``name``; raises ``ValueError`` unless both halves have labels of two classes or more."""
    data = load_dataset(name, data_dir=context.data_dir, notify=context.notify)
    check_labels(data)
    return data


def held_out_subset(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices (N,) of at most ``count`` test images in a fixed random order, and their labels (N,)."""
    assert data.test_labels is not None
    subset = fixed_permutation(data.test_images)[:count]
    return subset, data.test_labels[subset]
