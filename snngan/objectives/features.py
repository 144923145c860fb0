"""Generators trained by the soft nearest neighbor loss in feature spaces."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snngan.config import with_default
from snngan.losses.temperature import parse_temperature
from snngan.objectives import OBJECTIVES
from snngan.objectives.snnl import EntanglementOptions, PixelEntanglement
from snngan.objectives.spaces import FeatureOptions, FeatureSpaces


@OBJECTIVES.register("snnl-features")
class FeatureEntanglement(FeatureSpaces, PixelEntanglement):
    """No discriminator: the generator raises the entanglement of real and fake images in several feature spaces.

    The loss is the sum over the spaces, each with temperatures relative to the mean distance of the real images
    there. Without labels to train a classifier on, pixels are the only space, and it is that of ``snnl-pixel``.

    Source: the loss is that of ``snnl-pixel``; one-step generators trained in the features of frozen networks are those
    of Deng et al. 2026, "Generative Modeling via Drifting", section 4.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(EntanglementOptions, FeatureOptions):
        form: str = with_default(EntanglementOptions, "form", "chance-capped")

    options: Options
    recommended = FeatureSpaces.recommended
    generator_loss = FeatureSpaces.generator_loss

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        del self.temperature  # each space has its own

    def add_space(self, name: str) -> None:
        """Give a space its own rule: a learned or annealed temperature has a state."""
        self.temperatures[name.replace(".", "-")] = parse_temperature(self.options.temperature)

    def compare(self, name: str, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None) -> Tensor:
        return self.entangle(real, fake, classes, self.temperatures[name.replace(".", "-")])
