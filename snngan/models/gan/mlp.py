"""The fully connected architecture, for images of any shape, and for 2-D points (1, 1, 2).

A layer followed by a normalization has no bias, because the normalization adds its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from snngan.config import option
from snngan.models import ARCHITECTURES, ImageShape
from snngan.models.conditional import OneHotInput, sequential, with_output
from snngan.models.layers import NetworkOptions, Smooth, add_spectral_norm, norm_1d


@ARCHITECTURES.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(NetworkOptions):
    """Hidden layers of one width: with ReLU in the generator, with leaky ReLU (0.2) in the discriminator."""

    width: int = option(512, "units of each hidden layer", low=1, high=16384)
    hidden_layers: int = option(3, "hidden layers of each network", low=1, high=100)
    smoothing: bool = option(False, "smooth the generator's images by 3x3 pixels, against their grain")
    discriminator_norm: str = option(
        "none",
        "normalization layers of the discriminator, except in its first layer",
        choices=("none", "batch", "layer"),
    )

    def generator(self, image_shape: ImageShape, num_classes: int = 0) -> nn.Module:
        layers: list[nn.Module] = [OneHotInput(num_classes)] if num_classes else []
        for inputs in [self.latent_dim + num_classes, *[self.width] * (self.hidden_layers - 1)]:
            linear = nn.Linear(inputs, self.width, bias=self.generator_norm == "none")
            layers += [linear, norm_1d(self.generator_norm, self.width), nn.ReLU()]
        layers += [nn.Linear(self.width, math.prod(image_shape)), nn.Unflatten(1, image_shape)]
        layers += [Smooth()] if self.smoothing and min(image_shape[1:]) > 1 else []
        return sequential([*layers, nn.Tanh()], num_classes)

    def discriminator(self, image_shape: ImageShape, output_dim: int, num_classes: int = 0) -> nn.Module:
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), self.width),
            nn.Identity(),
            nn.LeakyReLU(0.2),
        ]
        for _ in range(self.hidden_layers - 1):
            linear = nn.Linear(self.width, self.width, bias=self.discriminator_norm == "none")
            layers += [linear, norm_1d(self.discriminator_norm, self.width), nn.LeakyReLU(0.2)]
        network = with_output(layers, self.width, output_dim, num_classes)
        return add_spectral_norm(network) if self.spectral_norm else network
