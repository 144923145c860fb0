"""What two sets of images may be: a run, a folder, an npz file or a data set, read a few images at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from snngan.data import DATASETS, POINT_SHAPE, Dataset, to_uint8
from snngan.data.datasets import Notify, load_dataset, shrink_images
from snngan.data.folder import notify_left_out
from snngan.data.folder_layout import Split, find_splits, label_images
from snngan.data.image_files import UnusableImageError, describe_resize, read_header, read_image
from snngan.data.npz import read_images
from snngan.files import check_local
from snngan.training.run_folder import GanRun
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
        split: the half of a data set, folder or npz file, "train" or "test".
        seed: of a generator's noise.
        resize: what was done to the images while they were read, "none" or a method and a size.
        step: of the checkpoint that a generator comes from.
    """

    name: str
    count: int | None
    shape: tuple[int, int, int]
    digest: str
    labels: Tensor | None
    read: Callable[[range], Tensor]
    split: str | None = None
    seed: int | None = None
    resize: str = "none"
    step: int | None = None

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
    keep: bool = True,
    skip_broken: bool = False,
    notify: Notify = lambda line: None,
) -> ImageSource:
    """Return the images meant by ``text``: a data set's name, a run folder, a folder of images or an npz file.

    ``folder:PATH`` and ``npz:PATH`` are taken at their word. The order of files and data sets is a random one, drawn
    once and for all, so that the first thousand images are a fair sample of all.

    Args:
        text: what the user says.
        split: which half of a data set, or of a folder or npz file that has halves.
        data_dir: where data sets are kept.
        image_size: height and width in pixels to crop and shrink to, but for a run's images.
        seed: of the noise that a run's generator starts from.
        device: where a run's generator is put.
        keep: whether a data set that was built may be written into ``data_dir`` for the next time.
        skip_broken: whether images of a folder that are unreadable or too small are left out, not an error; each is
            read once to know.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    check_local(text)
    kind, colon, place = text.partition(":")
    told = bool(colon) and kind in ("folder", "npz")
    path = Path(os.path.expanduser(place if told else text))
    known = text in DATASETS.names()
    if told and not place:
        raise ValueError(f"{text} needs a path after the colon: {kind}:PATH")
    if not known and not told and is_run(path):
        return _run_source(path, seed, torch.device(device), notify)
    if not known and (kind == "folder" if told else path.is_dir()):
        return _folder_source(path, split, image_size, skip_broken, notify)
    if not known and (kind == "npz" if told else path.suffix == ".npz"):
        images, labels, half = read_images(path, split)
        resize = "none"
        if image_size is not None and images.shape[2:] != (image_size, image_size):
            images, resize = shrink_images(path.name, images, image_size), describe_resize(image_size)
        return _array_source(path.name, half, images, labels, resize)
    try:
        dataset = load_dataset(text, data_dir=data_dir, image_size=image_size, keep=keep, notify=notify)
        return dataset_source(dataset, split)
    except ValueError as error:
        if "/" in text:
            raise ValueError(f"{text} is no run folder, folder of images or npz file") from error
        raise


def dataset_source(dataset: Dataset, split: str) -> ImageSource:
    """Return the ``train`` or ``test`` half of a data set."""
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    return _array_source(f"{dataset.name} {split}", split, images, labels, dataset.resize)


def _array_source(
    name: str, split: str | None, images: Tensor, labels: Tensor | None, resize: str = "none"
) -> ImageSource:
    order = _order(len(images))
    images, labels = images[order], None if labels is None else labels[order]
    channels, height, width = images.shape[1:]
    shape = channels, height, width
    return ImageSource(
        name, len(images), shape, digest_of([images]), labels, lambda places: images[places.start : places.stop], split,
        resize=resize,
    )  # fmt: skip


def _run_source(path: Path, seed: int, device: torch.device, notify: Notify) -> ImageSource:
    run = GanRun.open(path)
    generator = generator_of(run, device, notify)

    def read(places: range) -> Tensor:
        images = sample_images(generator, draw(places.stop, run.latent_dim, seed)[places.start :])
        return images if run.plan.is_points else to_uint8(images)

    digest = digest_of(generator.state_dict().values(), f"seed {seed}")
    step: int = generator.step  # type: ignore[assignment]
    return ImageSource(f"run {path.name}", None, run.plan.image_shape, digest, None, read, seed=seed, step=step)


def _folder_source(folder: Path, split: str, image_size: int | None, skip_broken: bool, notify: Notify) -> ImageSource:
    halves = find_splits(folder, notify)
    place = 1 if len(halves) == 2 and split == "test" else 0
    if skip_broken:
        halves[place] = _usable(halves[place], image_size, notify)
    half, labels = halves[place], label_images(halves)[1][place]
    order = _order(len(half.paths))
    paths = [half.paths[place] for place in order.tolist()]
    first = read_image(paths[0], image_size)
    headers = [read_header(each) for each in paths]
    channels = 1 if all(each is not None and each.is_gray for each in headers) else 3
    resize = "none"
    if image_size is not None and any(each and {each.width, each.height} != {image_size} for each in headers):
        resize = describe_resize(image_size)
    state = hashlib.blake2b(f"{image_size}".encode(), digest_size=16)
    for path in paths:
        stat = path.stat()
        state.update(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogateescape"))

    def read(places: range) -> Tensor:
        pictures = [read_image(paths[place], image_size) for place in places]
        for place, picture in zip(places, pictures, strict=True):
            if picture.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"{paths[place]} is {picture.shape[2]}x{picture.shape[1]}, {paths[0].name} "
                    f"{first.shape[2]}x{first.shape[1]}: give --image-size to shrink and crop all to one size"
                )
        return torch.from_numpy(np.stack([each.repeat(channels // len(each), 0) for each in pictures]))

    _, height, width = first.shape
    return ImageSource(
        f"folder {folder.name}", len(paths), (channels, height, width), state.hexdigest(),
        None if labels is None else labels[order], read, split if len(halves) == 2 else None,
        resize=resize,
    )  # fmt: skip


def _usable(half: Split, image_size: int | None, notify: Notify) -> Split:
    """Return the half without the images that :func:`read_image` refuses."""
    kept, left_out = [], []
    for path in half.paths:
        try:
            read_image(path, image_size)
            kept.append(path)
        except UnusableImageError as error:
            left_out.append(f"{path} ({error.reason})")
    if left_out:
        notify_left_out(left_out, len(half.paths), notify)
    if not kept:
        raise ValueError(f"{half.root} holds 0 usable images; expected 1 or more")
    return Split(half.root, kept)


def is_run(path: str | Path) -> bool:
    """Return whether ``path`` is a run's folder."""
    return (Path(path) / "config.json").exists()


def same_channels(first: ImageSource, second: ImageSource) -> tuple[ImageSource, ImageSource]:
    """Return two sets of images, the gray one of a gray and a colored one repeated over three channels."""
    channels = max(first.shape[0], second.shape[0])

    def widened(source: ImageSource) -> ImageSource:
        if source.shape[0] != 1 or channels == 1:
            return source
        shape = channels, *source.shape[1:]
        return replace(source, shape=shape, read=lambda places: source.read(places).expand(-1, channels, -1, -1))

    return widened(first), widened(second)


def refuse_shapes(first: ImageSource, second: ImageSource, extractor: str) -> NoReturn:
    """Raise the ``ValueError`` for two sets of images that have no feature space in common."""
    points = [side.shape == POINT_SHAPE for side in (first, second)]
    if points[0] != points[1]:
        two_d, pictures = (first, second) if points[0] else (second, first)
        raise ValueError(f"{two_d.name} holds 2-D points and {pictures.name} images, which cannot be compared")
    raise ValueError(
        f"{first.name} has images {first.shape}, {second.name} {second.shape}, which do not meet in {extractor}: give "
        "--image-size, or --features inception"
    )


def digest_of(tensors: Iterable[Tensor], more: str = "") -> str:
    """Return a fingerprint of ``tensors`` in this order, and of ``more``."""
    state = hashlib.blake2b(more.encode(), digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().data)
    return state.hexdigest()


def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
