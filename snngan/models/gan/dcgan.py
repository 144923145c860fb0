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
from snngan.models.conditional import OneHotInput, sequential, with_output
from snngan.models.layers import NetworkOptions, add_spectral_norm, base_and_doublings, initialize, norm_2d


@ARCHITECTURES.register("dcgan")
@dataclass(frozen=True, kw_only=True)
class DCGAN(NetworkOptions):
    """Transposed and strided convolutions, for square images whose side is 4 or 7 times a power of 2."""

    width: int = option(32, "channels at half the image's side, doubled at each halving", low=1, high=16384)

    upsampling: str = option(
        "transposed",
        "transposed 4x4 convolutions, or bilinear upsampling before 3x3 convolutions",
        choices=("transposed", "bilinear"),
    )

    def generator(self, image_shape: ImageShape, num_classes: int = 0) -> nn.Module:
        base, doublings = base_and_doublings(image_shape, "dcgan")
        channels = [self.width * 2**level for level in reversed(range(doublings))]
        norm, has_bias = self.generator_norm, self.generator_norm == "none"
        layers: list[nn.Module] = [] if norm == "batch" or not num_classes else [OneHotInput(num_classes)]
        inputs = self.latent_dim + num_classes * len(layers)
        layers += [
            nn.Linear(inputs, channels[0] * base * base),
            nn.Unflatten(1, (channels[0], base, base)),
            norm_2d(norm, channels[0], num_classes),
            nn.ReLU(),
        ]
        for inputs, outputs in pairwise(channels):
            layers += [*self._double(inputs, outputs, has_bias), norm_2d(norm, outputs, num_classes), nn.ReLU()]
        layers += [*self._double(channels[-1], image_shape[0], True), nn.Tanh()]
        network = sequential(layers, num_classes)
        initialize(network, lambda _, module: draw_weight(module, keep_scale=has_bias))
        return network

    def _double(self, inputs: int, outputs: int, has_bias: bool) -> list[nn.Module]:
        """Return the layers that map feature maps (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
        if self.upsampling == "bilinear":
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=has_bias)
            return [nn.Upsample(scale_factor=2, mode="bilinear"), convolution]
        return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=has_bias)]

    def discriminator(self, image_shape: ImageShape, output_dim: int, num_classes: int = 0) -> nn.Module:
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
        network = with_output([*layers, nn.Flatten()], inputs * base * base, output_dim, num_classes)
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
