"""Generators trained by the drift of their images toward real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        temperature: str = option(
            "0.02+0.05+0.2", "temperatures, multiples of the mean distance of real images, whose fields are added"
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.multiples = parse_multiples(options.temperature)

    @classmethod
    def make_options(cls, given: Mapping[str, Any]) -> Any:
        options = super().make_options(given)
        parse_multiples(options.temperature)
        return options

    def compare(self, name: str, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None) -> Tensor:
        return drifting_loss(real, fake, self.multiples, classes=classes, num_classes=self.num_classes)


def parse_multiples(text: str) -> tuple[float, ...]:
    """Return the numbers in ``text``, with plus signs between; raises ``ValueError`` unless they are positive."""
    try:
        multiples = tuple(float(part) for part in text.split("+"))
    except ValueError:
        multiples = ()
    if not multiples or not all(0 < each < math.inf for each in multiples):
        raise ValueError(f"temperature must be positive numbers such as 0.02+0.05+0.2, got {text!r}")
    return multiples
