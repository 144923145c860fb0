"""Convolutional classifiers of small images: those of Frosst et al. 2019 for MNIST and FashionMNIST."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from snngan.config import check_options, option
from snngan.models import CLASSIFIERS, ImageShape
from snngan.models.layers import check_min_side, fully_connected


@CLASSIFIERS.register("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN:
    """Two convolutions and three fully connected layers, the last of which returns the logits.

    The paper gives only these numbers of layers; layer sizes, 3x3 filters and pooling are our choice.
    """

    width: int = option(64, "filters of each convolution", low=1, high=4096)
    units: int = option(256, "units of each hidden fully connected layer", low=1, high=65536)
    convolutions: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def hidden(self) -> tuple[str, ...]:
        return (*(f"conv{number + 1}" for number in range(self.convolutions)), "fc1", "fc2")

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        check_min_side(image_shape, 2**self.convolutions, "the CNN")
        channels, height, width = image_shape
        layers: dict[str, nn.Module] = {}
        for name in self.hidden[:-2]:
            layers[name] = nn.Sequential(nn.Conv2d(channels, self.width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            channels, height, width = self.width, height // 2, width // 2
        layers["flat"] = nn.Flatten()
        layers |= fully_connected([channels * height * width, self.units, self.units])
        layers["logits"] = nn.Linear(self.units, num_classes)
        return nn.Sequential(OrderedDict(layers))


@CLASSIFIERS.register("cnn-small")
@dataclass(frozen=True, kw_only=True)
class SmallCNN(CNN):
    """One convolution and three fully connected layers, as in figure 15 of Frosst et al. 2019."""

    convolutions: ClassVar[int] = 1
