"""Generators trained by the soft nearest neighbor loss: in pixels, and in a space that the discriminator learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.config import option, with_default
from snngan.distributed import is_distributed
from snngan.losses.backends import choose_backend
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import DISTANCES, GroupedBatch, PairwiseBatch, build_real_fake_batch
from snngan.losses.temperature import Temperature, parse_temperature
from snngan.objectives import (
    OBJECTIVES,
    AdversarialOptions,
    Batch,
    Discriminator,
    Objective,
    ObjectiveOptions,
    paired_classes,
)

TEMPERATURE_HELP = (
    "temperature: 0.1 for 0.1 times the mean squared distance, 0.05+0.2 for a mixture, absolute:T, annealed:T, "
    "learned:T, optimal; empty: that of the form"
)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "literal": lambda z, chance: -F.softplus(z).mean(),  # the paper's, which saturates once the classes are apart
    "log-odds": lambda z, chance: F.softplus(-z).mean(),  # its non-saturating twin
    "log-odds-linear": lambda z, chance: -z.mean(),
    "chance-capped": lambda z, chance: -torch.minimum(z, chance).mean(),  # has nothing to gain beyond chance
}
"""What a generator minimizes to raise entanglement, (), from the log-odds z (K, N) of every anchor and those of
chance (N,)."""


@dataclass(frozen=True, kw_only=True)
class EntanglementOptions(ObjectiveOptions):
    """Options that both SNNL objectives have."""

    form: str = option("log-odds", "loss that the generator minimizes, from log-odds", choices=tuple(FORMS))
    temperature: str = option("", TEMPERATURE_HELP)
    distance: str = option("sqeuclidean", "distance of two embeddings", choices=DISTANCES)


class _Entangling(Objective):
    """An objective on the log-odds of real and fake batches."""

    options: EntanglementOptions
    needs_balanced_classes = True
    relative_to_real: ClassVar[bool] = False
    """Whether relative temperatures are multiples of the mean distance of the real samples alone."""
    default_temperatures: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, options: EntanglementOptions) -> None:
        super().__init__(options)
        self.temperature = parse_temperature(options.temperature)

    @classmethod
    def make_options(cls, given: Mapping[str, Any]) -> Any:
        options = super().make_options(given)
        options = replace(options, temperature=options.temperature or cls.default_temperatures[options.form])
        parse_temperature(options.temperature)
        return options

    def pair(self, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None) -> PairwiseBatch | GroupedBatch:
        """Return the batch of embeddings (N, ...) and (M, ...) of all ranks, within ``classes`` (N,) and (M,) if any.

        Each class must have as many samples as the others.
        """
        distance: Any = self.options.distance
        return build_real_fake_batch(
            real, fake, distance, classes=classes, num_classes=self.num_classes,
            mean_of_real=self.relative_to_real, across_ranks=is_distributed(),
        )  # fmt: skip

    def entangle(
        self, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None, temperature: nn.Module
    ) -> Tensor:
        """Return what the generator minimizes, for embeddings (N, ...) and (M, ...), at the temperatures of a rule."""
        batch = self.pair(real, fake, classes)
        odds = log_odds(batch, temperature(batch)).to(batch.dtype)
        return FORMS[self.options.form](odds, batch.chance.to(odds.dtype))

    def reads_values(self, batch_size: int, image_shape: tuple[int, ...], device: torch.device) -> bool:
        dims, size = self.discriminator_dim or math.prod(image_shape), 2 * batch_size // max(1, self.num_classes)
        waits = any(rule.waits for rule in self.modules() if isinstance(rule, Temperature))
        return waits or choose_backend(size, dims, torch.float32, device) == "tiled"


@OBJECTIVES.register("snnl-pixel")
class PixelEntanglement(_Entangling):
    """No discriminator: the generator raises the entanglement of real and fake images in pixel space.

    Source: Frosst, Papernot and Hinton 2019, section 3.2 and figure 6, for ``form="literal"``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(EntanglementOptions):
        form: str = with_default(EntanglementOptions, "form", "chance-capped")

    discriminator_dim = None
    recommended = MappingProxyType({"arch": "mlp", "batch_size": 256, "learning_rate": 1e-3, "steps": 4000})
    relative_to_real = True  # what the generator makes must not change the temperature
    default_temperatures = MappingProxyType(
        dict.fromkeys(FORMS, "0.2") | {"literal": "0.05", "chance-capped": "0.1+0.3"}
    )

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        return self.entangle(real.images.detach(), fake.images, paired_classes(real, fake), self.temperature)


@OBJECTIVES.register("snnl-projected")
class ProjectedEntanglement(_Entangling):
    """The discriminator projects to a vector space and separates real from fake there; the generator entangles them.

    Source: Frosst, Papernot and Hinton 2019, appendix I, for ``form="literal"``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(EntanglementOptions, AdversarialOptions):
        discriminator_dim: int = option(10, "dimensions of the learned space", low=2, high=4096)

    options: Options
    recommended = MappingProxyType(
        {
            "spectral_norm": True,
            "discriminator_norm": "batch",
            "learning_rate": 8e-4,
            "discriminator_learning_rate": 2e-4,
        }
    )
    default_temperatures = MappingProxyType(dict.fromkeys(FORMS, "1"))

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        batch = self.pair(discriminator(real), discriminator(fake), paired_classes(real, fake))
        return F.softplus(log_odds(batch, self.temperature(batch)).to(batch.dtype)).mean()

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        with torch.no_grad():
            embedded = discriminator(real)
        return self.entangle(embedded, discriminator(fake), paired_classes(real, fake), self.temperature)
