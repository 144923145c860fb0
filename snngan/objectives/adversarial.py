"""The classic objectives of generative adversarial networks, on a discriminator with one output."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import option, with_default
from snngan.losses.penalty import gradient_penalty
from snngan.objectives import OBJECTIVES, AdversarialOptions, Batch, Discriminator, Objective


@OBJECTIVES.register("gan")
class NonSaturating(Objective):
    """Goodfellow et al. 2014: binary cross-entropy of logits (eq. 1); the generator minimizes -log D (section 3)."""

    Options = AdversarialOptions

    recommended = MappingProxyType({"discriminator_norm": "batch"})

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return F.softplus(-discriminator(fake)).mean()


@OBJECTIVES.register("minimax")
class Minimax(NonSaturating):
    """Goodfellow et al. 2014, eq. 1 to the letter: the generator minimizes log(1 - D), which saturates."""

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return -F.softplus(discriminator(fake)).mean()


class _Critic(Objective):
    """The Wasserstein distance of outputs: Arjovsky et al. 2017, eq. 3."""

    Options = AdversarialOptions

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        values = discriminator(real)
        return torch.mean(discriminator(fake)) - torch.mean(values)

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return -torch.mean(discriminator(fake))


@OBJECTIVES.register("wgan")
class Wasserstein(_Critic):
    """Arjovsky et al. 2017: the critic's weights are clipped to a box after each of its updates."""

    @dataclass(frozen=True, kw_only=True)
    class Options(AdversarialOptions):
        clip: float = option(0.01, "largest absolute value of a critic weight", low=1e-6, high=1e3)

    options: Options
    recommended = MappingProxyType(
        {"discriminator_norm": "batch", "discriminator_steps": 5, "optimizer": "rmsprop", "learning_rate": 5e-5}
    )

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        for parameter in discriminator.parameters():
            parameter.clamp_(-self.options.clip, self.options.clip)


@OBJECTIVES.register("wgan-gp")
class WassersteinGradientPenalty(_Critic):
    """Gulrajani et al. 2017: the critic's slope is held near 1 between real and fake images."""

    @dataclass(frozen=True, kw_only=True)
    class Options(AdversarialOptions):
        penalty: float = option(10.0, "weight of the gradient penalty", low=0, high=1e6)

    options: Options
    differentiates_twice = True
    recommended = MappingProxyType(
        {"discriminator_norm": "layer", "discriminator_steps": 5, "learning_rate": 1e-4, "betas": (0.0, 0.9)}
    )

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        loss = super().discriminator_loss(discriminator, real, fake)

        def critic(images: Tensor) -> Tensor:
            return discriminator(Batch(images, real.labels))

        return loss + self.options.penalty * gradient_penalty(critic, real.images, fake.images)


@OBJECTIVES.register("lsgan")
class LeastSquares(Objective):
    """Mao et al. 2017, eq. 9: outputs are pulled to 1 for real and 0 for fake images."""

    Options = AdversarialOptions

    recommended = MappingProxyType({"discriminator_norm": "batch"})

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return (torch.square(discriminator(real) - 1).mean() + torch.square(discriminator(fake)).mean()) / 2

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return torch.square(discriminator(fake) - 1).mean() / 2


@OBJECTIVES.register("hinge")
class Hinge(_Critic):
    """Lim and Ye 2017, eq. 4: margins of 1 for the discriminator, the plain output for the generator."""

    recommended = MappingProxyType({"spectral_norm": True})

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(fake)).mean()


@OBJECTIVES.register("rpgan")
class RelativisticPairing(Objective):
    """Huang et al. 2024, "The GAN is dead; long live the GAN! (R3GAN)": pairs of images and zero-centered penalties.

    Each synthetic image is compared with one real image, of its class if labeled, by the cross-entropy of the
    difference of their outputs (eq. 2, of Jolicoeur-Martineau 2018); both sides' slopes are penalized (eq. 3).
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(AdversarialOptions):
        r1: float = with_default(AdversarialOptions, "r1", 1.0)
        r2: float = with_default(AdversarialOptions, "r2", 1.0)

    recommended = MappingProxyType({"betas": (0.0, 0.99)})

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return F.softplus(discriminator(fake) - discriminator(real)).mean()

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        with torch.no_grad():
            values = discriminator(real)
        return F.softplus(values - discriminator(fake)).mean()
