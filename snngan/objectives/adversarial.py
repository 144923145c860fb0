"""The classic objectives of generative adversarial networks, on a discriminator with one output."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.losses import adversarial
from snngan.objectives import OBJECTIVES, Objective, ObjectiveOptions


@OBJECTIVES.register("gan")
class NonSaturating(Objective):
    """Goodfellow et al. 2014 with the non-saturating generator loss, -log D."""

    recommended = MappingProxyType({"discriminator_norm": "batch"})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.logistic_discriminator_loss(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.non_saturating_generator_loss(discriminator(fake))


@OBJECTIVES.register("minimax")
class Minimax(NonSaturating):
    """Goodfellow et al. 2014, eq. 1 to the letter: the generator minimizes log(1 - D), which saturates."""

    def generator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.minimax_generator_loss(discriminator(fake))


class _Critic(Objective):
    """An objective whose generator raises the discriminator's output."""

    def generator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.wasserstein_generator_loss(discriminator(fake))


@OBJECTIVES.register("wgan")
class Wasserstein(_Critic):
    """Arjovsky et al. 2017: the critic's weights are clipped to a box after each of its updates."""

    @dataclass(frozen=True, kw_only=True)
    class Options(ObjectiveOptions):
        clip: float = option(0.01, "largest absolute value of a critic weight", low=1e-6, high=1e3)

    options: Options
    recommended = MappingProxyType(
        {"discriminator_norm": "batch", "discriminator_steps": 5, "optimizer": "rmsprop", "learning_rate": 5e-5}
    )

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.wasserstein_critic_loss(discriminator(real), discriminator(fake))

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        for parameter in discriminator.parameters():
            parameter.clamp_(-self.options.clip, self.options.clip)


@OBJECTIVES.register("wgan-gp")
class WassersteinGradientPenalty(_Critic):
    """Gulrajani et al. 2017: the critic's slope is held near 1 between real and fake images."""

    @dataclass(frozen=True, kw_only=True)
    class Options(ObjectiveOptions):
        penalty: float = option(10.0, "weight of the gradient penalty", low=0, high=1e6)

    options: Options
    differentiates_twice = True
    recommended = MappingProxyType(
        {"discriminator_norm": "layer", "discriminator_steps": 5, "learning_rate": 1e-4, "betas": (0.0, 0.9)}
    )

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        loss = adversarial.wasserstein_critic_loss(discriminator(real), discriminator(fake))
        return loss + self.options.penalty * adversarial.gradient_penalty(discriminator, real, fake)


@OBJECTIVES.register("lsgan")
class LeastSquares(Objective):
    """Mao et al. 2017: outputs are pulled to 1 for real and 0 for fake images."""

    recommended = MappingProxyType({"discriminator_norm": "batch"})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.least_squares_discriminator_loss(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.least_squares_generator_loss(discriminator(fake))


@OBJECTIVES.register("hinge")
class Hinge(_Critic):
    """Lim and Ye 2017: margins of 1 for the discriminator, the plain output for the generator."""

    recommended = MappingProxyType({"spectral_norm": True})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.hinge_discriminator_loss(discriminator(real), discriminator(fake))
