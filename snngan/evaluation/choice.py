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
from snngan.evaluation.sources import digest_of, is_run
from snngan.training.checkpoint import load_newest
from snngan.training.players import build_players, load_part
from snngan.training.runlog import RunFolder


def choose_extractor(
    features: str | None, inception_weights: Path | None, train_features: str | None, data_dir: str | None,
    folder: Path, device: torch.device, notify: Notify,
) -> Extractor:  # fmt: skip
    """Return the extractor that the options mean; trained ones are kept in ``folder``.

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
        dataset = load_dataset(train_features, data_dir=data_dir, notify=notify)
        return trained_features(dataset, folder, device, notify)
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


def training_set(run: str, data_dir: str | None) -> tuple[str, str | None, int | None]:
    """Return the data set that a run was trained on, where it is kept, and the size its images were shrunk to.

    Raises:
        ValueError: ``run`` is no run.
    """
    if not is_run(run):
        raise ValueError(f"{run} is no run folder, so say what it is held against: --against SET")
    plan = RunFolder.open(Path(run)).plan
    size = plan.image_shape[1] if plan.dataset.startswith("folder:") else plan.image_size
    return plan.dataset, data_dir or plan.data_dir, size


class Projection:
    """The space that a run's discriminator has learned."""

    resize = "none"

    def __init__(self, run: RunFolder, device: torch.device, notify: Notify) -> None:
        players = build_players(run.plan, device)
        if players.discriminator is None or (players.objective.discriminator_dim or 0) < 2:
            raise ValueError(f"{run.path}: {run.plan.objective} learns no space; use --space pixel or features")
        load_part("discriminator", players.discriminator, load_newest(run.checkpoints, notify)["players"])
        self.players = players
        self.name = f"learned space of run {run.path.name}"
        self.digest = digest_of(players.discriminator.state_dict().values())

    def __call__(self, images: Tensor) -> Tensor:
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
