"""The convolutional architecture of Radford et al. 2015 ("DCGAN"): strided 4x4 kernels, no pooling.

Feature maps of half the image's side have ``width`` channels, and the number of channels doubles each time the side is
halved, down to 4 or 7: for 28x28 images the sides are 14 (width) and 7 (2 width), for 64x64 images 32, 16, 8 and 4
(8 width). A convolution followed by a normalization has no bias, because the normalization adds its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from snngan.config import option
from snngan.models import ARCHITECTURES, ImageShape
from snngan.models.layers import NetworkOptions, add_spectral_norm, base_and_doublings, initialize, norm_2d


@ARCHITECTURES.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGAN(NetworkOptions):
    """Transposed and strided convolutions, for square images whose side is 4 or 7 times a power of 2."""

    width: int = option(32, "channels at half the image's side, doubled at each halving", low=1, high=16384)

    def generator(self, image_shape: ImageShape) -> nn.Module:
        base, doublings = base_and_doublings(image_shape, "dcgan")
        channels = [self.width * 2**level for level in reversed(range(doublings))]
        layers: list[nn.Module] = [
            nn.Linear(self.latent_dim, channels[0] * base * base),
            nn.Unflatten(1, (channels[0], base, base)),
            norm_2d(self.generator_norm, channels[0]),
            nn.ReLU(),
        ]
        for inputs, outputs in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=self.generator_norm == "none"),
                norm_2d(self.generator_norm, outputs),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(channels[-1], image_shape[0], 4, stride=2, padding=1), nn.Tanh()]
        network = nn.Sequential(*layers)
        keep_scale = self.generator_norm == "none"
        initialize(network, lambda _, module: draw_weight(module, keep_scale=keep_scale))
        return network

    def discriminator(self, image_shape: ImageShape, output_dim: int) -> nn.Module:
        base, doublings = base_and_doublings(image_shape, "dcgan")
        layers: list[nn.Module] = []
        inputs = image_shape[0]
        for level in range(doublings):
            outputs = self.width * 2**level
            norm = self.discriminator_norm if level else "none"
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=norm == "none"),
                norm_2d(norm, outputs),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * base * base, output_dim))
        keep_scale = self.discriminator_norm == "none" and not self.spectral_norm
        initialize(network, lambda _, module: draw_weight(module, keep_scale=keep_scale))
        return add_spectral_norm(network) if self.spectral_norm else network


def draw_weight(module: Any, *, keep_scale: bool) -> None:
    """Draw the weight of a layer from a normal distribution, in place.

    The standard deviation is 0.02, as in the paper, if normalization layers or spectral norm set the scale of the
    activations. Without either (``keep_scale``), such weights would shrink the activations at each layer, and the
    standard deviation of He et al. 2015 is used instead.
    """
    weight = module.weight
    # In a transposed convolution with stride 2, 4 of the 4x4 weights contribute to each output pixel.
    fan_in = module.in_channels * 4 if isinstance(module, nn.ConvTranspose2d) else weight[0].numel()
    nn.init.normal_(weight, std=(2.0 / fan_in) ** 0.5 if keep_scale else 0.02)
