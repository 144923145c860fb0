"""The fully connected classifier of the implementation pt-snnl."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from snngan.config import option
from snngan.models import CLASSIFIERS, ImageShape
from snngan.models.layers import fully_connected


@CLASSIFIERS.register("feedforward")
@dataclass(frozen=True, kw_only=True)
class Feedforward:
    """Hidden layers of 500, 500 and 2000 units, unless other ``widths`` are given."""

    widths: str = option("500-500-2000", "units of each hidden layer, separated by dashes")

    def __post_init__(self) -> None:
        if not all(part.isdigit() and 0 < int(part) <= 65536 for part in self.widths.split("-")):
            raise ValueError(f"widths must be integers from 1 to 65536 such as 500-500-2000, got {self.widths!r}")

    @property
    def hidden(self) -> tuple[str, ...]:
        return tuple(f"fc{number + 1}" for number in range(len(self.widths.split("-"))))

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        sizes = [math.prod(image_shape), *map(int, self.widths.split("-"))]
        layers = {"flat": nn.Flatten(), **fully_connected(sizes), "logits": nn.Linear(sizes[-1], num_classes)}
        return nn.Sequential(OrderedDict(layers))
