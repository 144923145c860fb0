"""Generators trained by the maximum mean discrepancy."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.losses.mmd import squared_mmd
from snngan.objectives import OBJECTIVES, Objective, ObjectiveOptions


@OBJECTIVES.register("mmd")
class KernelTwoSample(Objective):
    """Li et al. 2017 (MMD-GAN) without its autoencoder: the maximum mean discrepancy in a learned space.

    Kernel widths are relative to the batch's mean squared distance, and spectral norm replaces weight clipping, so
    that it compares with snnl-projected on the same networks.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(ObjectiveOptions):
        discriminator_dim: int = option(10, "dimensions of the learned space", low=2, high=4096)

    recommended = MappingProxyType({"spectral_norm": True, "learning_rate": 8e-4, "discriminator_learning_rate": 2e-4})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return -squared_mmd(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        with torch.no_grad():
            embedded = discriminator(real)
        return squared_mmd(embedded, discriminator(fake))
