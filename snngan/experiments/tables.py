"""Statistics over seeds, and Markdown tables of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from snngan.experiments.runs import Log
from snngan.stats import summarize


def record(values: dict[str, Any], *keys: str, value: float) -> None:
    """Append ``value`` to the list under ``keys`` in nested dicts, which are created as needed."""
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values.setdefault(keys[-1], []).append(value)


def summarize_all(values: Any) -> Any:
    """Return nested mappings of lists of values, one per seed, as nested dicts of ``snngan.stats.summarize``."""
    if isinstance(values, Mapping):
        return {key: summarize_all(each) for key, each in values.items()}
    return summarize(values)


def as_text(value: Any, digits: int = 3) -> str:
    """Return a summary as ``mean (low to high)``, a number in short form, and None as nothing."""
    if isinstance(value, Mapping):
        bounds = [f"{bound:.{digits}g}" for bound in value["interval"] or ()]
        return f"{value['mean']:.{digits}g}" + (f" ({' to '.join(bounds)})" if bounds else "")
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 3) -> list[str]:
    """Return an empty line and the lines of a Markdown table, its cells written by :func:`as_text`."""
    lines = [f"| {' | '.join(as_text(cell, digits) for cell in cells)} |" for cells in (header, *rows)]
    return ["", lines[0], "|---" * len(header) + "|", *lines[1:]]


def compare_logs(logs: Mapping[str, Sequence[Log]], tag: str, best: Callable[..., float] = max) -> dict[str, Any]:
    """Return :func:`compare_paired` of the last value of a tag."""
    return compare_paired({name: [log[tag][1][-1] for log in each] for name, each in logs.items()}, best)


def compare_paired(values: Mapping[str, Sequence[float]], best: Callable[..., float] = max) -> dict[str, Any]:
    """Return statistics of two variants' values, one per seed, and of the second minus the first, with a p-value.

    The p-value is that of a paired t-test; None for a single seed, and where all differences are equal.
    """
    from scipy.stats import ttest_rel

    first, second = values.values()
    differences = [after - before for before, after in zip(first, second, strict=True)]
    p_value = float(ttest_rel(second, first).pvalue) if len({*differences}) > 1 else None
    statistics = {name: summarize(each, best) for name, each in {**values, "difference": differences}.items()}
    return {**statistics, "p_value": p_value}


def paired_table(rows: Mapping[str, Mapping[str, Any]], digits: int = 4) -> list[str]:
    """Return the Markdown table of :func:`compare_paired` by name, with the same two variants in each row."""
    variants = [name for name in next(iter(rows.values())) if name not in ("difference", "p_value")]
    cells = []
    for name, row in rows.items():
        means = [f"{as_text(row[each], digits)}, {as_text(row[each]['best'], digits)}" for each in variants]
        cells.append([name, *means, row["difference"], as_text(row["p_value"], 2)])
    return [
        "Mean over seeds (Student's 95 % interval) and best; the difference seed by seed, and the p-value of a paired "
        "t-test.",
        *markdown_table(("", *(f"{name}: mean, best" for name in variants), "difference", "p"), cells, digits),
    ]
