"""Residual classifiers: the network of Frosst et al. 2019 for CIFAR-10, and torchvision's ResNets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import check_options, option
from snngan.models import CLASSIFIERS, ImageShape
from snngan.models.layers import check_min_side

BLOCKS = (1, 2, 2, 2)
"""Blocks of each stage; with the first convolution and two per block, these are 15 layers."""


@CLASSIFIERS.register("resnet15")
@dataclass(frozen=True, kw_only=True)
class ResNet15:
    """A pre-activation ResNet (v2) of 15 convolutions, not counting shortcuts: a stem and four stages of blocks.

    The paper gives 15 layers and, in figure 16, four groups of blocks; the number of blocks per group is our choice.
    The blocks are those of He et al. 2016, "Identity Mappings in Deep Residual Networks".
    """

    width: int = option(16, "channels of the first stage", low=1, high=4096)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def hidden(self) -> tuple[str, ...]:
        return ("stem", *(f"stage{stage + 1}.{block}" for stage, count in enumerate(BLOCKS) for block in range(count)))

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        check_min_side(image_shape, 8, "resnet15")
        widths = [self.width * 2**stage for stage in range(len(BLOCKS))]
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Conv2d(image_shape[0], self.width, 3, padding=1, bias=False)
        )
        for stage, ((inputs, outputs), count) in enumerate(zip(pairwise([self.width, *widths]), BLOCKS, strict=True)):
            blocks = [PreactivationBlock(inputs, outputs, stride=2 if stage else 1)]
            blocks += [PreactivationBlock(outputs, outputs, stride=1) for _ in range(count - 1)]
            layers[f"stage{stage + 1}"] = nn.Sequential(*blocks)
        layers["head"] = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        layers["logits"] = nn.Linear(widths[-1], num_classes)
        return nn.Sequential(layers)


class PreactivationBlock(nn.Module):
    """Two convolutions and a shortcut, (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.project = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.first_norm(maps))
        shortcut = maps if self.project is None else self.project(active)
        out: Tensor = shortcut + self.second(F.relu(self.second_norm(self.first(active))))
        return out


@CLASSIFIERS.register("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18:
    """torchvision's ResNet, untrained; for images below 64 pixels its first layers are one 3x3 convolution."""

    depth: ClassVar[int] = 18

    @property
    def hidden(self) -> tuple[str, ...]:
        return ("relu", "layer?.?")

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        from torchvision import models

        check_min_side(image_shape, 8, f"resnet{self.depth}")
        network: nn.Module = getattr(models, f"resnet{self.depth}")(weights=None, num_classes=num_classes)
        if min(image_shape[1:]) < 64:
            network.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        elif image_shape[0] != 3:
            network.conv1 = nn.Conv2d(image_shape[0], 64, 7, stride=2, padding=3, bias=False)
        return network


@CLASSIFIERS.register("resnet34")
@dataclass(frozen=True, kw_only=True)
class ResNet34(ResNet18):
    """The same as resnet18 with 34 layers."""

    depth: ClassVar[int] = 34
