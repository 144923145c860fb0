"""Runs as one self-contained HTML page: metrics, samples by step, curves, options."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from snngan.config import ClassifyConfig, TrainConfig
from snngan.evaluation.measure import EVALUATIONS, values_of_all_images
from snngan.evaluation.plots import Log, new_figure
from snngan.files import read_json, read_lines, write_atomically
from snngan.stats import mean_interval
from snngan.training.run_folder import RunFolder
from snngan.training.tags import FAMILIES, describe_tag
from snngan.version import __version__

Run = RunFolder[Any]
MAX_GRIDS = 6
"""Sample grids of each run, spread over its steps."""
COLORS = ("#1f77b4", "#d95f02", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#555555", "#a6a61d", "#17becf")
"""One for each group of runs; they repeat after the last."""
CURVES = (
    *("entanglement/input_score", "entanglement/real_anchors", "entanglement/fake_anchors", "entanglement/projection"),
    *("loss/generator", "loss/discriminator"),
)
"""Tags that have a curve, beside those of the families of tags."""
UNGROUPED = ("seed", "seeds", "ensemble", "data_dir")
"""Options in which runs of one group may differ."""
OWN = ("fake", "fake_digest", "seed", "torch")
"""Entries of the protocol in which evaluations in one table may differ."""
PROTOCOL = (
    "{num_fake} samples of step {step} against {num_real} images of {real}; features: {extractor} "
    "({extractor_digest:.12}){pairwise}; resize: {resize}; snngan {snngan}"
)
LAST_LOGGED = "Last metrics logged while training on {dataset}, at step {training step}"
NOTE = "<p>Several seeds: mean and Student's 95 % interval. Bold: the best mean of a row.</p>"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.25rem; border-bottom: 1px solid #ccc }
h3 { font-size: 1.05rem } h4 { font-size: .9rem; font-weight: 400 } nav a { margin-right: 1.5rem } figure { margin: 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem } tr { border-bottom: 1px solid #ddd }
td, th { padding: .2rem 1.6rem .2rem .3rem; text-align: left; vertical-align: top; max-width: 24rem }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums } tbody th { font-weight: 400 }
small, figcaption, .metrics td:nth-child(2) { color: #666; font-size: .8rem; font-weight: 400 }
small { margin-left: .5em } th small { display: block; margin: 0 } .metrics td:nth-child(n + 3) { white-space: nowrap }
.differs { background: #fff6d6 } summary { cursor: pointer; color: #06c; font-size: .85rem }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em }
.curves, .grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1rem }
.grids { grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)) } figcaption b { color: #222 }
.curves figcaption { min-height: 3em } .curves svg { width: 100%; height: auto }
.grids img { width: 100%; image-rendering: pixelated }
@media (max-width: 40rem) { .metrics tr > :nth-child(-n + 2), td small { display: block; margin: 0 } }
"""


class Series(NamedTuple):
    """One seed of a run: its name on the page, and its logged values."""

    name: str
    run: Run
    log: Log


class Group(NamedTuple):
    """The seeds of one configuration."""

    label: str
    color: str
    series: list[Series]

    def heading(self, names: Sequence[str]) -> str:
        """Return color, label and the given ``names`` of seeds as HTML."""
        text = f"{len(names)} seeds: " * (len(names) > 1) + ", ".join(names)
        return f'<i style="background:{self.color}"></i>{escape(self.label)}<small>{escape(text)}</small>'


def write_report(runs: Sequence[Run], path: Path) -> None:
    """Write the page of ``runs`` to ``path``; it refers to no other file and to no other address.

    Raises:
        SaveError: the file cannot be written.
    """
    named = list(zip(distinct_names([run.path for run in runs]), runs, strict=True))
    title = ", ".join(name for name, _ in named) if len(named) < 4 else f"{len(named)} runs"
    sections: dict[str, list[str]] = {"Metrics": [NOTE], "Samples": [], "Curves": [], "Options": []}
    for heading, kind in {"Generators": TrainConfig, "Classifiers": ClassifyConfig}.items():
        if some := [each for each in named if isinstance(each[1].config, kind)]:
            groups = group_by_seed(some)
            sections["Metrics"] += [f"<h3>{heading}</h3>", *metric_tables(groups)]
            sections["Samples"] += _samples(groups)
            sections["Curves"] += [f"<h3>{heading}</h3>", *curves(groups)]
            sections["Options"] += [f"<h3>{heading}</h3>", *_options(some)]
    body = [f"<h1>{escape(title)}</h1><nav>", *(f'<a href="#{name}">{name}</a>' for name in sections), "</nav>"]
    for name, content in sections.items():
        body += [f'<h2 id="{name}">{name}</h2>', *(content or ["<p>None.</p>"])]
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>\n"
        + "\n".join([*body, f"<p><small>written by snngan {__version__}</small></p>\n</html>\n"])
    )
    write_atomically(path, page.encode())


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, with as many parts before it as are needed to tell the paths apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def group_by_seed(named: Sequence[tuple[str, Run]]) -> list[Group]:
    """Return groups of the seeds of runs, all of one kind, whose options are the same but for the seed.

    A seed that occurs again, as in a copy of a run, is in another group: it adds nothing to an interval.
    """
    found: dict[tuple[str, int], list[Series]] = {}
    repeats: Counter[tuple[str, int]] = Counter()
    for name, run in named:
        values, log, seeds = run.config.to_json(), read_metrics(run), run.config.seed_list
        options = str({key: value for key, value in values.items() if key not in UNGROUPED})
        for seed in seeds:
            prefix, title = (f"seed-{seed}/", f"{name} seed {seed}") if len(seeds) > 1 else ("", name)
            own = {tag.removeprefix(prefix): each for tag, each in log.items() if tag.startswith(prefix)}
            repeats[options, seed] += 1
            found.setdefault((options, repeats[options, seed]), []).append(Series(title, run, own))
    configs = [series[0].run.config for series in found.values()]
    rows = _rows([config.flat_values() for config in configs])
    groups = []
    for number, (config, series) in enumerate(zip(configs, found.values(), strict=True)):
        alike = [n for n, each in enumerate(configs) if (each.title, each.dataset) == (config.title, config.dataset)]
        differing = [key for key, cells in rows.items() if len({cells[n] for n in alike}) > 1 and key not in UNGROUPED]
        words = [f"{key} {rows[key][number]}" for key in differing[:4] if rows[key][number]]
        label = ", ".join([config.title, config.dataset.rpartition("/")[2], *words])
        groups.append(Group(label, COLORS[number % len(COLORS)], series))
    return groups


def _rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the cells of each key as text, empty where a column lacks it."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: [str(column.get(key, "")) for column in columns] for key in keys}


def metric_tables(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a table for each protocol of evaluations, and for each step of last logged values."""
    every = [series for group in groups for series in group.series]
    evaluated = {series.name: read_evaluations(series.run) for series in every}
    tables: dict[tuple[tuple[str, str], ...], dict[str, dict[str, Any]]] = {}
    for name, each in [
        *((name, each) for name, found in evaluated.items() for each in found),
        *((series.name, each) for series in every for each in _last_logged(series)),
    ]:
        protocol = tuple(sorted(item for item in each["protocol"].items() if item[0] not in OWN))
        table = tables.setdefault(protocol, {})
        before = table.get(name, each)
        if before["protocol"].get("fake_digest") == each["protocol"].get("fake_digest"):
            # The newest counts, together with other metrics of the same samples.
            each = {part: before[part] | each[part] for part in ("metrics", "intervals", "protocol")}
        table[name] = each
    for table in tables.values():
        yield from _table(groups, table)
    if not tables:
        yield "<p>No metrics yet.</p>"
    missing = [name for name, found in evaluated.items() if not found]
    if missing and isinstance(every[0].run.config, TrainConfig):
        yield f"<p>Not evaluated yet: {escape(', '.join(missing))}. <code>snngan evaluate RUN</code> does it.</p>"


def _last_logged(series: Series) -> Iterator[dict[str, Any]]:
    """Yield the last logged values in the form of evaluations, one for each step."""
    by_step: dict[int, dict[str, float]] = {}
    for tag in _curve_tags([series.log]):
        steps, values = series.log[tag]
        if not tag.startswith("loss/"):
            by_step.setdefault(steps[-1], {})[tag] = values[-1]
    data = {"dataset": series.run.config.dataset, "data_digest": series.run.config.data_digest}
    for step in sorted(by_step, reverse=True):
        yield {"metrics": by_step[step], "intervals": {}, "protocol": {"training step": str(step)} | data}


def _table(groups: Sequence[Group], table: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Yield means over the evaluations (by name) of each group, and below them each evaluation."""
    columns = [[series.name for series in group.series if series.name in table] for group in groups]
    first = defaultdict(lambda: "?", next(iter(table.values()))["protocol"], pairwise="")
    if (count := first["pairwise_count"]) != "0":
        first["pairwise"] = f"; all but {', '.join(values_of_all_images())} over the first {count} of each"
    yield f"<h4>{escape((LAST_LOGGED if 'training step' in first else PROTOCOL).format_map(first))}</h4>"
    headings = [group.heading(names) for group, names in zip(groups, columns, strict=True) if names]
    head = "".join(f"<th>{each}</th>" for each in ["", "", *headings])
    yield _wide("metrics", f"<tr>{head}</tr>", _means([[table[name] for name in names] for names in columns if names]))
    names = [name for column in columns for name in column]
    each_seed = [_row("td", [key, "", *cells]) for key, cells in _rows([table[n]["protocol"] for n in names]).items()]
    yield "<details><summary>numbers of each seed</summary>"
    yield _wide("metrics", _row("th", ["", "", *names]), [*_means([[table[n]] for n in names]), *each_seed])
    yield "</details>"


def _means(columns: Sequence[Sequence[dict[str, Any]]]) -> Iterator[str]:
    """Yield a row for each metric: how to read it, and the mean over the evaluations of each column, the best bold."""
    everything = [each for column in columns for each in column]
    extractor = everything[0]["protocol"].get("extractor", "")
    for metric in dict.fromkeys(metric for each in everything for metric in each["metrics"]):
        description = describe_tag(metric)
        choose = min if "lower is better" in description else max if "higher is better" in description else None
        cells = [_mean([each for each in column if metric in each["metrics"]], metric) for column in columns]
        means = [mean for mean, _ in cells if mean is not None]
        best = choose(means) if choose and len(means) > 1 else None
        space = f" ({extractor})" if extractor and "_input" not in metric else ""
        row = f"<th>{escape(metric + space)}</th><td>{escape(description)}</td>"
        for mean, note in cells:
            text = "" if mean is None else f"<b>{mean:.4g}</b>" if mean == best else f"{mean:.4g}"
            row += f"<td>{text}{note}</td>"
        yield f"<tr>{row}</tr>"


def _mean(evaluations: Sequence[dict[str, Any]], metric: str) -> tuple[float | None, str]:
    """Return the mean of a metric, None without evaluations, and its interval and their number as HTML."""
    if not evaluations:
        return None, ""
    mean, low, high = mean_interval([each["metrics"][metric] for each in evaluations])
    if len(evaluations) > 1:
        return mean, f"<small>{low:.4g} to {high:.4g}, n = {len(evaluations)}</small>"
    interval = evaluations[0]["intervals"].get(metric)
    return mean, f"<small>{interval[0]:.4g} to {interval[1]:.4g}</small>" if interval else ""


def _samples(groups: Sequence[Group]) -> Iterator[str]:
    """Yield each generator's sample grids by step."""
    for group in groups:
        for name, run, _ in group.series:
            if not isinstance(run.config, TrainConfig):
                return
            paths = sorted(run.samples.glob("step-*.png"))
            chosen = sorted({round(number * (len(paths) - 1) / (MAX_GRIDS - 1)) for number in range(MAX_GRIDS)})
            yield f'<h3><i style="background:{group.color}"></i>{escape(name)}</h3><div class="grids">'
            for path in [paths[number] for number in chosen] if paths else []:
                picture, step = base64.b64encode(path.read_bytes()).decode(), int(path.stem.removeprefix("step-"))
                yield f'<figure><img src="data:image/png;base64,{picture}" alt="{escape(name)}, step {step}">'
                yield f"<figcaption>step {step}</figcaption></figure>"
            yield "</div>" if paths else "</div><p>No samples yet.</p>"


def curves(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a plot for each tag, with a line for each seed in the color of its group."""
    for group in groups:
        yield f"<div>{group.heading([series.name for series in group.series])}</div>"
    yield '<div class="curves">'
    everything = [(group.color, series.log) for group in groups for series in group.series]
    for tag in _curve_tags([log for _, log in everything]):
        lines = [(color, *log[tag]) for color, log in everything if tag in log]
        caption = f"<figcaption><b>{escape(tag)}</b><br>{escape(describe_tag(tag))}</figcaption>"
        yield f"<figure>{caption}{_plot(tag, lines)}</figure>"
    yield "</div>"


def _curve_tags(logs: Sequence[Log]) -> list[str]:
    """Return the tags in any of the logs that have a curve."""
    found = {tag for log in logs for tag in log}
    in_family = sorted(tag for tag in found if tag.rpartition("/")[0] in FAMILIES)
    return [*(tag for tag in CURVES if tag in found), *in_family]


def read_metrics(run: Run) -> dict[str, tuple[list[int], list[float]]]:
    """Return the steps and values of each tag in the run's ``metrics.jsonl``; an unfinished line is skipped."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for values in read_lines(run.path / "metrics.jsonl"):
        step = values.pop("step")
        for tag, value in values.items():
            if value is not None:  # not finite
                steps, numbers = found.setdefault(tag, ([], []))
                steps.append(step)
                numbers.append(value)
    return found


def _plot(tag: str, lines: Sequence[tuple[str, list[int], list[float]]]) -> str:
    """Return an SVG plot of lines, each a color, steps and values; a single value is a marker."""
    import matplotlib as mpl

    figure, (axes,) = new_figure()
    figure.set_size_inches(5, 3)
    for color, steps, values in lines:
        axes.plot(steps, values, color, linewidth=1.2, marker="o" if len(set(steps)) == 1 else "")
    axes.set_xlabel("step", fontsize=8)
    axes.locator_params("x", integer=True)
    axes.tick_params(labelsize=8)
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": tag}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()[content.getvalue().index("<svg") :]


def _options(named: Sequence[tuple[str, Run]]) -> Iterator[str]:
    """Yield the options of every run; those in which runs differ are first and highlighted."""
    head = _row("th", ["", *(name for name, _ in named)])
    rows = _rows([run.config.flat_values() | read_json(run.path / "config.json")["environment"] for _, run in named])
    differing, alike = (
        [_row("td", [key, *cells]) for key, cells in rows.items() if (len(set(cells)) > 1) == differ]
        for differ in (True, False)
    )
    yield _wide("differs", head, differing) if differing else ""
    yield f"<details><summary>{len(alike)} {'options that do not differ' if len(named) > 1 else 'options'}</summary>"
    yield _wide("alike", head, alike) + "</details>"


def read_evaluations(run: Run) -> list[dict[str, Any]]:
    """Return what ``snngan evaluate`` left in the run's folder, oldest first, without metrics that are not finite.

    Values of protocols become text.
    """
    found = list(read_lines(run.path / EVALUATIONS))
    for each in found:
        each["protocol"] = {key: str(value) for key, value in each["protocol"].items()}
        each["metrics"] = {name: value for name, value in each["metrics"].items() if value is not None}
    return found


def _wide(kind: str, head: str, rows: Iterable[str]) -> str:
    """Return a table that scrolls by itself where the window is narrower."""
    return f'<div class="wide"><table class="{kind}"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(cell: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in texts) + "</tr>"
