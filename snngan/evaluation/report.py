"""Runs as one self-contained HTML page: options, curves, samples through time, figures with their protocol."""

from __future__ import annotations

import base64
import dataclasses
import io
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NoReturn

from snngan.evaluation.measure import EVALUATIONS
from snngan.files import write_atomically
from snngan.training.runlog import ClassifierFolder, RunFolder
from snngan.untrusted import check_regular, read_json, read_lines
from snngan.version import __version__

MOST_STEPS = 1 << 53
"""Steps beyond it are no longer told apart as numbers of a plot."""
LARGEST_VALUE, LONGEST_TAG = 1e100, 100
"""Numbers that a plot can scale, and characters of its title."""
MOST_PLOTS, MOST_ROWS = 60, 200
"""More than any run has: the page of a hostile one ends there."""
GRIDS = 6
"""Sample grids of each run, spread over its steps."""
CURVES = {
    "entanglement/input_score": "entanglement score of samples and held-out images; 1: not to be told apart",
    "entanglement/real_anchors": "loss of real anchors; log 2 = 0.693 is chance",
    "entanglement/fake_anchors": "loss of synthetic anchors",
    "entanglement/projection": "loss in the learned space",
    "loss/generator": "loss of the generator",
    "loss/discriminator": "loss of the discriminator",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; font-size: .9rem } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top } td.number { text-align: right; font-variant-numeric: tabular-nums }
tr.differs { background: #fff6d6 }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem }
.curves svg { width: 100%; height: auto } figure { margin: 0; display: inline-block; width: 15rem; margin-right: .6rem }
figure img { width: 100%; image-rendering: pixelated } figcaption, small { color: #666; font-size: .8rem }
"""


def write_report(runs: Sequence[RunFolder], path: Path) -> None:
    """Write the page of ``runs`` to ``path``; it refers to no other file and to no other place.

    Raises:
        SaveError: the file cannot be written.
    """
    names = distinct_names([run.path for run in runs])
    title = ", ".join(names)
    body = [
        f"<h1>{escape(title)}</h1>",
        *_options(runs, names),
        *_curves(runs, names),
        *_grids(runs, names),
        *_figures(runs, names),
        f"<p><small>written by snngan {__version__}</small></p>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>\n" + "\n".join(body) + "\n</html>\n"
    )
    write_atomically(path, page.encode(errors="backslashreplace"))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, with as many of those before it as it takes to tell the paths apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            break
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    return [name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
            for place, name in enumerate(names)]  # fmt: skip


def _options(runs: Sequence[RunFolder], names: Sequence[str]) -> Iterator[str]:
    """Yield the options of every run in one table; those in which runs differ stand out."""
    columns = [_flat(dataclasses.asdict(run.plan)) | _environment(run) for run in runs]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = {key: [str(column.get(key, "")) for column in columns] for key in keys}
    yield "<h2>Options</h2><table>" + _row("th", ["", *names])
    for key in sorted(keys, key=lambda key: len(set(rows[key])) == 1):
        kind = ' class="differs"' if len(set(rows[key])) > 1 else ""
        yield f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in [key, *rows[key]])}</tr>"
    yield "</table>"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return a plan's options with those of its parts on one level."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _environment(run: RunFolder) -> dict[str, Any]:
    content = read_json(run.path / "config.json")
    environment = content.get("environment", {})
    return environment if isinstance(environment, dict) else {}


def _curves(runs: Sequence[RunFolder], names: Sequence[str]) -> Iterator[str]:
    """Yield a plot a tag, with a line a run."""
    logs = [read_metrics(run) for run in runs]
    tags = [tag for tag in CURVES if any(tag in log for log in logs)]
    tags += sorted({tag for log in logs for tag in log if tag.startswith(("features/", "pixels/"))})[:MOST_PLOTS]
    yield '<h2>Curves</h2><div class="curves">'
    for tag in tags:
        yield _plot(tag, {name: log[tag] for name, log in zip(names, logs, strict=True) if tag in log}, names)
    yield "</div>"


class Readings(dict[str, tuple[list[int], list[float]]]):
    """Steps and values by tag; to ask for a tag that is not there raises ``ValueError``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __missing__(self, tag: str) -> NoReturn:
        raise ValueError(f"{self.path} holds no reading of {tag}: remove its folder, and it is trained anew")


def read_metrics(run: RunFolder | ClassifierFolder) -> Readings:
    """Return the steps and values of each tag in the run's ``metrics.jsonl``.

    Unfinished lines are passed over, and what no run logs: endless tags and numbers that no plot can hold.
    """
    found = Readings(run.path / "metrics.jsonl")
    for values in read_lines(run.path / "metrics.jsonl"):
        step = values.pop("step", None)
        if type(step) is not int or abs(step) > MOST_STEPS:
            continue
        for tag, value in values.items():
            if (
                isinstance(value, (int, float))
                and abs(value) <= LARGEST_VALUE
                and (tag in found or (len(tag) <= LONGEST_TAG and tag.isprintable()))
            ):
                steps, numbers = found.setdefault(tag, ([], []))
                steps.append(step)
                numbers.append(float(value))
    return found


def _plot(tag: str, lines: dict[str, tuple[list[int], list[float]]], names: Sequence[str]) -> str:
    """Return a plot as SVG; a run has one colour in all of them."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, (steps, values) in lines.items():
        axes.plot(steps, values, f"C{names.index(name) % 10}", label=name.replace("$", r"\$"), linewidth=1.2)
    axes.set_title(f"{tag}\n{CURVES.get(tag, '')}".replace("$", r"\$"), fontsize=8)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7)
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": tag}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its font lacks: a browser has others
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()[content.getvalue().index("<svg") :]


def _grids(runs: Sequence[RunFolder], names: Sequence[str]) -> Iterator[str]:
    """Yield each run's sample grids through time."""
    yield "<h2>Samples through time</h2>"
    for run, name in zip(runs, names, strict=True):
        paths = [] if run.samples.is_symlink() else sorted(run.samples.glob("step-*.png"))
        paths = [path for path in paths if path.is_file() and not path.is_symlink()]
        places = sorted(
            {round(place * (len(paths) - 1) / max(1, GRIDS - 1)) for place in range(GRIDS)} if paths else []
        )
        yield f"<h3>{escape(name)}</h3><div>"
        for path in (paths[place] for place in places):
            check_regular(path)
            picture = base64.b64encode(path.read_bytes()).decode()
            step = path.stem.removeprefix("step-").lstrip("0") or "0"
            yield (
                f'<figure><img src="data:image/png;base64,{picture}" alt="{escape(name)}, step {escape(step)}">'
                f"<figcaption>step {escape(step)}</figcaption></figure>"
            )
        yield "</div>"


def _figures(runs: Sequence[RunFolder], names: Sequence[str]) -> Iterator[str]:
    """Yield what ``snngan evaluate`` found of each run, with the protocol of each time."""
    entries = [(name, each) for run, name in zip(runs, names, strict=True) for each in read_evaluations(run)]
    yield "<h2>Figures</h2>"
    if not entries:
        yield "<p>None yet: <code>snngan evaluate RUN</code> takes them and leaves them in the run's folder.</p>"
        return
    figures = list(dict.fromkeys(figure for _, each in entries for figure in each["figures"]))[:MOST_ROWS]
    protocols = list(dict.fromkeys(key for _, each in entries for key in each["protocol"]))[:MOST_ROWS]
    yield "<table>" + _row("th", ["", *(name for name, _ in entries)])
    for figure in figures:
        cells = [_number(each, figure) for _, each in entries]
        yield f"<tr><td>{escape(figure)}</td>{''.join(f'<td class=number>{cell}</td>' for cell in cells)}</tr>"
    for key in protocols:
        yield _row("td", [key, *(str(each["protocol"].get(key, ""))[:60] for _, each in entries)])
    yield "</table>"


def _number(evaluation: dict[str, Any], figure: str) -> str:
    value = evaluation["figures"].get(figure)
    bounds = evaluation.get("intervals", {}).get(figure)
    interval = f"<br><small>{bounds[0]:.4g} to {bounds[1]:.4g}</small>" if bounds else ""
    return f"{value:.4g}{interval}" if isinstance(value, (int, float)) else ""


def read_evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """Return what ``snngan evaluate`` has left in the run's folder, oldest first; damaged lines are passed over."""
    found = []
    for content in read_lines(run.path / EVALUATIONS):
        try:
            content["protocol"].items()
            content["figures"] = {
                name: value if isinstance(value, bool | str | None) else float(value)
                for name, value in content["figures"].items()
            }
            content["intervals"] = {
                name: (float(low), float(high)) for name, (low, high) in content["intervals"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue
        found.append(content)
    return found


def _row(cell: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in texts) + "</tr>"
