"""Which feature space and which real images a user means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from snngan.data import DATASETS, Dataset, to_unit_range
from snngan.data.datasets import Notify, load_dataset
from snngan.data.npz import read_statistics
from snngan.evaluation.feature_classifier import is_trainable, trained_features
from snngan.evaluation.features import SPELLINGS, Extractor, Inception, Pixels, Program, fetch, published_weights
from snngan.evaluation.frechet import Moments
from snngan.evaluation.measure import FidStatistics
from snngan.evaluation.sources import ImageSource, digest_of, is_run, same_channels
from snngan.files import check_local
from snngan.training.checkpoint import load_newest
from snngan.training.plan import build_objective, check_same_data
from snngan.training.players import build_players, load_part
from snngan.training.run_folder import GanRun


def choose_extractor(
    features: str, folder: Path, *, also: Path | None = None, data_dir: str | None = None,
    image_size: int | None = None, skip_broken: bool = False, download: bool = False, device: torch.device,
    notify: Notify,
) -> Extractor:  # fmt: skip
    """Return the extractor that ``--features`` names.

    Args:
        features: one of ``SPELLINGS``.
        folder: where trained classifiers are kept.
        also: a second folder to look for them in.
        data_dir: where the data set of ``classifier:NAME`` is.
        image_size: the size its images are brought to.
        skip_broken: whether its unreadable pictures are left out.
        download: whether missing Inception weights are fetched into the folder of torch's hub.
        device: where the network is put.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: there is no such thing, or it cannot be used.
    """
    check_local(features)
    kind, colon, place = features.partition(":")
    if colon and not place:
        raise ValueError(f"--features must be {SPELLINGS}, got {features!r}")
    if download and features != "inception":
        raise ValueError(f"--download fetches Inception weights: give --features inception, got {features}")
    if kind == "classifier" and colon:
        dataset = load_dataset(
            place, data_dir=data_dir, image_size=image_size, skip_broken=skip_broken, keep=False, notify=notify
        )
        return trained_features(dataset, folder, device, notify, also=also)
    if features == "pixels":
        return Pixels()
    if kind == "inception" and colon:
        return Inception(Path(place).expanduser(), device)
    if features == "inception":
        if download and not published_weights().is_file():
            from pytorch_fid.inception import FID_WEIGHTS_URL

            notify(f"fetching {FID_WEIGHTS_URL} as {published_weights()}")
            fetch(FID_WEIGHTS_URL, published_weights())
        return Inception(None, device)
    return Program(Path(features), device)


def default_extractor(
    fake: ImageSource, real: ImageSource, dataset: Dataset | None, folder: Path, *, also: Path | None = None,
    device: torch.device, notify: Notify,
) -> Extractor:  # fmt: skip
    """Return a small classifier of ``dataset`` where one can be trained and takes the images, else the pixels."""
    shapes = {side.shape for side in same_channels(fake, real)}
    if dataset is None or shapes != {dataset.image_shape} or not is_trainable(dataset):
        return Pixels()
    return trained_features(dataset, folder, device, notify, also=also)


def labeled_set(
    text: str, source: ImageSource, *, data_dir: str | None, skip_broken: bool, notify: Notify
) -> Dataset | None:
    """Return the labeled data set behind a source, of a run the one that it was trained on, or None without one."""
    try:
        if is_run(text):
            return load_training_set(text, data_dir=data_dir, image_size=None, skip_broken=skip_broken, notify=notify)
        if source.labels is None:
            return None
        if text not in DATASETS.names() and not text.startswith(("folder:", "npz:")):
            text = f"{'folder' if Path(text).expanduser().is_dir() else 'npz'}:{text}"
        _, height, width = source.shape
        size = height if height == width else None
        return load_dataset(
            text, data_dir=data_dir, image_size=size, skip_broken=skip_broken, keep=False, notify=notify
        )
    except ValueError:  # a run's data that are not here any more, or images too few or not square for a data set
        return None


def load_training_set(
    run: str, *, data_dir: str | None, image_size: int | None, skip_broken: bool = False, notify: Notify
) -> Dataset:
    """Return the data set that a run was trained on, at the size it was trained at unless told otherwise.

    Raises:
        ValueError: ``run`` is no run, or its data set is not here or has changed.
    """
    if not is_run(run):
        raise ValueError(
            f"{run} is not a run folder, which knows its data set: name the real images by --reference SET"
        )
    plan = GanRun.open(Path(run)).plan
    dataset = load_dataset(
        plan.dataset, data_dir=data_dir or plan.data_dir, image_size=image_size or plan.image_size,
        skip_broken=skip_broken or plan.skip_broken, keep=False, notify=notify,
    )  # fmt: skip
    if image_size in (None, plan.image_size):
        check_same_data(plan, dataset)
    return dataset


def open_statistics(text: str) -> FidStatistics | None:
    """Return the FID statistics (arrays ``mu`` and ``sigma``) in the npz file that ``text`` names; None: it has none.

    Raises:
        ValueError: the file is missing or damaged.
    """
    check_local(text)
    path = Path(text.removeprefix("npz:")).expanduser()
    if text in DATASETS.names() or is_run(text) or path.is_dir() or path.suffix != ".npz":
        return None
    found = read_statistics(path)
    if found is None:
        return None
    mean, covariance = (torch.from_numpy(array) for array in found)
    return FidStatistics(path.name, digest_of([mean, covariance]), Moments.from_covariance(mean, covariance))


class Projection:
    """The space that a run's discriminator has learned."""

    resize = "none"

    def __init__(self, run: GanRun, device: torch.device, notify: Notify) -> None:
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
            return Projection(GanRun.open(Path(text)), device, notify)
    raise ValueError("--space projection wants a run among the two, whose discriminator projects")
