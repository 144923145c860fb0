"""The Python API, with the names and defaults of the commands, which call the functions here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from snngan.checkpoint import load_newest
from snngan.config import ClassifyConfig, Config, TrainConfig, make_config
from snngan.data import Dataset, to_uint8
from snngan.data.datasets import data_folder, is_here, load_dataset
from snngan.evaluation.measure import Evaluation, evaluate
from snngan.files import read_lines
from snngan.training.classifier import ClassifierTrainer
from snngan.training.distributed import (
    broadcast_from_rank0,
    check_same_step,
    is_main_process,
    process_group,
    run_on_all_ranks,
)
from snngan.training.gan import GanTrainer
from snngan.training.resolve import check_config, resolve
from snngan.training.run_folder import RunFolder, check_new, open_run
from snngan.training.sampling import draw_labels, draw_latents, find_class, load_generator, sample_images
from snngan.training.trainer import Trainer
from snngan.training.trainer import train as train_loop

C = TypeVar("C", bound=Config)
Notify = Callable[[str], None]


def train(dataset: str = "mnist-5k", **options: Any) -> Run:
    """Train a generator, and return its run.

    Args:
        dataset: a data set's name, ``folder:PATH`` or ``npz:PATH``.
        options: those of ``snngan train``, such as ``objective="snnl-projected"``, ``steps=4000``, ``run_dir="my-run"``
            or ``set=("form=literal",)``.

    Returns:
        The run, whose folder holds samples, metrics and checkpoints.

    Raises:
        ValueError: an option is unknown, out of range or does not fit the data.
        DivergedError: a loss or a weight is not finite.

    Example:
        >>> run = train("digits", objective="gan", steps=500)  # doctest: +SKIP
        >>> run.sample(16).shape  # doctest: +SKIP
        torch.Size([16, 1, 8, 8])
    """
    config = make_config(TrainConfig, {"dataset": dataset, **options})
    if config.seeds is not None:
        raise ValueError("seeds is an option of the command: call train once for each seed, as seed=0, seed=1, ...")
    return _train(config)


def train_classifier(dataset: str = "mnist-5k", **options: Any) -> Run:
    """Train a classifier by cross-entropy + alpha * SNNL of its hidden layers, and return its run.

    Args:
        dataset: a labeled data set's name, ``folder:PATH`` or ``npz:PATH``.
        options: those of ``snngan classify train``, such as ``arch="cnn"``, ``alpha=-0.003`` or ``seeds="0:4"``.

    Raises:
        ValueError: an option is unknown, out of range or does not fit the data.
        DivergedError: a loss or a weight is not finite.
    """
    return _train(make_config(ClassifyConfig, {"dataset": dataset, **options}))


def _train(config: Config) -> Run:
    with process_group(config.device) as device:
        trainer = prepare(config, device)
        run = create_run(trainer)
        with lock_run(run):
            train_loop(trainer, run)
    return load_run(run.path)


def load_run(path: str | Path) -> Run:
    """Return the run in a folder that a training made; raises ``ValueError`` for any other."""
    return Run(open_run(Path(path), Config))


class Run:
    """A finished or running training, of a generator or of a classifier.

    Attributes:
        path: its folder.
        config: its resolved config.
    """

    def __init__(self, folder: RunFolder[Any]) -> None:
        self._folder = folder
        self.path: Path = folder.path
        self.config: Config = folder.config

    def __repr__(self) -> str:
        return repr(self._folder)

    @property
    def metrics(self) -> dict[str, float]:
        """The last logged value of each loss and metric by TensorBoard tag; ``metrics/NAME`` also as ``NAME``."""
        found: dict[str, float] = {}
        for line in read_lines(self.path / "metrics.jsonl"):
            found |= line
        short = {tag.partition("/")[2]: value for tag, value in found.items() if tag.startswith("metrics/")}
        return {**found, **short}

    def __fspath__(self) -> str:
        return str(self.path)

    def evaluate(self, reference: str | None = None, **options: Any) -> Evaluation:
        """Return the metrics of the run's samples: :func:`snngan.evaluate` with this run as ``images``."""
        return evaluate(self, reference, **options)

    def generator(self, device: str = "cpu") -> nn.Module:
        """Return the EMA generator: latents (N, ``generator.latent_dim``) to images (N, C, H, W) in [-1, 1]."""
        return load_generator(self.path, device)

    def sample(self, count: int = 64, *, label: int | str | None = None, seed: int = 0, device: str = "cpu") -> Tensor:
        """Return ``count`` images (count, C, H, W), uint8 (2-D points: float32), as ``snngan sample`` does.

        A class-conditional generator makes those of the class ``label``, a number or a name, or by default of all
        classes, as frequent as in the training images.
        """
        generator: Any = self.generator(device)
        config = open_run(self.path, TrainConfig).config
        labels = draw_labels(count, config.class_counts, seed)
        if label is not None:
            labels = torch.full((count,), find_class(config, str(label)))
        images = sample_images(generator, draw_latents(count, generator.latent_dim, seed), labels)
        return images if config.is_points else to_uint8(images)


def config_like(path: Path, kind: type[C], given: Mapping[str, Any]) -> C:
    """Return the config of the run in ``path``, in which the options ``given`` replace its own.

    Options of its objective or architecture, and the names of a classifier's layers, hold unless another objective or
    architecture is given.

    Raises:
        ValueError: the run does not exist, or an option is unknown or out of range.
    """
    values = open_run(path, kind).config.to_json()
    for name in ("objective", "arch"):
        if name in given and given[name] != values[name]:
            values[f"{name}_options"] = {}
            if name == "arch" and "layers" in values:
                values["layers"] = "*"
    if "batch_size" in given and "real_batch_size" in values:
        values["real_batch_size"] = None
    if "seed" in given or "seeds" in given:
        values |= {"seed": 0, "seeds": None}
    config: C = make_config(kind, {**values, **given})
    return config


def prepare(config: Config, device: torch.device, *, notify: Notify = lambda line: None) -> Trainer:
    """Return the trainer of a new run: the config checked, the data loaded, the networks built.

    Call it on every rank. The main process loads the data first and may download and cache them.

    Raises:
        ValueError: an option is wrong or does not fit the data, or the data are not here.
    """
    if config.run_dir is not None:
        run_on_all_ranks(lambda: check_new(Path(config.run_dir or "")) if is_main_process() else None)
    config = run_on_all_ranks(lambda: check_config(config))
    if config.dry_run and config.download and not is_here(config.dataset, config.data_dir):
        raise ValueError(f"--dry-run downloads nothing; first: snngan data prepare {config.dataset} --download")
    keep = not config.dry_run
    found = run_on_all_ranks(lambda: load_data(config, keep=keep, notify=notify) if is_main_process() else None)
    dataset = run_on_all_ranks(lambda: found or load_data(config, keep=False))
    trainer = run_on_all_ranks(lambda: make_trainer(resolve(config, dataset), dataset, device, notify=notify))
    if not config.dry_run:
        trainer.prepare()  # before there is a run folder: it may fail
    return trainer


def load_data(config: Config, *, keep: bool, notify: Notify = lambda line: None) -> Dataset:
    """Return the data set of a config; see :func:`snngan.load_dataset`."""
    return load_dataset(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        download=config.download,
        skip_broken=config.skip_broken,
        keep=keep,
        notify=notify,
    )


def make_trainer(
    config: Config,
    dataset: Dataset,
    device: torch.device,
    state: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    notify: Notify = lambda line: None,
) -> Trainer:
    """Return the trainer of a resolved config, from a checkpoint's ``state`` if there is one.

    Feature classifiers for metrics are looked for in ``data_dir``, by default that of the config.
    """
    if not isinstance(config, TrainConfig):
        assert isinstance(config, ClassifyConfig)
        return ClassifierTrainer(config, dataset, device, state)
    metrics = None
    if config.metrics_every and is_main_process():
        from snngan.evaluation.training_metrics import TrainingMetrics

        metrics = TrainingMetrics(config, dataset, data_folder(data_dir or config.data_dir) / "features", device)
    return GanTrainer(config, dataset, device, state, metrics, notify)


def create_run(trainer: Trainer) -> RunFolder[Any]:
    """Return the new folder of the trainer's run; the main process makes it."""
    config = trainer.config

    def create() -> Path | None:
        if not is_main_process():
            return None
        return RunFolder.create(Path(config.run_dir) if config.run_dir else None, config, trainer.device).path

    path = broadcast_from_rank0(run_on_all_ranks(create))
    return RunFolder(path, config)


@contextmanager
def lock_run(run: RunFolder[Any]) -> Iterator[None]:
    """Keep other trainings out of the run's folder; every rank raises the ``ValueError`` of the main process."""
    with ExitStack() as stack:
        run_on_all_ranks(lambda: is_main_process() and stack.enter_context(run.lock()))
        yield


def load_state(run: RunFolder[Any], notify: Notify = lambda line: None) -> dict[str, Any] | None:
    """Return the newest sound checkpoint of a run, or None if it was stopped before it saved its first.

    Call it on every rank.

    Raises:
        ValueError: no checkpoint is sound, or the ranks see different ones.
    """

    def load() -> dict[str, Any] | None:
        if not any(run.checkpoints.glob("step-*")) and run.last_logged() <= run.config.checkpoint_every:
            return None
        state = load_newest(run.checkpoints, notify)
        for line in run.describe_changes():
            notify(line)
        return state

    state = run_on_all_ranks(load)
    check_same_step(0 if state is None else state["step"])
    return state


def prepare_resumed(
    run: RunFolder[Any],
    state: Mapping[str, Any] | None,
    device: torch.device,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    notify: Notify = lambda line: None,
) -> Trainer:
    """Return the trainer of a run that continues from ``state``, or from its beginning.

    Args:
        run: the run's folder, locked.
        state: what :func:`load_state` returned.
        device: where to compute.
        dataset: where the data are now, if they were moved.
        data_dir: where data sets are now, if they were moved.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: the data are not here, or others than the run was started with.
    """
    moved = {"dataset": dataset, "data_dir": data_dir}
    config = dataclasses.replace(run.config, **{name: value for name, value in moved.items() if value is not None})
    # The run folder may come from someone else, so nothing is written to the data folder that it names.
    data = run_on_all_ranks(lambda: load_data(config, keep=False, notify=notify))
    if state is None:
        run_on_all_ranks(lambda: run.rewind(-1, device) if is_main_process() else None)
    return run_on_all_ranks(lambda: make_trainer(run.config, data, device, state, data_dir, notify))
