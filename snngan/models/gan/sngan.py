"""The residual architecture of Miyato et al. 2018 ("SNGAN") for CIFAR-10: pre-activation blocks.

All feature maps of both networks have ``width`` channels. The discriminator halves the image until its side is at most
8, and has two more blocks at that size. With spectral norm it sums over positions, as in the paper; without, it takes
the mean, as in Gulrajani et al. 2017: the sum would give a fresh network outputs above 10. The default of 64 channels
suits a CPU; the paper has 256 in the generator and 128 in the discriminator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import option
from snngan.models import ARCHITECTURES, ImageShape
from snngan.models.conditional import OneHotInput, sequential, with_output
from snngan.models.layers import NetworkOptions, add_spectral_norm, base_and_doublings, initialize, norm_2d


@ARCHITECTURES.register("sngan")
@dataclass(frozen=True, kw_only=True)
class SNGAN(NetworkOptions):
    """Residual blocks with up- and downsampling, for square images whose side is 4 or 7 times a power of 2."""

    width: int = option(64, "channels of every feature map", low=1, high=16384)

    def generator(self, image_shape: ImageShape, num_classes: int = 0) -> nn.Module:
        base, doublings = base_and_doublings(image_shape, "sngan")
        layers: list[nn.Module] = [OneHotInput(num_classes)] if num_classes and self.generator_norm == "none" else []
        layers += [
            nn.Linear(self.latent_dim + num_classes * len(layers), self.width * base * base),
            nn.Unflatten(1, (self.width, base, base)),
            *(up_block(self.width, self.generator_norm, num_classes) for _ in range(doublings)),
            norm_2d(self.generator_norm, self.width, num_classes),
            nn.ReLU(),
            nn.Conv2d(self.width, image_shape[0], 3, padding=1),
            nn.Tanh(),
        ]
        network = sequential(layers, num_classes)
        initialize(network, draw_weight)
        return network

    def discriminator(self, image_shape: ImageShape, output_dim: int, num_classes: int = 0) -> nn.Module:
        base_and_doublings(image_shape, "sngan")
        blocks: list[nn.Module] = [first_down_block(image_shape[0], self.width)]
        side = image_shape[1] // 2
        while side > 8:
            blocks.append(down_block(self.width, self.discriminator_norm, halve=True))
            side //= 2
        blocks += [down_block(self.width, self.discriminator_norm, halve=False) for _ in range(2)]
        norm = norm_2d(self.discriminator_norm, self.width)
        pool = GlobalPool(total=self.spectral_norm)
        network = with_output([*blocks, norm, nn.ReLU(), pool], self.width, output_dim, num_classes)
        initialize(network, draw_weight)
        return add_spectral_norm(network) if self.spectral_norm else network


class ResidualBlock(nn.Module):
    """The sum of a residual branch, which may take labels, and a shortcut, which is doubled in size if ``upsample``."""

    takes_labels = True

    def __init__(self, residual: nn.Module, shortcut: nn.Module, *, upsample: bool = False) -> None:
        super().__init__()
        self.residual, self.shortcut, self.upsample = residual, shortcut, upsample

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        residual: Tensor = self.residual(maps) if labels is None else self.residual(maps, labels)
        shortcut: Tensor = self.shortcut(maps)
        # Upsampling comes last and pooling first because that is cheaper: 1x1 convolutions commute with both.
        return residual + (F.interpolate(shortcut, scale_factor=2.0) if self.upsample else shortcut)


def residual_branch(width: int, norm: str, *before_convolution: nn.Module, num_classes: int = 0) -> list[nn.Module]:
    """Return two convolutions of feature maps (N, width, H, W), with normalization and ReLU before each."""
    return [
        norm_2d(norm, width, num_classes),
        nn.ReLU(),
        *before_convolution,
        nn.Conv2d(width, width, 3, padding=1, bias=norm == "none"),
        norm_2d(norm, width, num_classes),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
    ]


def up_block(width: int, norm: str, num_classes: int) -> ResidualBlock:
    """Return a block with nearest-neighbor upsampling, (N, width, H, W) -> (N, width, 2H, 2W)."""
    layers = residual_branch(width, norm, nn.Upsample(scale_factor=2), num_classes=num_classes)
    return ResidualBlock(sequential(layers, num_classes), nn.Conv2d(width, width, 1), upsample=True)


def down_block(width: int, norm: str, *, halve: bool) -> ResidualBlock:
    """Return a block (N, width, H, W) -> (N, width, H/2, W/2), or to the same shape without ``halve``."""
    residual = nn.Sequential(*residual_branch(width, norm), nn.AvgPool2d(2) if halve else nn.Identity())
    return ResidualBlock(residual, shortcut(width, width) if halve else nn.Identity())


def first_down_block(channels: int, width: int) -> ResidualBlock:
    """Return a block (N, channels, H, W) -> (N, width, H/2, W/2) without ReLU or normalization before it."""
    convolutions = nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    return ResidualBlock(nn.Sequential(*convolutions, nn.AvgPool2d(2)), shortcut(channels, width))


def shortcut(channels: int, width: int) -> nn.Module:
    """Return the mapping (N, channels, H, W) -> (N, width, H/2, W/2) of a shortcut."""
    return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, width, 1))


class GlobalPool(nn.Module):
    """The sum (``total``) or the mean over height and width, (N, width, H, W) -> (N, width)."""

    def __init__(self, *, total: bool) -> None:
        super().__init__()
        self.total = total

    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum(dim=(2, 3)) if self.total else maps.mean(dim=(2, 3))


def draw_weight(name: str, module: Any) -> None:
    """Draw the weight of a layer by the uniform rule of Glorot and Bengio 2010, in place.

    As in the paper, the gain is sqrt(2) for convolutions in the residual branch of a block and 1 for other layers.
    """
    nn.init.xavier_uniform_(module.weight, gain=math.sqrt(2.0) if "residual" in name else 1.0)
