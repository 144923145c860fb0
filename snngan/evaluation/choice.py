"""Which feature space and which real images a user means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from snngan.data import to_unit_range
from snngan.data.datasets import Notify, load_dataset
from snngan.evaluation.features import INCEPTION_FILE, Extractor, Inception, Pixels, Program
from snngan.evaluation.small import trained_features
from snngan.evaluation.sources import ImageSource, dataset_source, digest_of, is_run
from snngan.training.checkpoint import load_newest
from snngan.training.plan import build_objective, check_same_data
from snngan.training.players import build_players, load_part
from snngan.training.runlog import RunFolder


def choose_extractor(
    features: str | None, inception_weights: Path | None, train_features: str | None, data_dir: str | None,
    image_size: int | None, folder: Path, device: torch.device, notify: Notify, also: Path | None = None,
) -> Extractor:  # fmt: skip
    """Return the extractor that the options mean; trained ones are kept in ``folder``, and looked for in ``also`` too.

    Raises:
        ValueError: the options contradict one another, or there is no such thing.
    """
    named = [name for name, value in (
        ("--features", features), ("--inception-weights", inception_weights), ("--train-features", train_features)
    ) if value is not None]  # fmt: skip
    if features == "inception" and "--inception-weights" in named:
        named.remove("--features")
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} name two feature spaces: give one")
    if train_features:
        dataset = load_dataset(train_features, data_dir=data_dir, image_size=image_size, keep=False, notify=notify)
        return trained_features(dataset, folder, device, notify, also=also)
    if features == "pixels":
        return Pixels()
    if features not in (None, "inception"):
        return Program(Path(features), device)
    if named or (Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE).is_file():
        return Inception(inception_weights, device)
    raise ValueError(
        "no feature space: give --train-features NAME (a small classifier of that data set, a minute), "
        "--inception-weights FILE, or --features pixels"
    )


def open_training_set(
    run: str, *, split: str, data_dir: str | None, image_size: int | None, notify: Notify
) -> ImageSource:
    """Return a half of the data set that a run was trained on, at the size it was trained at unless told otherwise.

    Raises:
        ValueError: ``run`` is no run, or its data set is not here or has changed.
    """
    if not is_run(run):
        raise ValueError(f"{run} is no run folder, so say what it is held against: --against SET")
    plan = RunFolder.open(Path(run)).plan
    dataset = load_dataset(
        plan.dataset, data_dir=data_dir or plan.data_dir, image_size=image_size or plan.image_size,
        skip_broken=plan.skip_broken, keep=False, notify=notify,
    )  # fmt: skip
    if image_size in (None, plan.image_size):
        check_same_data(plan, dataset)
    return dataset_source(dataset, split)


class Projection:
    """The space that a run's discriminator has learned."""

    resize = "none"

    def __init__(self, run: RunFolder, device: torch.device, notify: Notify) -> None:
        if (build_objective(run.plan).discriminator_dim or 0) < 2:
            raise ValueError(f"{run.path}: {run.plan.objective} learns no space; use --space pixel or features")
        state = load_newest(run.checkpoints, notify)["players"]
        players = build_players(run.plan, device, state)
        assert players.discriminator is not None
        load_part("discriminator", players.discriminator, state)
        self.players, self.image_shape = players, run.plan.image_shape
        self.name = f"learned space of run {run.path.name}"
        self.digest = digest_of(players.discriminator.state_dict().values())

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"the {self.name} takes images {self.image_shape}, not {tuple(images.shape[1:])}")
        points = self.players.project(to_unit_range(images).to(next(self.players.generator.parameters()).device))
        assert points is not None
        return points.cpu()


def projection_of(texts: Iterable[str], device: torch.device, notify: Notify) -> Extractor:
    """Return the learned space of the first of ``texts`` that is a run.

    Raises:
        ValueError: none is, or it learns no space.
    """
    for text in texts:
        if is_run(text):
            return Projection(RunFolder.open(Path(text)), device, notify)
    raise ValueError("--space projection wants a run among the two, whose discriminator projects")
