"""Data sets of images: the class that holds one, the registry of named ones, and the mapping of pixels to [-1, 1]."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from snngan.lazy import public_names
from snngan.registry import Registry

ImageShape = tuple[int, int, int]
"""(channels, height, width)."""
POINT_SHAPE = (1, 1, 2)
"""The image shape of data sets of 2-D points."""


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images with or without labels, split into a training and a held-out part.

    Args:
        name: the name given by the user, such as ``mnist`` or ``folder:pictures``.
        train_images: (N, C, H, W) uint8; for 2-D points (N, 1, 1, 2) float32 in [-1, 1].
        train_labels: (N,) int64 class numbers from 0, or None.
        test_images: the held-out images, in the same form.
        test_labels: their labels, or None.
        class_names: names of the classes in order of their numbers; empty where unknown.
        resize: how the images were resized while they were read: "none", or a method and a size.
        why_no_labels: why a folder that has class folders has no labels; empty otherwise.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None
    class_names: tuple[str, ...] = ()
    resize: str = "none"
    why_no_labels: str = ""

    @classmethod
    def hold_out(cls, name: str, images: Tensor, labels: Tensor | None) -> Dataset:
        """Return ``images`` (N, C, H, W) with every tenth held out, at most 2000, the same ones every time.

        Each class of ``labels`` (N,) is held out in proportion; classes of one image stay in training, except where
        every class has one image. Both parts are shuffled, so that their first images are of all classes.
        """
        count = len(images)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        by_class = order if labels is None else order[labels[order].argsort(stable=True)]
        step = min(count, max(10, math.ceil(count / 2000)))
        held_out = torch.zeros(count, dtype=torch.bool)
        held_out[by_class[step - 1 :: step]] = True
        if labels is not None:  # no class of two images or more loses all of them
            _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
            divisible = counts[index] > 1
            if divisible.any():
                held_out &= divisible
                if not held_out.any():
                    held_out[by_class[divisible[by_class]][-1]] = True
        train, test = order[~held_out[order]], order[held_out[order]]
        train_labels, test_labels = (None, None) if labels is None else (labels[train], labels[test])
        return cls(name, images[train], train_labels, images[test], test_labels)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.summary()}>"

    def summary(self) -> str:
        """Return the number of images or points, their shape and the number of classes, in words."""
        shape = "2-D points" if self.is_points else f"images of {'x'.join(map(str, self.image_shape))}"
        classes = f"{self.num_classes} classes" if self.num_classes else "no labels"
        return f"{len(self.train_images)} training and {len(self.test_images)} held-out {shape}, {classes}"

    @property
    def missing_labels(self) -> str:
        """The beginning of an error message for a command that needs labels."""
        return f"{self.name} has no labels" + (f" ({self.why_no_labels})" if self.why_no_labels else "")

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def is_points(self) -> bool:
        """Whether the data are 2-D points instead of images."""
        return self.train_images.is_floating_point()

    @property
    def num_classes(self) -> int:
        """The largest label plus 1, or 0 without labels."""
        known = [labels for labels in (self.train_labels, self.test_labels) if labels is not None and len(labels)]
        return max((int(labels.max()) + 1 for labels in known), default=0)

    @property
    def suits_classifier(self) -> bool:
        """Whether these are pictures of 4x4 pixels or more with labels of two classes or more."""
        labels = self.train_labels
        return (
            labels is not None
            and not self.is_points
            and min(self.image_shape[1:]) >= 4
            and 0 <= int(labels.min()) < int(labels.max()) < len(labels)  # a class number beyond the images is an error
        )

    def file_stem(self) -> str:
        """Return the beginning of the names of files that belong to these images and labels."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name.rpartition("/")[2].rpartition(":")[2])[-40:]
        return f"{name}-{self.labeled_digest()[:12]}"

    def digest(self) -> str:
        """Return a hash of all images, equal for equal images in equal order."""
        return self._digest

    def labeled_digest(self) -> str:
        """Return a hash of all images and labels."""
        state = hashlib.blake2b(self._digest.encode(), digest_size=16)
        for labels in (self.train_labels, self.test_labels):
            state.update(b"none" if labels is None else labels.contiguous().numpy().data)
        return state.hexdigest()

    @cached_property
    def _digest(self) -> str:
        state = hashlib.blake2b(digest_size=16)
        for images in (self.train_images, self.test_images):
            state.update(f"{images.dtype} {tuple(images.shape)}".encode())
            for chunk in torch.split(images, 4096):  # memory-mapped images may have to be copied
                state.update(chunk.contiguous().numpy().data)
        return state.hexdigest()


@dataclass(frozen=True)
class DatasetSource:
    """Where a named data set comes from if the data folder has no NAME.npz; a set is a subclass and its instance.

    Args:
        image_shape: (channels, height, width) of one image.
        num_classes: the number of classes.
        keep: whether the set is written to NAME.npz after it was read, and read from there the next time.
        remedy: how to get the set if it is missing: an option or a shell command.
    """

    image_shape: ImageShape
    num_classes: int
    keep: bool = True
    remedy: str = "--download"

    def find(self, data_dir: Path) -> str | None:
        """Describe where :meth:`read` would read from, without reading anything; None if the set is missing."""
        raise NotImplementedError

    def download(self, data_dir: Path) -> None:
        """Download the files of the set into ``data_dir``; any error means that this failed."""
        raise NotImplementedError

    def read(self, name: str, data_dir: Path) -> Dataset:
        """Return the set, which :meth:`find` has found, under ``name``; any error means that its files are damaged."""
        raise NotImplementedError


DATASETS: Registry[DatasetSource] = Registry("dataset", "snngan.data", DatasetSource)


def to_unit_range(images: Tensor) -> Tensor:
    """Map uint8 images (any shape) to float32 in [-1, 1]; floating-point images are returned unchanged."""
    return images if images.is_floating_point() else images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Map float images (any shape) in [-1, 1] to uint8, rounded and clamped; raises ``ValueError`` for NaN."""
    if images.isnan().any():
        raise ValueError("images must be numbers, got NaN: the network that generated them has diverged")
    return images.to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)


def error_line(error: Exception) -> str:
    """Return the message of another library's error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


__getattr__, __dir__ = public_names(
    __name__, {"": "DATASETS Dataset DatasetSource to_uint8 to_unit_range", "datasets": "list_datasets load_dataset"}
)
