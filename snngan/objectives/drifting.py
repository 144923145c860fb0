"""Generators trained by the drift of their images toward real ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snngan.config import option
from snngan.losses.drifting import drifting_loss
from snngan.objectives import OBJECTIVES
from snngan.objectives.spaces import FeatureOptions, FeatureSpaces


@OBJECTIVES.register("drifting")
class Drifting(FeatureSpaces):
    """No discriminator: synthetic images move toward real ones and away from each other, in several feature spaces.

    Source: Deng et al. 2026, "Generative Modeling via Drifting"; spaces and batches are those of ``snnl-features``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(FeatureOptions):
        temperatures: tuple[float, ...] = option(
            (0.02, 0.05, 0.2), "temperatures, multiples of the mean distance of real images", low=1e-6, high=1e6
        )

    options: Options

    def compare(self, name: str, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None) -> Tensor:
        return drifting_loss(real, fake, self.options.temperatures, classes=classes, num_classes=self.num_classes)
