"""What several architectures share: options, fully connected layers, normalizations by name, image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from snngan.config import check_options, option
from snngan.models import ImageShape

GENERATOR_NORMS = ("batch", "none")
DISCRIMINATOR_NORMS = ("none", "batch", "layer", "instance")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The options of every GAN architecture; a subclass may override a field to change its help or its choices."""

    latent_dim: int = option(64, "length of the generator's input vector", low=1, high=65536)
    generator_norm: str = option("batch", "normalization layers of the generator", choices=GENERATOR_NORMS)
    discriminator_norm: str = option(
        "none", "normalization layers of the discriminator, except in its first layer", choices=DISCRIMINATOR_NORMS
    )
    spectral_norm: bool = option(False, "spectral normalization of every weight layer of the discriminator")

    def __post_init__(self) -> None:
        check_options(self)


def fully_connected(sizes: Sequence[int]) -> dict[str, nn.Module]:
    """Return linear layers with ReLU that map vectors of ``sizes[0]`` to ``sizes[1]`` and so on: fc1, fc2, ..."""
    return {
        f"fc{number + 1}": nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
        for number, (inputs, outputs) in enumerate(pairwise(sizes))
    }


def norm_1d(name: str, width: int) -> nn.Module:
    """Return the normalization ``name`` of vectors (N, width): batch, layer or none."""
    if name == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if name == "layer" else nn.Identity()


def norm_2d(name: str, channels: int) -> nn.Module:
    """Return the normalization ``name`` of feature maps (N, channels, H, W): batch, layer, instance or none.

    Layer normalization computes its statistics over channels, height and width; scale and shift are per channel.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    return nn.InstanceNorm2d(channels, affine=True) if name == "instance" else nn.Identity()


def add_spectral_norm(network: nn.Module) -> None:
    """Divide the weight of every linear and convolution layer in ``network`` by its largest singular value, in place.

    The value is estimated by one power iteration per forward pass in training mode. Source: Miyato et al. 2018,
    "Spectral Normalization for Generative Adversarial Networks".
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)


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
