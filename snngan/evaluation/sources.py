"""What two sets of images may be: a run, a folder, an npz file or a data set, read a few images at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snngan.data import to_uint8
from snngan.data.datasets import Notify, load_dataset
from snngan.data.folder import folder_labels, image_paths, read_picture
from snngan.data.npz import read_images
from snngan.training.runlog import RunFolder
from snngan.training.sampling import CHUNK, draw, generator_of, sample_images


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order.

    Attributes:
        name: what it is, in words.
        count: how many images there are; None for a generator, which makes as many as are asked for.
        shape: (C, H, W).
        digest: equal for equal images.
        labels: (count,) int64, or None.
        read: returns the images of some places as uint8, or float32 points of the plane, (n, C, H, W).
        split: the half of a data set or npz file, "train" or "test".
        seed: of a generator's noise.
    """

    name: str
    count: int | None
    shape: tuple[int, int, int]
    digest: str
    labels: Tensor | None
    read: Callable[[range], Tensor]
    split: str | None = None
    seed: int | None = None

    def chunks(self, count: int) -> Iterator[Tensor]:
        """Yield the first ``count`` images, ``CHUNK`` at a time."""
        for start in range(0, count, CHUNK):
            yield self.read(range(start, min(start + CHUNK, count)))

    def first(self, count: int) -> Tensor:
        """Return the first ``count`` images (n, C, H, W), or all where there are fewer."""
        count = count if self.count is None else min(count, self.count)
        return torch.cat(list(self.chunks(count)))


def open_source(
    text: str,
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    notify: Notify = lambda line: None,
) -> ImageSource:
    """Return the images meant by ``text``: a run folder, a folder of images, an npz file or a data set's name.

    ``folder:PATH`` and ``npz:PATH`` are taken at their word. The order of files and data sets is a random one, drawn
    once and for all, so that the first thousand images are a fair sample of all.

    Args:
        text: what the user says.
        split: which half of a data set, or of an npz file that has halves.
        data_dir: where data sets are kept.
        image_size: height and width in pixels to shrink and centre-crop a folder's images or a data set to.
        seed: of the noise that a run's generator starts from.
        device: where a run's generator is put.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    kind, colon, place = text.partition(":")
    path = Path(place if colon and kind in ("folder", "npz") else text).expanduser()
    if not colon and is_run(path):
        return _run_source(path, seed, torch.device(device), notify)
    if kind == "folder" or (not colon and path.is_dir()):
        return _folder_source(path, image_size)
    if kind == "npz" or (not colon and path.suffix == ".npz"):
        images, labels, half = read_images(path, split)
        return _array_source(path.name, half, images, labels)
    try:
        dataset = load_dataset(text, data_dir=data_dir, image_size=image_size, notify=notify)
    except ValueError as error:
        if "/" in text:
            raise ValueError(f"{text} is no run folder, folder of images or npz file") from error
        raise
    images = getattr(dataset, f"{split}_images")
    return _array_source(f"{text} {split}", split, images, getattr(dataset, f"{split}_labels"))


def _array_source(name: str, split: str | None, images: Tensor, labels: Tensor | None) -> ImageSource:
    order = _order(len(images))
    images, labels = images[order], None if labels is None else labels[order]
    channels, height, width = images.shape[1:]
    shape = channels, height, width
    return ImageSource(
        name, len(images), shape, digest_of([images]), labels, lambda places: images[places.start : places.stop], split
    )


def _run_source(path: Path, seed: int, device: torch.device, notify: Notify) -> ImageSource:
    run = RunFolder.open(path)
    generator = generator_of(run, device, notify)

    def read(places: range) -> Tensor:
        images = sample_images(generator, draw(places.stop, run.latent_dim, seed)[places.start :])
        return images if run.plan.is_points else to_uint8(images)

    digest = digest_of(generator.state_dict().values(), f"seed {seed}")
    return ImageSource(f"run {path.name}", None, run.plan.image_shape, digest, None, read, seed=seed)


def _folder_source(folder: Path, image_size: int | None) -> ImageSource:
    paths = image_paths(folder)
    labels = folder_labels(folder, paths)
    order = _order(len(paths))
    paths = [paths[place] for place in order.tolist()]
    first = read_picture(paths[0], image_size)
    state = hashlib.blake2b(f"{image_size}".encode(), digest_size=16)
    for path in paths:
        stat = path.stat()
        state.update(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}".encode())

    def read(places: range) -> Tensor:
        pictures = [_as_rgb(read_picture(paths[place], image_size)) for place in places]
        for place, picture in zip(places, pictures, strict=True):
            if picture.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"{paths[place]} is {picture.shape[2]}x{picture.shape[1]}, {paths[0].name} "
                    f"{first.shape[2]}x{first.shape[1]}: give --image-size to shrink and crop all to one size"
                )
        return torch.from_numpy(np.stack(pictures))

    _, height, width = first.shape
    return ImageSource(
        f"folder {folder.name}", len(paths), (3, height, width), state.hexdigest(),
        None if labels is None else labels[order], read,
    )  # fmt: skip


def _as_rgb(
    picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return picture.repeat(3, 0) if len(picture) == 1 else picture


def is_run(path: str | Path) -> bool:
    """Return whether ``path`` is a run's folder."""
    return (Path(path) / "config.json").exists()


def same_channels(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of images (N, C, H, W), the grey one of them repeated over three channels."""
    channels = max(first.shape[1], second.shape[1])
    return first.expand(-1, channels, -1, -1), second.expand(-1, channels, -1, -1)


def digest_of(tensors: Iterable[Tensor], more: str = "") -> str:
    """Return a fingerprint of ``tensors`` in this order, and of ``more``."""
    state = hashlib.blake2b(more.encode(), digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().data)
    return state.hexdigest()


def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
