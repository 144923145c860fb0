"""The residual architecture of Miyato et al. 2018 ("SNGAN"), after its CIFAR-10 networks: pre-activation blocks.

Every map of both networks has ``width`` channels. The discriminator halves the image until it is at most 8 across, then
has two blocks at that size. With spectral norm it sums over positions, as in the paper; without, it averages, as do
Gulrajani et al. 2017: the outputs of an unbounded network would otherwise start in the tens. The default of 64 channels
suits a CPU; the field's standard is 256 in the generator and 128 in the discriminator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from snngan.config import option
from snngan.models import ARCHITECTURES, ImageShape
from snngan.models.layers import NetworkOptions, base_and_doublings, map_norm, normalize_spectrum


@ARCHITECTURES.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNet(NetworkOptions):
    """Residual up blocks against residual down blocks, for square images whose side is 4 or 7 times a power of 2."""

    width: int = option(64, "channels of every map", low=1, high=16384)

    def generator(self, image_shape: ImageShape) -> nn.Module:
        """Return a module that maps latents (N, latent_dim) to images (N, *image_shape) in [-1, 1].

        Raises:
            ValueError: the image is not square, or its side is not 4 or 7 times a power of 2.
        """
        base, doublings = base_and_doublings(image_shape, "resnet")
        network = nn.Sequential(
            nn.Linear(self.latent_dim, self.width * base * base),
            nn.Unflatten(1, (self.width, base, base)),
            *(UpBlock(self.width, self.generator_norm) for _ in range(doublings)),
            map_norm(self.generator_norm, self.width),
            nn.ReLU(),
            nn.Conv2d(self.width, image_shape[0], 3, padding=1),
            nn.Tanh(),
        )
        initialize(network)
        return network

    def discriminator(self, image_shape: ImageShape, output_dim: int) -> nn.Module:
        """Return a module that maps images (N, *image_shape) to (N, output_dim).

        Raises:
            ValueError: the image is not square, or its side is not 4 or 7 times a power of 2.
        """
        base_and_doublings(image_shape, "resnet")
        blocks: list[nn.Module] = [FirstDownBlock(image_shape[0], self.width)]
        side = image_shape[1] // 2
        while side > 8:
            blocks.append(DownBlock(self.width, self.discriminator_norm, halve=True))
            side //= 2
        blocks += [DownBlock(self.width, self.discriminator_norm, halve=False) for _ in range(2)]
        norm = map_norm(self.discriminator_norm, self.width)
        pool = GlobalPool(total=self.spectral_norm)
        network = nn.Sequential(*blocks, norm, nn.ReLU(), pool, nn.Linear(self.width, output_dim))
        initialize(network)
        if self.spectral_norm:
            normalize_spectrum(network)
        return network


class UpBlock(nn.Module):
    """Maps (N, width, H, W) to (N, width, 2H, 2W) by nearest-neighbor doubling."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            map_norm(norm, width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1, bias=norm == "none"),
            map_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the residual plus the 1x1 shortcut, convolved before it is doubled (equal, and cheaper)."""
        residual: Tensor = self.residual(maps)
        return residual + functional.interpolate(self.shortcut(maps), scale_factor=2.0)


class DownBlock(nn.Module):
    """Maps (N, width, H, W) to (N, width, H/2, W/2), or to its own shape without ``halve``."""

    def __init__(self, width: int, norm: str, *, halve: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            map_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=norm == "none"),
            map_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.AvgPool2d(2) if halve else nn.Identity(),
        )
        # Pooling comes first because it is cheaper: a 1x1 convolution and a mean over positions commute.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, width, 1)) if halve else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the residual plus the shortcut."""
        residual: Tensor = self.residual(maps)
        shortcut: Tensor = self.shortcut(maps)
        return residual + shortcut


class FirstDownBlock(nn.Module):
    """Maps images (N, channels, H, W) to (N, width, H/2, W/2); pixels meet a convolution before any ReLU or norm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, width, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the residual plus the shortcut."""
        residual: Tensor = self.residual(images)
        shortcut: Tensor = self.shortcut(images)
        return residual + shortcut


class GlobalPool(nn.Module):
    """Maps (N, width, H, W) to (N, width)."""

    def __init__(self, *, total: bool) -> None:
        super().__init__()
        self.total = total

    def forward(self, maps: Tensor) -> Tensor:
        """Return the sum (``total``) or the mean over height and width."""
        return maps.sum(dim=(2, 3)) if self.total else maps.mean(dim=(2, 3))


def initialize(network: nn.Module) -> None:
    """Draw every weight by Glorot's uniform rule and set every bias to 0, in place.

    As in the paper's networks, convolutions inside residuals get a gain of sqrt(2) and all else a gain of 1.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain=math.sqrt(2.0) if "residual" in name else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
