"""Data sets of images: the class that holds one, the registry of named ones, and the mapping of pixels to [-1, 1]."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

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

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.summary()}>"

    def summary(self) -> str:
        """Return the number of images or points, their shape and the number of classes, in words."""
        shape = "2-D points" if self.is_points else f"images of {'x'.join(map(str, self.image_shape))}"
        classes = f"{self.num_classes} classes" if self.num_classes else "no labels"
        return f"{len(self.train_images)} training and {len(self.test_images)} held-out {shape}, {classes}"

    @property
    def missing_labels(self) -> str:
        """The beginning of an error message for a command that needs labels: the name and, where known, the reason."""
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
            for start in range(0, len(images), 4096):  # in chunks, since memory-mapped images may have to be copied
                state.update(images[start : start + 4096].contiguous().numpy().data)
        return state.hexdigest()


class DatasetSource(Protocol):
    """The source of one named data set, used where the data folder has no NAME.npz."""

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width) of one image."""

    @property
    def num_classes(self) -> int:
        """The number of classes."""

    @property
    def keep(self) -> bool:
        """Whether the set is written to NAME.npz after it was loaded, and read from there the next time."""

    @property
    def remedy(self) -> str:
        """How to get a set that is missing: an option or a shell command."""

    def find(self, data_dir: Path) -> str | None:
        """Describe where :meth:`load` would read from, without loading anything; None if the set is missing."""

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Load the set, and download it first if it is missing and ``download`` is true.

        Raises:
            ValueError: the set is missing, could not be downloaded or cannot be read.
        """


DATASETS: Registry[DatasetSource] = Registry("dataset", "snngan.data")


def to_unit_range(images: Tensor) -> Tensor:
    """Map uint8 images (any shape) to float32 in [-1, 1]; floating-point images are returned unchanged."""
    if images.is_floating_point():
        return images
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Map float images (any shape) in [-1, 1] to uint8, rounded to the nearest level and clamped to 0..255.

    Raises:
        ValueError: a pixel is NaN.
    """
    if images.isnan().any():
        raise ValueError("images must be numbers, got NaN: the network that generated them has diverged")
    return images.to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)


def error_line(error: Exception) -> str:
    """Return the message of another library's error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


__getattr__, __dir__ = public_names(
    __name__, {"": "DATASETS Dataset DatasetSource to_uint8 to_unit_range", "datasets": "list_datasets load_dataset"}
)
