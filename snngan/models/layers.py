"""What more than one architecture uses: common options, normalization by name, spectral norm, the sizes they reach."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from snngan.config import check_options, option
from snngan.models import ImageShape

GENERATOR_NORMS = ("batch", "none")
DISCRIMINATOR_NORMS = ("none", "batch", "layer", "instance")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The options of every architecture; one may override a field to say or allow something else."""

    latent_dim: int = option(64, "length of the generator's input vector", low=1, high=65536)
    generator_norm: str = option("batch", "normalization in the generator", choices=GENERATOR_NORMS)
    discriminator_norm: str = option(
        "none", "normalization in the discriminator, but for its first layer", choices=DISCRIMINATOR_NORMS
    )
    spectral_norm: bool = option(False, "spectral norm on every weight layer of the discriminator")

    def __post_init__(self) -> None:
        check_options(self)


def feature_norm(name: str, width: int) -> nn.Module:
    """Return the normalization ``name`` for vectors (N, width): batch, layer or none."""
    if name == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if name == "layer" else nn.Identity()


def map_norm(name: str, channels: int) -> nn.Module:
    """Return the normalization ``name`` for maps (N, channels, H, W): batch, layer, instance or none.

    Layer normalization takes its statistics over channels, height and width and has one scale and shift a channel.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    return nn.InstanceNorm2d(channels, affine=True) if name == "instance" else nn.Identity()


def normalize_spectrum(network: nn.Module) -> None:
    """Keep the largest singular value of every linear and convolution weight in ``network`` at about 1, in place.

    One power iteration a forward pass in training mode. Source: Miyato et al. 2018, "Spectral Normalization for
    Generative Adversarial Networks".
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)


def base_and_doublings(image_shape: ImageShape, architecture: str) -> tuple[int, int]:
    """Return (base, doublings) with height = width = base * 2**doublings, base 4 or 7 and doublings at least 1.

    Raises:
        ValueError: the image is not square, or its side is no such number.
    """
    _, height, width = image_shape
    for base in (4, 7):
        doublings = (height // base).bit_length() - 1
        if height == width and doublings >= 1 and base * 2**doublings == height:
            return base, doublings
    raise ValueError(
        f"{architecture} takes square images of 8, 14, 16, 28, 32, 56, 64, ... (4 or 7 times a power of 2), "
        f"not {height}x{width}: choose another image size, or the architecture mlp, which takes any"
    )
