"""What several architectures share: options, layers, normalizations by name, initialization, image sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from snngan.config import check_options, option
from snngan.models import ImageShape
from snngan.models.conditional import ConditionalBatchNorm2d


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The options of every GAN architecture; a subclass may override a field to change its help or its choices."""

    latent_dim: int = option(64, "length of the generator's input vector", low=1, high=65536)
    generator_norm: str = option("batch", "normalization layers of the generator", choices=("batch", "none"))
    discriminator_norm: str = option(
        "none",
        "normalization layers of the discriminator, except in its first layer",
        choices=("none", "batch", "layer", "instance"),
    )
    spectral_norm: bool = option(False, "spectral normalization of every weight layer of the discriminator")

    def __post_init__(self) -> None:
        check_options(self)


def fully_connected(sizes: Sequence[int]) -> dict[str, nn.Module]:
    """Return linear layers with ReLU that map vectors of ``sizes[0]`` to ``sizes[1]`` and so on: fc1, fc2, ..."""
    return {
        f"fc{number}": nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
        for number, (inputs, outputs) in enumerate(pairwise(sizes), 1)
    }


def norm_1d(name: str, width: int) -> nn.Module:
    """Return the normalization ``name`` of vectors (N, width): batch, layer or none."""
    if name == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if name == "layer" else nn.Identity()


def norm_2d(name: str, channels: int, num_classes: int = 0) -> nn.Module:
    """Return the normalization ``name`` of feature maps (N, channels, H, W): batch, layer, instance or none.

    With ``num_classes`` batch normalization takes labels. Layer normalization computes its statistics over channels,
    height and width; scale and shift are per channel.
    """
    if name == "batch":
        return ConditionalBatchNorm2d(channels, num_classes) if num_classes else nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    return nn.InstanceNorm2d(channels, affine=True) if name == "instance" else nn.Identity()


class Smooth(nn.Module):
    """Averages images (N, C, H, W) with the weights 1, 2, 1 along height and width; borders are repeated."""

    def forward(self, images: Tensor) -> Tensor:
        # Sums of shifted images: a convolution of single channels takes several times as long on a CPU.
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        rows = 0.5 * padded[:, :, 1:-1] + 0.25 * (padded[:, :, :-2] + padded[:, :, 2:])
        return 0.5 * rows[..., 1:-1] + 0.25 * (rows[..., :-2] + rows[..., 2:])


def initialize(network: nn.Module, draw_weight: Callable[[str, Any], object]) -> None:
    """Call ``draw_weight`` with name and module of every linear and convolution layer, and set their biases to 0."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            draw_weight(name, module)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def add_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide the weight of every linear, convolution and embedding layer by its largest singular value, in place.

    Returns ``network``. The value is estimated by one power iteration per forward pass in training mode. Source:
    Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks".
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            spectral_norm(module)
    return network


def base_and_doublings(image_shape: ImageShape, architecture: str) -> tuple[int, int]:
    """Return (base, doublings) with height = width = base * 2**doublings, base 4 or 7 and doublings at least 1.

    Raises:
        ValueError: the image is not square, or its side cannot be written like that.
    """
    _, height, width = image_shape
    for base in (4, 7):
        doublings = (height // base).bit_length() - 1
        if height == width and doublings >= 1 and base * 2**doublings == height:
            return base, doublings
    raise ValueError(
        f"images of {architecture} must be squares of 8, 14, 16, 28, 32, 56, 64, ... pixels (4 or 7 times a power of "
        f"2), got {height}x{width}: choose another image size, or the architecture mlp, which takes any"
    )


def check_min_side(image_shape: ImageShape, least: int, classifier: str) -> None:
    """Raise ``ValueError`` unless height and width are ``least`` or more."""
    if min(image_shape[1:]) < least:
        size = f"{image_shape[1]}x{image_shape[2]}"
        raise ValueError(f"images of {classifier} must be {least}x{least} or larger, got {size}: use feedforward")
