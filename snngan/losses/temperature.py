"""How the temperature T of the loss is chosen: each rule is a module that maps a batch to inverse temperatures 1/T."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from snngan.losses.optimal_temperature import optimal_inverse_temperature, slope_by_log_inverse
from snngan.losses.pairwise import GroupedBatch, PairwiseBatch

LOWEST_IN_TEXT = 1e-15
"""The lowest temperature that a text may name: gradients grow as 1/T, and float32 must hold their squares."""


class Temperature(nn.Module):
    """A rule for the temperatures at which the loss of a batch is computed and averaged; its state is saved."""

    waits: ClassVar[bool] = False
    """Whether the rule reads values that the device computes, and so waits for a GPU."""

    def forward(self, batch: PairwiseBatch | GroupedBatch) -> Tensor:
        """Return the inverse temperatures 1/T (K,) in float64 for ``batch``."""
        raise NotImplementedError


def _relative_inverses(batch: PairwiseBatch | GroupedBatch, *factors: float | Tensor) -> Tensor:
    """Return 1 / (factors * mean distance), or 1 if all samples are equal: every T gives the same loss then."""
    products = torch.stack([batch.mean_distance * factor for factor in factors])
    return torch.where(batch.mean_distance > 0, 1 / products, 1.0)


def _check_positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return float(value)


class FixedTemperature(Temperature):
    """The same absolute T, in units of the distances, for every batch; ``math.inf`` is allowed."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = _check_positive("temperature", value)

    def forward(self, batch: PairwiseBatch | GroupedBatch) -> Tensor:
        return batch.mean_distance.new_full((1,), 1 / self.value)

    def extra_repr(self) -> str:
        return f"{self.value:g}"


class RelativeTemperature(Temperature):
    """T = ``factor`` times the mean distance of the batch, which has the same meaning at any scale or dimension.

    With several factors the loss is averaged over them (a mixture of temperatures).

    Example:
        >>> from snngan.losses.pairwise import build_pairwise_batch
        >>> features = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
        >>> RelativeTemperature(0.5)(build_pairwise_batch(features, torch.tensor([0, 0, 1]))).round(decimals=4)
        tensor([0.4286], dtype=torch.float64)
    """

    def __init__(self, *factors: float) -> None:
        super().__init__()
        if not factors:
            raise ValueError("RelativeTemperature requires at least one factor, such as 0.1")
        self.factors = tuple(_check_positive("relative temperature", factor) for factor in factors)

    def forward(self, batch: PairwiseBatch | GroupedBatch) -> Tensor:
        return _relative_inverses(batch, *self.factors)

    def extra_repr(self) -> str:
        return ", ".join(f"{factor:g}" for factor in self.factors)


class AnnealedTemperature(Temperature):
    """T = ``initial`` / (1 + evaluations / ``period``) ** ``power``, at least ``final``.

    ``relative`` temperatures are multiples of the batch's mean distance. Only evaluations in training mode are counted.
    The default power is the one of other implementations of this loss, where a period is one epoch.
    """

    evaluations: Tensor

    def __init__(
        self, initial: float, *, final: float = 0.0, period: float = 100.0, power: float = 0.55, relative: bool = True
    ) -> None:
        super().__init__()
        self.initial, self.period = _check_positive("initial temperature", initial), _check_positive("period", period)
        self.final, self.power, self.relative = final, power, relative
        self.register_buffer("evaluations", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: PairwiseBatch | GroupedBatch) -> Tensor:
        factor = (self.initial / (1 + self.evaluations.double() / self.period) ** self.power).clamp_min(self.final)
        if self.training:
            self.evaluations += 1
        return _relative_inverses(batch, factor) if self.relative else (1 / factor).reshape(1).to(batch.mean_distance)

    def extra_repr(self) -> str:
        numbers = f"{self.initial:g}, final={self.final:g}, period={self.period:g}, power={self.power:g}"
        return f"{numbers}, relative={self.relative}, evaluations={int(self.evaluations)}"


class LearnedTemperature(Temperature):
    """T is learned: each evaluation in training mode is one step of gradient descent on log(1/T).

    The logarithm keeps T positive. A step is at most ``step`` long, and T stays within ``low`` to ``high`` times the
    mean distance of the batch. The first T is ``initial`` times that mean. Frosst, Papernot and Hinton 2019, section 2,
    learn 1/T itself, unbounded, which can become negative.
    """

    waits = True

    def __init__(self, initial: float = 1.0, *, step: float = 0.1, low: float = 1e-3, high: float = 1e3) -> None:
        super().__init__()
        self.initial, self.step = _check_positive("initial temperature", initial), _check_positive("step", step)
        if not 0 < low < high:
            raise ValueError(f"the bounds of a learned temperature must be 0 < low < high, got {low!r} and {high!r}")
        self.low, self.high = low, high
        self.log_inverse = torch.tensor(math.nan, dtype=torch.float64)
        """() log(1/T), NaN before the first step. Not a buffer: ``module.half()`` would round it."""

    def get_extra_state(self) -> Tensor:
        return self.log_inverse

    def set_extra_state(self, state: Tensor) -> None:
        self.log_inverse = state.detach().to(self.log_inverse, copy=True)

    @torch.no_grad()
    def forward(self, batch: PairwiseBatch | GroupedBatch) -> Tensor:
        log_mean = torch.where(batch.mean_distance > 0, batch.mean_distance, 1.0).log()
        bounds = -(log_mean + math.log(self.high)), -(log_mean + math.log(self.low))
        log_inverse = self.log_inverse.to(log_mean.device)
        current = torch.where(log_inverse.isnan(), -(log_mean + math.log(self.initial)), log_inverse).clamp(*bounds)
        if self.training:
            step = self.step * slope_by_log_inverse(batch, current.exp()).clamp(-1, 1)
            self.log_inverse = (current - step).clamp(*bounds)
        return current.exp().reshape(1)

    def extra_repr(self) -> str:
        return f"{self.initial:g}, step={self.step:g}, current={math.exp(-float(self.log_inverse)):.4g}"


class OptimalTemperature(Temperature):
    """The T with the lowest loss of the batch, of all T up to infinity: eq. 2 of Frosst et al. 2019, exactly.

    The lowest T tried is 1e-10 of the largest distance: below, the rounding of distances in float64 would decide.
    By the envelope theorem the gradient of the minimum by the features is the partial one at the optimal T, so T
    itself has no gradient.
    """

    waits = True

    def forward(self, batch: PairwiseBatch | GroupedBatch) -> Tensor:
        return optimal_inverse_temperature(batch).reshape(1)


TemperatureLike = float | str | Temperature
NAMED: dict[str, type[Temperature]] = {"learned": LearnedTemperature, "optimal": OptimalTemperature}


def as_temperature(value: TemperatureLike) -> Temperature:
    """Return the rule for a number, ``"learned"``, ``"optimal"`` or a :class:`Temperature`.

    Raises:
        ValueError: another name or type, or a number that is not above 0.
    """
    if isinstance(value, Temperature):
        return value
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]()
    if not isinstance(value, Real):
        raise ValueError(
            f"temperature must be a number above 0, a temperature object, 'learned' or 'optimal', got {value!r}"
        )
    return FixedTemperature(value)


def parse_temperature(text: str) -> Temperature:
    """Return the rule written as ``0.1`` (relative), ``0.1+0.3`` (mixed), ``absolute:50``, ``learned:0.1``,
    ``optimal``, ``annealed:1``, ``annealed:1:200`` (with a period in steps) or ``annealed-absolute:1:200``.

    Raises:
        ValueError: the text has none of these forms.
    """
    kind, _, argument = text.partition(":") if ":" in text else ("", "", text)
    try:
        if text in NAMED:
            return NAMED[text]()
        if any(0 < float(part) < LOWEST_IN_TEXT for part in re.split("[:+]", argument)):
            raise ValueError("it is too small")
        if kind in ("", "relative"):
            return RelativeTemperature(*(float(part) for part in argument.split("+")))
        if kind in ("annealed", "annealed-absolute"):
            initial, period = map(float, (argument if ":" in argument else f"{argument}:100").split(":"))
            if period == math.inf:
                raise ValueError("the temperature would never decrease")
            return AnnealedTemperature(initial, period=period, relative=kind == "annealed")
        forms: dict[str, type[Temperature]] = {"absolute": FixedTemperature, "learned": LearnedTemperature}
        return forms[kind](float(argument))
    except (ValueError, KeyError) as error:
        raise ValueError(
            "temperature must be a multiple of the mean squared distance such as 0.1, several such as 0.05+0.2, "
            "absolute:T, learned:START, annealed:START[:STEPS] or annealed-absolute:START[:STEPS], with numbers of at "
            f"least {LOWEST_IN_TEXT:g}, or optimal, got {text!r}"
        ) from error
