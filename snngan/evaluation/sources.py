"""Images by name: a run, a folder, an npz file or a data set, read in chunks; or a tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snngan.config import TrainConfig
from snngan.data import DATASETS, POINT_SHAPE, Dataset, to_uint8
from snngan.data.datasets import Notify, data_folder, load_dataset, shrink_images
from snngan.data.folder import Split, find_splits, label_images, notify_left_out
from snngan.data.image_files import UnusableImageError, describe_resize, read_header, read_image
from snngan.data.npz import read_images, read_statistics
from snngan.files import check_local
from snngan.metrics.moments import Moments
from snngan.training.device import choose_device
from snngan.training.resolve import build_architecture, check_same_data
from snngan.training.run_folder import RunFolder, open_run
from snngan.training.sampling import CHUNK, build_ema_generator, draw_labels, draw_latents, sample_images

ImagesLike = str | os.PathLike[str] | Tensor
"""What the Python functions take for a set of images: a name or path as on the command line, or a tensor."""


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order.

    Attributes:
        name: what it is, in words.
        count: number of images; None for a generator, which makes as many as are asked for.
        shape: (C, H, W).
        digest: equal for equal images.
        read: returns the images of a range of indices as uint8, or 2-D points as float32, (n, C, H, W).
        labels: (count,) int64, or None.
        split: split of a data set, folder or npz file, "train" or "test".
        resize: what was done to the images while they were read, "none" or a method and a size.
        seed: seed of a generator's noise.
        step: step of the checkpoint that a generator comes from.
        training: (M, C, H, W) the training images of the data set whose held-out split this is; None for all others.
        class_names: names of the classes from 0 on; empty where unknown.
    """

    name: str
    count: int | None
    shape: tuple[int, int, int]
    digest: str
    read: Callable[[range], Tensor]
    labels: Tensor | None = None
    split: str | None = None
    resize: str = "none"
    seed: int | None = None
    step: int | None = None
    training: Tensor | None = None
    class_names: tuple[str, ...] = ()

    def chunks(self, count: int) -> Iterator[Tensor]:
        """Yield the first ``count`` images, ``CHUNK`` at a time."""
        for start in range(0, count, CHUNK):
            yield self.read(range(start, min(start + CHUNK, count)))

    def first(self, count: int) -> Tensor:
        """Return the first ``count`` images (n, C, H, W), or all where there are fewer."""
        return torch.cat(list(self.chunks(self.limit(count))))

    def limit(self, count: int, least: int = 0) -> int:
        """Return how many of ``count`` images there are; raises ``ValueError`` for fewer than ``least``."""
        number = count if self.count is None else min(count, self.count)
        if number < least:
            raise ValueError(f"{self.name} must hold {least} or more images, got {number}")
        return number

    def with_channels(self, channels: int) -> ImageSource:
        """Return the images with gray ones repeated over ``channels``."""
        if self.shape[0] != 1 or channels == 1:
            return self
        shape = channels, *self.shape[1:]
        training = None if self.training is None else self.training.expand(-1, channels, -1, -1)
        return replace(
            self, shape=shape, training=training, read=lambda rows: self.read(rows).expand(-1, channels, -1, -1)
        )


@dataclass(frozen=True)
class FidStatistics:
    """Mean and covariance of the features of a reference set, read from a file: they suffice for FID only."""

    name: str
    digest: str
    moments: Moments


@dataclass
class Reader:
    """How images are read.

    Attributes:
        split: "test" or "train", the split of a data set, or of a folder or npz file that has both.
        image_size: height and width in pixels to crop and shrink to; a run's images keep their size.
        data_dir: folder of data sets; default: the variable SNNGAN_DATA, else ``data``.
        device: "auto", "cuda" or "cpu": the device of networks.
        skip_broken: whether images of a folder that are unreadable or too small are left out, at the cost of reading
            each once.
        notify: called with each line worth telling the user.
        feature_folder: where classifiers for features, and features of reference sets, are kept; default: ``features``
            in the folder of data sets.
    """

    split: str = "test"
    image_size: int | None = None
    data_dir: str | Path | None = None
    device: str | torch.device = "auto"
    skip_broken: bool = False
    notify: Notify = lambda line: None
    feature_folder: Path = Path()

    def __post_init__(self) -> None:
        if self.feature_folder == Path():
            self.feature_folder = data_folder(self.data_dir) / "features"
        if self.split not in ("test", "train"):
            raise ValueError(f"split must be 'test' or 'train', got {self.split!r}")
        self.device = choose_device(str(self.device))

    def open(self, images: ImagesLike, seed: int = 0) -> ImageSource:
        """Return the images meant by a name, path or tensor: see :func:`open_source`."""
        if isinstance(images, Tensor):
            return array_source("tensor", _check_tensor(images.detach().cpu()), image_size=self.image_size)
        kind, path = _kind_of(images)
        if kind == "run":
            return _run_source(path, seed, torch.device(self.device), self.notify)
        if kind == "folder":
            return _folder_source(path, self)
        if kind == "npz":
            return array_source(path.name, *read_images(path, self.split), image_size=self.image_size)
        name = os.fspath(images)
        try:
            return dataset_source(self.load(name, self.image_size), self.split)
        except ValueError as error:
            if "/" in name:
                raise ValueError(f"{name} is not a run folder, folder of images or npz file") from error
            raise

    def load(self, name: str, image_size: int | None) -> Dataset:
        """Return the data set ``name``."""
        options: dict[str, Any] = {"skip_broken": self.skip_broken, "notify": self.notify}
        return load_dataset(name, data_dir=self.data_dir, image_size=image_size, **options)

    def load_training_set(self, run: RunFolder[TrainConfig]) -> Dataset:
        """Return the data set of a run's training, at its size unless told otherwise; it must not have changed."""
        config = run.config
        reader = replace(
            self, data_dir=self.data_dir or config.data_dir, skip_broken=self.skip_broken or config.skip_broken
        )
        dataset = reader.load(config.dataset, self.image_size or config.image_size)
        if self.image_size in (None, config.image_size):
            check_same_data(config, dataset)
        return dataset

    def load_labeled_set(self, images: ImagesLike, source: ImageSource) -> Dataset | None:
        """Return the labeled data set behind a source, for a run that of its training; None without one."""
        try:
            if (run := find_run(images)) is not None:
                return replace(self, image_size=None).load_training_set(run)
            if source.labels is None or isinstance(images, Tensor):
                return None
            kind, path = _kind_of(images)
            _, height, width = source.shape
            name = os.fspath(images) if kind == "dataset" else f"{kind}:{path}"
            return self.load(name, height if height == width else None)
        except ValueError:  # the data of a run that are gone, or images too few or not square for a data set
            return None


def open_source(images: ImagesLike, *, seed: int = 0, **options: Any) -> ImageSource:
    """Return the images meant by ``images``: a data set's name, a run folder, a folder of images or an npz file.

    ``folder:PATH`` and ``npz:PATH`` say which of these a path is. Files and data sets are read in one random order that
    is always the same, so that the first thousand images are a fair sample of all.

    Args:
        images: name or path; or a tensor (N, C, H, W) of uint8, or float in [-1, 1].
        seed: seed of the noise that a run's generator starts from.
        options: fields of :class:`Reader`.

    Raises:
        ValueError: there is nothing of this name, or it cannot be read.
    """
    return Reader(**options).open(images, seed)


def _kind_of(images: str | os.PathLike[str]) -> tuple[str, Path]:
    """Return whether a text names a data set, run, folder or npz file, and the path that it holds."""
    text = os.fspath(images)
    check_local(text)
    kind, colon, place = text.partition(":")
    if colon and kind in ("folder", "npz"):
        if not place:
            raise ValueError(f"{text} needs a path after the colon: {text}PATH")
        return kind, Path(os.path.expanduser(place))
    path = Path(os.path.expanduser(text))
    if text in DATASETS.names():
        return "dataset", path
    if (path / "config.json").exists():
        return "run", path
    return "folder" if path.is_dir() else "npz" if path.suffix == ".npz" else "dataset", path


def _check_tensor(images: Tensor) -> Tensor:
    """Return a tensor of images as they are kept in a data set."""
    if images.dim() != 4:
        raise ValueError(f"images must have the shape (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype == torch.uint8 or tuple(images.shape[1:]) == POINT_SHAPE:
        return images
    if not (images.is_floating_point() and len(images) and images.amin() >= -1 and images.amax() <= 1):
        raise ValueError("images must be uint8, or float in [-1, 1]")
    return to_uint8(images)


def dataset_source(dataset: Dataset, split: str) -> ImageSource:
    """Return the ``train`` or ``test`` split of a data set."""
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    source = array_source(f"{dataset.name} {split}", images, labels, split)
    training = dataset.train_images if split == "test" else None
    return replace(source, resize=dataset.resize, training=training, class_names=dataset.class_names)


def array_source(
    name: str, images: Tensor, labels: Tensor | None = None, split: str | None = None, image_size: int | None = None
) -> ImageSource:
    """Return images (N, C, H, W) in the random order that is always the same, shrunk to ``image_size`` if given."""
    resize = "none"
    if image_size is not None and images.shape[2:] != (image_size, image_size):
        images, resize = shrink_images(name, images, image_size), describe_resize(image_size)
    order = _random_order(len(images))
    images, labels = images[order], None if labels is None else labels[order]
    channels, height, width = images.shape[1:]

    def read(rows: range) -> Tensor:
        return images[rows.start : rows.stop]

    shape = channels, height, width
    return ImageSource(name, len(images), shape, digest_of([images]), read, labels, split, resize)


def _run_source(path: Path, seed: int, device: torch.device, notify: Notify) -> ImageSource:
    run = open_run(path, TrainConfig)
    generator, latent_dim = build_ema_generator(run, device, notify), build_architecture(run.config).latent_dim

    def read(rows: range) -> Tensor:
        labels = draw_labels(rows.stop, run.config.class_counts, seed)
        latents = draw_latents(rows.stop, latent_dim, seed)[rows.start :]
        images = sample_images(generator, latents, None if labels is None else labels[rows.start :])
        return images if run.config.is_points else to_uint8(images)

    digest = digest_of(generator.state_dict().values(), f"seed {seed}")
    step: int = generator.step  # type: ignore[assignment]
    return ImageSource(f"run {path.name}", None, run.config.image_shape, digest, read, seed=seed, step=step)


def _folder_source(folder: Path, reader: Reader) -> ImageSource:
    image_size, splits = reader.image_size, find_splits(folder, reader.notify)
    index = 1 if len(splits) == 2 and reader.split == "test" else 0
    if reader.skip_broken:
        splits[index] = _without_broken(splits[index], image_size, reader.notify)
    labels = label_images(splits)[1][index]
    order = _random_order(len(splits[index].paths))
    paths = [splits[index].paths[row] for row in order.tolist()]
    _, height, width = read_image(paths[0], image_size).shape
    headers = [read_header(each) for each in paths]
    channels = 1 if all(each is not None and each.is_gray for each in headers) else 3
    is_resized = image_size and any(each and {each.width, each.height} != {image_size} for each in headers)
    state = hashlib.blake2b(f"{image_size}".encode(), digest_size=16)
    for path in paths:
        stat = path.stat()
        state.update(os.fsencode(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"))

    def read(rows: range) -> Tensor:
        pictures = [read_image(paths[row], image_size) for row in rows]
        for row, picture in zip(rows, pictures, strict=True):
            if picture.shape[1:] != (height, width):
                raise ValueError(
                    f"{paths[row]} is {picture.shape[2]}x{picture.shape[1]}, {paths[0].name} {width}x{height}: "
                    "give --image-size to shrink and crop all to one size"
                )
        return torch.from_numpy(np.stack([each.repeat(channels // len(each), 0) for each in pictures]))

    return ImageSource(
        f"folder {folder.name}",
        len(paths),
        (channels, height, width),
        state.hexdigest(),
        read,
        None if labels is None else labels[order],
        reader.split if len(splits) == 2 else None,
        describe_resize(image_size) if image_size and is_resized else "none",
    )


def _without_broken(split: Split, image_size: int | None, notify: Notify) -> Split:
    """Return the split without the images that :func:`read_image` refuses."""
    kept, left_out = [], []
    for path in split.paths:
        try:
            read_image(path, image_size)
            kept.append(path)
        except UnusableImageError as error:
            left_out.append(f"{path} ({error.reason})")
    if left_out:
        notify_left_out(left_out, len(split.paths), notify)
    if not kept:
        raise ValueError(f"{split.root} holds 0 usable images; expected 1 or more")
    return Split(split.root, kept)


def find_run(images: ImagesLike) -> RunFolder[TrainConfig] | None:
    """Return the run whose folder ``images`` is, or None if it is not a run's folder."""
    if isinstance(images, Tensor) or not (path := Path(images) / "config.json").exists():
        return None
    return open_run(path.parent, TrainConfig)


def open_statistics(images: ImagesLike) -> FidStatistics | None:
    """Return the FID statistics (arrays ``mu`` and ``sigma``) in the npz file ``images``, or None if it has none."""
    if isinstance(images, Tensor):
        return None
    kind, path = _kind_of(images)
    found = read_statistics(path) if kind == "npz" else None
    if found is None:
        return None
    mean, covariance = (torch.from_numpy(array) for array in found)
    return FidStatistics(path.name, digest_of([mean, covariance]), Moments.from_covariance(mean, covariance))


def digest_of(tensors: Iterable[Tensor], more: str = "") -> str:
    """Return a fingerprint of ``tensors`` in this order, and of ``more``."""
    state = hashlib.blake2b(more.encode(), digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().data)
    return state.hexdigest()


def _random_order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
