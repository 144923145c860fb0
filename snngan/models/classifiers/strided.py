"""A classifier of strided convolutions, whose forward and backward passes are cheap: an encoder for other losses."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from snngan.config import check_options, option
from snngan.models import CLASSIFIERS, ImageShape
from snngan.models.layers import check_min_side


@CLASSIFIERS.register("strided")
@dataclass(frozen=True, kw_only=True)
class StridedCNN:
    """Convolutions with stride 2 on 2x2 blocks of pixels down to a side of 4, and one fully connected hidden layer.

    The number of filters doubles with each convolution.
    """

    width: int = option(32, "filters of the first convolution", low=1, high=4096)
    units: int = option(64, "units of the fully connected hidden layer", low=1, high=65536)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def hidden(self) -> tuple[str, ...]:
        return ("conv?", "fc")

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        check_min_side(image_shape, 4, "strided")
        channels, height, width = image_shape
        layers: dict[str, nn.Module] = {}
        if height % 2 or width % 2:
            layers["crop"] = nn.ZeroPad2d((0, -(width % 2), 0, -(height % 2)))
        layers["blocks"] = nn.PixelUnshuffle(2)
        channels, height, width, outputs, number = 4 * channels, height // 2, width // 2, self.width, 1
        while max(height, width) > 4 or number == 1:
            convolution = nn.Conv2d(channels, outputs, 3, stride=2, padding=1, bias=False)
            layers[f"conv{number}"] = nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
            channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
            outputs, number = 2 * outputs, number + 1
        linear = nn.Linear(channels * height * width, self.units, bias=False)
        layers["flat"] = nn.Flatten()
        layers["fc"] = nn.Sequential(linear, nn.BatchNorm1d(self.units), nn.ReLU())
        layers["logits"] = nn.Linear(self.units, num_classes)
        return nn.Sequential(OrderedDict(layers))
