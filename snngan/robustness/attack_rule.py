"""Attacks by name and strength, as users say them: ``pgd:0.3:40`` is 40 steps of PGD within 0.3 of each pixel.

Here, as in the literature, strengths are in units of pixels in [0, 1], twice as large as those of ``attacks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from snngan.registry import unknown_name
from snngan.robustness.attacks import Generators, Model, bim, fgsm, pgd


def _fgsm(*given: Any, targeted: bool, generator: Generators) -> Tensor:
    return fgsm(*given, targeted=targeted)


def _bim(*given: Any, targeted: bool, generator: Generators, **path: Any) -> Tensor:
    return bim(*given, targeted=targeted, **path)


ATTACKS: Mapping[str, Callable[..., Tensor]] = MappingProxyType({"fgsm": _fgsm, "bim": _bim, "pgd": pgd})
"""Each takes model, images, labels, epsilon, ``targeted`` and ``generator``, and some ``steps`` and ``step_size``."""


@dataclass(frozen=True)
class Attack:
    """One attack of a given strength.

    Args:
        name: one of ``ATTACKS``.
        epsilon: how far each pixel may move, above 0 and at most 1, the whole range.
        steps: of an iterative attack; default: its own.
        step_size: of each, in the same unit as ``epsilon``; default: its own.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """

    name: str
    epsilon: float
    steps: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise unknown_name("attack", self.name, ATTACKS)
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must be above 0 and at most 1, the range of pixels, not {self.epsilon:g}")
        if self.name == "fgsm" and (self.steps, self.step_size) != (None, None):
            raise ValueError("fgsm takes one step, of epsilon; several steps are bim's or pgd's")
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must be above 0 and at most 1, not {self.step_size:g}")
        if self.steps is not None and not 1 <= self.steps <= 10000:
            raise ValueError(f"an attack takes 1 to 10000 steps, not {self.steps}")

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        targeted: bool = False,
        generator: Generators = None,
    ) -> Tensor:
        """Return adversarial images (N, ...) of images (N, ...) in [-1, 1] and labels (N,).

        Args:
            model: maps images to logits (N, K).
            images: where to begin.
            labels: the true classes, or, ``targeted``, those to be taken for.
            targeted: lower the loss of ``labels`` instead of raising it.
            generator: what random starts are drawn from; of several each for an equal share of the images.
        """
        path: dict[str, Any] = {}
        if self.steps is not None:
            path["steps"] = self.steps
        if self.step_size is not None:
            path["step_size"] = 2 * self.step_size
        attack = ATTACKS[self.name]
        return attack(model, images, labels, 2 * self.epsilon, targeted=targeted, generator=generator, **path)


def parse_attack(text: str) -> Attack:
    """Return the attack written as ``NAME:EPSILON`` or ``NAME:EPSILON:STEPS``.

    Raises:
        ValueError: it is not of this form, or out of range.

    Example:
        >>> parse_attack("pgd:0.3:40")
        Attack(name='pgd', epsilon=0.3, steps=40, step_size=None)
    """
    name, *numbers = text.split(":")
    try:
        epsilon, steps = float(numbers[0]), [int(number) for number in numbers[1:]]
    except (IndexError, ValueError):
        epsilon, steps = 0.0, [0, 0]
    if len(steps) > 1:
        raise ValueError(f"an attack is NAME:EPSILON or NAME:EPSILON:STEPS such as pgd:0.3:40, not {text!r}")
    return Attack(name, epsilon, *steps)
