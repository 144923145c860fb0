"""Generators trained by the maximum mean discrepancy."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from snngan.config import option
from snngan.losses.mmd import squared_mmd
from snngan.objectives import OBJECTIVES, AdversarialOptions, Batch, Discriminator, Objective, paired_classes


@OBJECTIVES.register("mmd")
class KernelTwoSample(Objective):
    """Li et al. 2017 (MMD-GAN) without its autoencoder: the maximum mean discrepancy in a learned space.

    Kernel widths are relative to the batch's mean squared distance, and spectral norm replaces weight clipping, so
    that it compares with snnl-projected on the same networks.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(AdversarialOptions):
        discriminator_dim: int = option(10, "dimensions of the learned space", low=2, high=4096)

    needs_balanced_classes = True
    recommended = MappingProxyType({"spectral_norm": True, "learning_rate": 8e-4, "discriminator_learning_rate": 2e-4})

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return -self._squared_mmd(discriminator(real), discriminator(fake), paired_classes(real, fake))

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        with torch.no_grad():
            embedded = discriminator(real)
        return self._squared_mmd(embedded, discriminator(fake), paired_classes(real, fake))

    def _squared_mmd(self, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None) -> Tensor:
        return squared_mmd(real, fake, classes=classes, num_classes=self.num_classes)
