"""Convolutional and fully connected classifiers of small images: those of Frosst et al. 2019 for the MNIST family."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from snngan.config import check_options, option
from snngan.models import CLASSIFIERS, ImageShape


@CLASSIFIERS.register("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN:
    """Two convolutions and three fully connected layers, the last of which gives the logits.

    Frosst et al. 2019 say no more of theirs than this; sizes, 3x3 filters and pooling are ours.
    """

    width: int = option(64, "filters of each convolution", low=1, high=4096)
    units: int = option(256, "units of each hidden fully connected layer", low=1, high=65536)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def convolutions(self) -> int:
        return 2

    @property
    def hidden(self) -> tuple[str, ...]:
        return (*(f"conv{number + 1}" for number in range(self.convolutions)), "fc1", "fc2")

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Return a module that maps images (N, *image_shape) to logits (N, num_classes).

        Raises:
            ValueError: the images are too small to be halved so often.
        """
        channels, height, width = image_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(self.convolutions):
            layers[f"conv{number + 1}"] = nn.Sequential(
                nn.Conv2d(channels, self.width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            )
            channels, height, width = self.width, height // 2, width // 2
        if height < 1 or width < 1:
            raise ValueError(
                f"images of {image_shape[1]}x{image_shape[2]} are too small for {self.convolutions} halvings: use the "
                "classifier feedforward"
            )
        layers["flat"] = nn.Flatten()
        inputs = channels * height * width
        for number in range(2):
            layers[f"fc{number + 1}"] = nn.Sequential(nn.Linear(inputs, self.units), nn.ReLU())
            inputs = self.units
        layers["logits"] = nn.Linear(inputs, num_classes)
        return nn.Sequential(layers)


@CLASSIFIERS.register("cnn-small")
@dataclass(frozen=True, kw_only=True)
class SmallCNN(CNN):
    """One convolution and three fully connected layers, as in figure 15 of Frosst et al. 2019."""

    @property
    def convolutions(self) -> int:
        return 1


@CLASSIFIERS.register("feedforward")
@dataclass(frozen=True, kw_only=True)
class Feedforward:
    """Fully connected layers of 500, 500 and 2000 units between the pixels and the logits, as pt-snnl has them."""

    widths: str = option("500-500-2000", "units of each hidden layer, with dashes between")

    def __post_init__(self) -> None:
        if not all(part.isdigit() and 0 < int(part) <= 65536 for part in self.widths.split("-")):
            raise ValueError(f"widths takes whole numbers from 1 to 65536 such as 500-500-2000, not {self.widths!r}")

    @property
    def hidden(self) -> tuple[str, ...]:
        return tuple(f"fc{number + 1}" for number in range(len(self.widths.split("-"))))

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Return a module that maps images (N, *image_shape) to logits (N, num_classes)."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
        inputs = math.prod(image_shape)
        for name, units in zip(self.hidden, map(int, self.widths.split("-")), strict=True):
            layers[name] = nn.Sequential(nn.Linear(inputs, units), nn.ReLU())
            inputs = units
        layers["logits"] = nn.Linear(inputs, num_classes)
        return nn.Sequential(layers)
