"""What each player minimizes: one frozen dataclass an objective, given the networks and not their outputs.

To add an objective, write one more class here: the commands, the help and the tests find it by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import check_options, option
from snngan.distributed import is_distributed
from snngan.lazy import public_names
from snngan.losses import adversarial
from snngan.losses.backends import choose_backend
from snngan.losses.log_odds import log_odds
from snngan.losses.mmd import squared_mmd
from snngan.losses.pairwise import DISTANCES, Scale, build_real_fake_batch
from snngan.losses.temperature import Temperature, parse_temperature
from snngan.registry import Registry

Recommended = Mapping[str, Any]


class Objective(Protocol):
    """The two losses of a game, and what suits it.

    ``real`` and ``fake`` are image batches (N, C, H, W) in [-1, 1]; ``fake`` carries the generator's graph in
    ``generator_loss`` and none in ``discriminator_loss``. Both return a scalar tensor.
    """

    discriminator_dim: int | None
    """Outputs of the discriminator: None for no discriminator, 1 for a logit, more for a projection."""
    recommended: ClassVar[Recommended] = MappingProxyType({})
    """Training and architecture options that this objective wants where the user says nothing."""
    differentiates_twice: ClassVar[bool] = False
    """Whether a loss contains a gradient of the discriminator."""

    def waits(self, batch_size: int, image_shape: tuple[int, ...], device: torch.device) -> bool:
        """Return whether its losses of such batches read values that the device computes, and so wait for a GPU."""
        return False

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Return what the discriminator minimizes, ()."""
        raise NotImplementedError

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        """Return what the generator minimizes, ()."""
        raise NotImplementedError

    def constrain(self, discriminator: nn.Module) -> None:
        """Bring the discriminator back into its allowed set after its step, in place."""

    def state(self) -> nn.Module:
        """Return what the objective remembers between steps, to be saved with the networks."""
        return nn.Module()


OBJECTIVES: Registry[type[Objective]] = Registry("objective")

FORMS = ("literal", "log-odds", "log-odds-linear", "chance-capped")


def entangling_loss(odds: Tensor, form: str) -> Tensor:
    """Return what a generator minimizes to raise entanglement, (), from the log-odds z of every anchor.

    ``literal`` is the paper's -softplus(z), which saturates once the classes are apart; ``log-odds`` its
    non-saturating twin softplus(-z); ``log-odds-linear`` -z; ``chance-capped`` -min(z, 0), which has nothing to gain
    past chance.
    """
    if form == "literal":
        return -F.softplus(odds).mean()
    if form == "log-odds":
        return F.softplus(-odds).mean()
    return -odds.mean() if form == "log-odds-linear" else -odds.clamp_max(0).mean()


class _Entangling:
    """What the two SNNL objectives share: form, temperature and distance."""

    form: str
    temperature: str
    distance: str
    discriminator_dim: int | None
    scale: ClassVar[Scale]
    default_temperatures: ClassVar[Mapping[str, str]]
    _rule: Temperature

    def _prepare(self) -> None:
        check_options(self)
        object.__setattr__(self, "temperature", self.temperature or self.default_temperatures[self.form])
        object.__setattr__(self, "_rule", parse_temperature(self.temperature))

    def _odds(self, real: Tensor, fake: Tensor) -> Tensor:
        shared = is_distributed()
        batch = build_real_fake_batch(real, fake, self.distance, scale=self.scale, across_ranks=shared)  # type: ignore[arg-type]
        return log_odds(batch, self._rule(batch)).to(batch.dtype)

    def state(self) -> nn.Module:
        return self._rule

    def waits(self, batch_size: int, image_shape: tuple[int, ...], device: torch.device) -> bool:
        dims = self.discriminator_dim or math.prod(image_shape)
        return self._rule.waits or choose_backend(2 * batch_size, dims, torch.float32, device) == "tiled"


TEMPERATURE_HELP = (
    "0.1 times the mean squared distance; 0.05+0.2 mixed; absolute:T; annealed:T; learned:T; optimal; empty: the form's"
)


@OBJECTIVES.register("snnl-pixel")
@dataclass(frozen=True, kw_only=True)
class PixelEntanglement(_Entangling, Objective):
    """No discriminator: the generator raises the entanglement of real and fake images in pixel space.

    Source: Frosst, Papernot and Hinton 2019, section 3.2 and figure 6, for ``form="literal"``.
    """

    form: str = option("chance-capped", "what is made of each anchor's log-odds", choices=FORMS)
    temperature: str = option("", TEMPERATURE_HELP)
    distance: str = option("sqeuclidean", "distance of two images", choices=DISTANCES)
    discriminator_dim: None = field(default=None, init=False)
    recommended: ClassVar[Recommended] = MappingProxyType(
        {"arch": "mlp", "batch_size": 256, "learning_rate": 1e-3, "steps": 4000}
    )
    scale: ClassVar[Scale] = "real"  # what the generator makes must not move the temperature
    default_temperatures: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(FORMS, "0.2") | {"literal": "0.05", "chance-capped": "0.1+0.3"}
    )

    def __post_init__(self) -> None:
        self._prepare()

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        return entangling_loss(self._odds(real.detach(), fake), self.form)


@OBJECTIVES.register("snnl-projected")
@dataclass(frozen=True, kw_only=True)
class ProjectedEntanglement(_Entangling, Objective):
    """The discriminator projects to a vector space and separates real from fake there; the generator entangles them.

    Source: Frosst, Papernot and Hinton 2019, appendix I, for ``form="literal"``.
    """

    form: str = option("log-odds", "what the generator makes of each anchor's log-odds", choices=FORMS)
    temperature: str = option("", TEMPERATURE_HELP)
    distance: str = option("sqeuclidean", "distance of two projections", choices=DISTANCES)
    discriminator_dim: int = option(10, "dimensions of the learned space", low=2, high=4096)
    recommended: ClassVar[Recommended] = MappingProxyType(
        {
            "spectral_norm": True,
            "discriminator_norm": "batch",
            "learning_rate": 8e-4,
            "discriminator_learning_rate": 2e-4,
        }
    )
    scale: ClassVar[Scale] = "all"
    default_temperatures: ClassVar[Mapping[str, str]] = MappingProxyType(dict.fromkeys(FORMS, "1"))

    def __post_init__(self) -> None:
        self._prepare()

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(self._odds(discriminator(real), discriminator(fake))).mean()

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        with torch.no_grad():
            real_points = discriminator(real)
        return entangling_loss(self._odds(real_points, discriminator(fake)), self.form)


@dataclass(frozen=True, kw_only=True)
class _OneOutput(Objective):
    """A discriminator with one output, on which the real images' values carry no gradient for the generator."""

    discriminator_dim: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        check_options(self)


@OBJECTIVES.register("gan")
@dataclass(frozen=True, kw_only=True)
class NonSaturating(_OneOutput):
    """Goodfellow et al. 2014 with the non-saturating generator loss, -log D."""

    recommended: ClassVar[Recommended] = MappingProxyType({"discriminator_norm": "batch"})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.logistic_discriminator_loss(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        return adversarial.non_saturating_generator_loss(discriminator(fake))


@OBJECTIVES.register("minimax")
@dataclass(frozen=True, kw_only=True)
class Minimax(NonSaturating):
    """Goodfellow et al. 2014, eq. 1 to the letter: the generator minimizes log(1 - D), which saturates."""

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        return adversarial.minimax_generator_loss(discriminator(fake))


@OBJECTIVES.register("wgan")
@dataclass(frozen=True, kw_only=True)
class Wasserstein(_OneOutput):
    """Arjovsky et al. 2017: the critic's weights are clipped to a box after each of its steps."""

    clip: float = option(0.01, "largest absolute value of a critic weight", low=1e-6, high=1e3)
    recommended: ClassVar[Recommended] = MappingProxyType(
        {"discriminator_norm": "batch", "discriminator_steps": 5, "optimizer": "rmsprop", "learning_rate": 5e-5}
    )

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.wasserstein_critic_loss(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        return adversarial.wasserstein_generator_loss(discriminator(fake))

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        for parameter in discriminator.parameters():
            parameter.clamp_(-self.clip, self.clip)


@OBJECTIVES.register("wgan-gp")
@dataclass(frozen=True, kw_only=True)
class WassersteinGradientPenalty(_OneOutput):
    """Gulrajani et al. 2017: the critic's slope is held near 1 between real and fake images."""

    differentiates_twice = True
    penalty: float = option(10.0, "weight of the gradient penalty", low=0, high=1e6)
    recommended: ClassVar[Recommended] = MappingProxyType(
        {"discriminator_norm": "layer", "discriminator_steps": 5, "learning_rate": 1e-4, "betas": (0.0, 0.9)}
    )

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        loss = adversarial.wasserstein_critic_loss(discriminator(real), discriminator(fake))
        return loss + self.penalty * adversarial.gradient_penalty(discriminator, real, fake)

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        return adversarial.wasserstein_generator_loss(discriminator(fake))


@OBJECTIVES.register("lsgan")
@dataclass(frozen=True, kw_only=True)
class LeastSquares(_OneOutput):
    """Mao et al. 2017: outputs are pulled to 1 for real and 0 for fake images."""

    recommended: ClassVar[Recommended] = MappingProxyType({"discriminator_norm": "batch"})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.least_squares_discriminator_loss(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        return adversarial.least_squares_generator_loss(discriminator(fake))


@OBJECTIVES.register("hinge")
@dataclass(frozen=True, kw_only=True)
class Hinge(_OneOutput):
    """Lim and Ye 2017: margins of 1 for the discriminator, the plain value for the generator."""

    recommended: ClassVar[Recommended] = MappingProxyType({"spectral_norm": True})

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.hinge_discriminator_loss(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        return adversarial.wasserstein_generator_loss(discriminator(fake))


@OBJECTIVES.register("mmd")
@dataclass(frozen=True, kw_only=True)
class KernelTwoSample(Objective):
    """Li et al. 2017 (MMD-GAN) without its autoencoder: the maximum mean discrepancy in a learned space.

    Kernel widths are relative to the batch's mean squared distance, and spectral norm stands in for weight clipping,
    so that it compares with snnl-projected on one trunk.
    """

    discriminator_dim: int = option(10, "dimensions of the learned space", low=2, high=4096)
    recommended: ClassVar[Recommended] = MappingProxyType(
        {"spectral_norm": True, "learning_rate": 8e-4, "discriminator_learning_rate": 2e-4}
    )

    def __post_init__(self) -> None:
        check_options(self)

    def discriminator_loss(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return -squared_mmd(discriminator(real), discriminator(fake))

    def generator_loss(self, discriminator: nn.Module | None, real: Tensor, fake: Tensor) -> Tensor:
        assert discriminator is not None
        with torch.no_grad():
            real_points = discriminator(real)
        return squared_mmd(real_points, discriminator(fake))


__getattr__, __dir__ = public_names(
    __name__,
    dict.fromkeys(
        (
            "Hinge",
            "KernelTwoSample",
            "LeastSquares",
            "Minimax",
            "NonSaturating",
            "OBJECTIVES",
            "Objective",
            "PixelEntanglement",
            "ProjectedEntanglement",
            "Wasserstein",
            "WassersteinGradientPenalty",
        ),
        "",
    ),
)
