"""How the temperature T of the loss is chosen: fixed, relative, annealed, learned, mixed or optimal.

Each rule is a module that maps the pairs of a batch to inverse temperatures 1/T, without gradient. What a rule
remembers between batches is in its ``state_dict``, so that saving and loading state keeps it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from snngan.losses.optimal_temperature import optimal_inverse_temperature, slope_by_log_inverse
from snngan.losses.pairwise import Pairs

SMALLEST = 1e-15
"""Of the temperatures that can be given for a run: gradients grow as 1/T, and float32 must hold their squares."""


class Temperature(nn.Module):
    """A rule that gives the inverse temperatures (K,) at which the loss of a batch is taken and averaged."""

    waits: ClassVar[bool] = False
    """Whether it reads values that the device computes, and so waits for a GPU."""

    def forward(self, pairs: Pairs) -> Tensor:
        """Return 1/T (K,) in float64 for the batch ``pairs``."""
        raise NotImplementedError


def _per_scale(pairs: Pairs, factors: Sequence[float | Tensor]) -> Tensor:
    """Return 1 / (factors * scale); where all points coincide every temperature gives the same loss, so 1."""
    products = torch.stack([pairs.scale * factor for factor in factors])
    return torch.where(pairs.scale > 0, 1 / products, 1.0)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
    return float(value)


class FixedTemperature(Temperature):
    """The same absolute T (in the unit of the distances) for every batch; ``math.inf`` is allowed."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = _positive("temperature", value)

    def forward(self, pairs: Pairs) -> Tensor:
        return pairs.scale.new_full((1,), 1 / self.value)

    def extra_repr(self) -> str:
        return f"{self.value:g}"


class RelativeTemperature(Temperature):
    """T = ``factor`` times the mean distance of the batch: the same meaning at any pixel scale or dimension.

    With several factors the loss is averaged over them (a mixture of temperatures).

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
        >>> from snngan.losses.pairwise import pairs_of
        >>> RelativeTemperature(0.5)(pairs_of(points, torch.tensor([0, 0, 1]))).round(decimals=4)
        tensor([0.4286], dtype=torch.float64)
    """

    def __init__(self, *factors: float) -> None:
        super().__init__()
        if not factors:
            raise ValueError("RelativeTemperature takes at least one factor, such as 0.1")
        self.factors = tuple(_positive("relative temperature", factor) for factor in factors)

    def forward(self, pairs: Pairs) -> Tensor:
        return _per_scale(pairs, self.factors)

    def extra_repr(self) -> str:
        return ", ".join(f"{factor:g}" for factor in self.factors)


class AnnealedTemperature(Temperature):
    """T = ``initial`` / (1 + evaluations / ``period``) ** ``power``, not below ``final``.

    ``relative`` temperatures are multiples of the batch's mean distance. Only evaluations in training mode count.
    The default power is the one used with this loss elsewhere, where a period is one epoch.
    """

    evaluations: Tensor

    def __init__(
        self, initial: float, *, final: float = 0.0, period: float = 100.0, power: float = 0.55, relative: bool = True
    ) -> None:
        super().__init__()
        self.initial, self.period = _positive("initial temperature", initial), _positive("period", period)
        self.final, self.power, self.relative = final, power, relative
        self.register_buffer("evaluations", torch.zeros((), dtype=torch.int64))

    def forward(self, pairs: Pairs) -> Tensor:
        factor = self.initial / (1 + self.evaluations.double() / self.period) ** self.power
        factor = factor.clamp_min(self.final)
        if self.training:
            self.evaluations += 1
        return _per_scale(pairs, [factor]) if self.relative else (1 / factor).reshape(1).to(pairs.scale)

    def extra_repr(self) -> str:
        numbers = f"{self.initial:g}, final={self.final:g}, period={self.period:g}, power={self.power:g}"
        return f"{numbers}, relative={self.relative}, evaluations={int(self.evaluations)}"


class LearnedTemperature(Temperature):
    """1/T follows its own gradient: one step towards lower loss at each evaluation in training mode.

    log(1/T) is what is learned, so T stays positive whatever the step; a step is at most ``step`` long, and T stays
    within ``low`` to ``high`` times the mean distance of the batch. The first T is ``initial`` times that mean.
    Frosst, Papernot and Hinton 2019, section 2, learn 1/T itself, unbounded, which can turn negative.
    """

    waits = True

    def __init__(self, initial: float = 1.0, *, step: float = 0.1, low: float = 1e-3, high: float = 1e3) -> None:
        super().__init__()
        self.initial, self.step = _positive("initial temperature", initial), _positive("step", step)
        if not 0 < low < high:
            raise ValueError(f"the bounds of a learned temperature must be 0 < low < high, not {low!r} and {high!r}")
        self.low, self.high = low, high
        self.log_inverse = torch.tensor(math.nan, dtype=torch.float64)
        """() log(1/T), NaN before the first step. A buffer would lose its digits to ``module.half()``."""

    def get_extra_state(self) -> Tensor:
        return self.log_inverse

    def set_extra_state(self, state: Tensor) -> None:
        self.log_inverse = state.detach().to(self.log_inverse, copy=True)

    @torch.no_grad()
    def forward(self, pairs: Pairs) -> Tensor:
        log_scale = torch.where(pairs.scale > 0, pairs.scale, 1.0).log()
        first = -(log_scale + math.log(self.initial))
        log_inverse = self.log_inverse.to(first.device)
        current = torch.where(log_inverse.isnan(), first, log_inverse)
        current = self._bounded(current, log_scale)
        if self.training:
            step = self.step * slope_by_log_inverse(pairs, current.exp()).clamp(-1, 1)
            self.log_inverse = self._bounded(current - step, log_scale)
        return current.exp().reshape(1)

    def _bounded(self, value: Tensor, log_scale: Tensor) -> Tensor:
        return value.clamp(-(log_scale + math.log(self.high)), -(log_scale + math.log(self.low)))

    def extra_repr(self) -> str:
        return f"{self.initial:g}, step={self.step:g}, current={math.exp(-float(self.log_inverse)):.4g}"


class OptimalTemperature(Temperature):
    """The T that gives the lowest loss of the batch, of all T up to infinity: eq. 2 of Frosst et al. 2019, exactly.

    The coldest T tried is 1e-10 of the largest distance: below, float64's rounding of the distances would decide.
    By the envelope theorem the gradient of the minimum by the features is the partial one at the optimal T, so T
    itself carries no gradient.
    """

    waits = True

    def forward(self, pairs: Pairs) -> Tensor:
        return optimal_inverse_temperature(pairs).reshape(1)


TemperatureLike = float | str | Temperature
NAMED: dict[str, type[Temperature]] = {"learned": LearnedTemperature, "optimal": OptimalTemperature}


def as_temperature(value: TemperatureLike) -> Temperature:
    """Return the rule meant by a number, ``"learned"``, ``"optimal"`` or a :class:`Temperature`.

    Raises:
        ValueError: another name, another kind of thing, or a number that is not above 0.
    """
    if isinstance(value, Temperature):
        return value
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]()
    if not isinstance(value, Real):
        raise ValueError(
            f"temperature must be a number above 0, a temperature object, 'learned' or 'optimal', not {value!r}"
        )
    return FixedTemperature(value)


def parse_temperature(text: str) -> Temperature:
    """Return the rule written as ``0.1`` (relative), ``0.1+0.3`` (mixed), ``absolute:50``, ``learned:0.1``,
    ``optimal``, ``annealed:1``, ``annealed:1:200`` (with its period) or ``annealed-absolute:1:200``.

    Raises:
        ValueError: the text is none of these forms.
    """
    kind, _, argument = text.partition(":") if ":" in text else ("", "", text)
    try:
        if text in NAMED:
            return NAMED[text]()
        if any(0 < float(part) < SMALLEST for part in re.split("[:+]", argument)):
            raise ValueError("it is too small")
        if kind in ("", "relative"):
            return RelativeTemperature(*(float(part) for part in argument.split("+")))
        if kind in ("annealed", "annealed-absolute"):
            initial, period = [float(part) for part in (argument if ":" in argument else f"{argument}:100").split(":")]
            if period == math.inf:
                raise ValueError("it would never cool")
            return AnnealedTemperature(initial, period=period, relative=kind == "annealed")
        forms: dict[str, type[Temperature]] = {"absolute": FixedTemperature, "learned": LearnedTemperature}
        return forms[kind](float(argument))
    except (ValueError, KeyError) as error:
        raise ValueError(
            "temperature takes a multiple of the mean squared distance such as 0.1, several such as 0.05+0.2, "
            "absolute:T, learned:START, annealed:START[:STEPS] or annealed-absolute:START[:STEPS], with numbers from "
            f"{SMALLEST:g} on, or optimal, not {text!r}"
        ) from error
