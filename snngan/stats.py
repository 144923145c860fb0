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


def summarize_shares(values: Sequence[float]) -> dict[str, Any]:
    """Return :func:`summarize` of shares in [0, 1], with the interval of the mean of arcsin(sqrt(share)), mapped back.

    So the interval lies in [0, 1], too; it holds the mean unless the shares are far apart.
    """
    _, low, high = mean_interval([math.asin(math.sqrt(min(1.0, max(0.0, value)))) for value in values])
    bounds = [math.sin(min(math.pi / 2, max(0.0, angle))) ** 2 for angle in (low, high)]
    return {**summarize(values), "interval": None if math.isnan(low) else bounds}


def summarize_correlations(values: Sequence[float]) -> dict[str, Any]:
    """Return :func:`summarize` of correlations, with the interval of the mean of Fisher's z, mapped back to (-1, 1)."""
    largest = 1 - 1e-6  # of which z is finite
    _, low, high = mean_interval([math.atanh(min(largest, max(-largest, value))) for value in values])
    return {**summarize(values), "interval": None if math.isnan(low) else [math.tanh(low), math.tanh(high)]}
