"""Networks: each architecture is a frozen dataclass of options, registered by name, that builds its networks."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from snngan.data import ImageShape as ImageShape
from snngan.lazy import public_names
from snngan.registry import Registry


class Architecture(Protocol):
    """Options from which a generator and a discriminator are built.

    With ``num_classes`` the modules take the labels (N,) of the images as a second argument. It is passed only for
    class-conditional generators: an architecture without it has none.
    """

    @property
    def latent_dim(self) -> int:
        """Length of the generator's input vector."""

    def generator(self, image_shape: ImageShape, num_classes: int = 0) -> nn.Module:
        """Return a module that maps latents (N, latent_dim) to images (N, *image_shape) in [-1, 1]."""

    def discriminator(self, image_shape: ImageShape, output_dim: int, num_classes: int = 0) -> nn.Module:
        """Return a module that maps images (N, *image_shape) to (N, output_dim)."""


ARCHITECTURES: Registry[type[Architecture]] = Registry("architecture", "snngan.models.gan")


class Classifier(Protocol):
    """Options from which a network is built that maps images to logits."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names or patterns of its hidden layers, in order, whose entanglement is measured."""

    def network(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Return a module that maps images (N, *image_shape) to logits (N, num_classes)."""


CLASSIFIERS: Registry[type[Classifier]] = Registry("classifier", "snngan.models.classifiers")


__getattr__, __dir__ = public_names(
    __name__, {"": "ARCHITECTURES CLASSIFIERS Architecture Classifier", "autoencoder": "Autoencoder"}
)
