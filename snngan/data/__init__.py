"""Images in: what a data set is, where the known ones are registered, and how pixels map to [-1, 1] and back."""

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
    """Images and, where there are any, their labels: a training half and a held-out half.

    Args:
        name: as it was asked for, such as ``mnist`` or ``folder:pictures``.
        train_images: (N, C, H, W) uint8; for 2-D points (N, 1, 1, 2) float32 in [-1, 1].
        train_labels: (N,) int64, or None.
        test_images: the held-out half, in the same form.
        test_labels: its labels, or None.
        class_names: what the labels from 0 on are called, where that is known.
        resize: what was done to the images while they were read, "none" or a method and a size.
        why_no_labels: the reason, where a folder has class folders but no labels.
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
        """Return how many images or points there are, of which shape and how many classes, in words."""
        shape = "2-D points" if self.is_points else f"images of {'x'.join(map(str, self.image_shape))}"
        classes = f"{self.num_classes} classes" if self.num_classes else "no labels"
        return f"{len(self.train_images)} training and {len(self.test_images)} held-out {shape}, {classes}"

    @property
    def missing_labels(self) -> str:
        """What to say where labels are needed and there are none: which set it is and, where it is known, why."""
        return f"{self.name} has no labels" + (f" ({self.why_no_labels})" if self.why_no_labels else "")

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def is_points(self) -> bool:
        """Whether these are points of the plane, not pictures."""
        return self.train_images.is_floating_point()

    @property
    def num_classes(self) -> int:
        """How many classes the labels count, from 0 on; 0 where there are none."""
        known = [labels for labels in (self.train_labels, self.test_labels) if labels is not None and len(labels)]
        return max((int(labels.max()) + 1 for labels in known), default=0)

    def digest(self) -> str:
        """Return a fingerprint of the images of both halves: equal for equal images in equal order."""
        return self._digest

    def labeled_digest(self) -> str:
        """Return a fingerprint of the images and labels of both halves."""
        state = hashlib.blake2b(self._digest.encode(), digest_size=16)
        for labels in (self.train_labels, self.test_labels):
            state.update(b"none" if labels is None else labels.contiguous().numpy().data)
        return state.hexdigest()

    @cached_property
    def _digest(self) -> str:
        state = hashlib.blake2b(digest_size=16)
        for images in (self.train_images, self.test_images):
            state.update(f"{images.dtype} {tuple(images.shape)}".encode())
            for start in range(0, len(images), 4096):  # images left in their file may lie there in another order
                state.update(images[start : start + 4096].contiguous().numpy().data)
        return state.hexdigest()


class DatasetSource(Protocol):
    """Where one named data set comes from, when no NAME.npz in the data folder holds it yet."""

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width) of one image."""

    @property
    def num_classes(self) -> int:
        """How many labels there are."""

    @property
    def keep(self) -> bool:
        """Whether NAME.npz is looked for first, and written once the set was loaded from elsewhere."""

    @property
    def remedy(self) -> str:
        """What fetches the set where it is not here, in a few words."""

    def find(self, data_dir: Path) -> str | None:
        """Return in words where :meth:`load` would read, without loading anything; None: the set is not here."""

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Return the set, fetched first where it is not here and ``download`` is true.

        Raises:
            ValueError: it is not here, could not be fetched or cannot be read.
        """


DATASETS: Registry[DatasetSource] = Registry("dataset", "snngan.data")


def to_unit_range(images: Tensor) -> Tensor:
    """Return uint8 images (any shape) as float32 in [-1, 1]; floating-point images pass through unchanged."""
    if images.is_floating_point():
        return images
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Return float images (any shape) in [-1, 1] as uint8, rounded to the nearest level, clamped to 0..255.

    Raises:
        ValueError: a pixel is NaN, which no color stands for.
    """
    if images.isnan().any():
        raise ValueError("these images hold NaN, which has no color: the network that made them has diverged")
    return images.to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)


def error_line(error: Exception) -> str:
    """Return what another library's error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


__getattr__, __dir__ = public_names(
    __name__,
    {
        "DATASETS": "",
        "Dataset": "",
        "DatasetSource": "",
        "list_datasets": "datasets",
        "load_dataset": "datasets",
        "to_uint8": "",
        "to_unit_range": "",
    },
)
