"""Means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of Student's 95 % interval, which are NaN for a single value.

    Example:
        >>> mean, low, high = mean_interval([1.0, 2.0, 3.0])
        >>> mean, round(low, 3), round(high, 3)
        (2.0, -0.484, 4.484)
    """
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    return mean, mean - half, mean + half


def summarize(values: Sequence[float], best: Callable[[Sequence[float]], float] = max) -> dict[str, Any]:
    """Return mean, best value and Student's 95 % interval of ``values``; the interval of a single one is None."""
    mean, low, high = mean_interval(values)
    interval = None if math.isnan(low) else [low, high]
    return {"mean": mean, "best": best(values), "interval": interval, "values": list(values)}
