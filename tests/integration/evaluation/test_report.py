"""The page of runs: grouping by seed, tables by protocol, bold values, curves, samples and options."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snngan.cli import main
from snngan.config import Config, TrainConfig
from snngan.evaluation.measure import EVALUATIONS, Evaluation
from snngan.evaluation.report import (
    COLORS,
    distinct_names,
    group_by_seed,
    read_evaluations,
    read_metrics,
    write_report,
)
from snngan.training.run_folder import open_run
from snngan.training.tags import describe_tag

Change = Callable[..., Path]


class Page:
    """What a page shows and what it refers to.

    ``tables`` holds each one's kind, its place (``details`` or empty) and its rows of cells, in which a bold number
    follows a * and small print a |. ``plots`` holds, by tag, the number of markers drawn in a group's color.
    """

    def __init__(self, path: Path) -> None:
        page = path.read_text()
        self.text = text_of(page)
        self.tags = re.findall(r"<(\w+)", page)
        self.places = re.findall(r'(?:src|href)="([^"]*)"', page)
        self.sections = re.findall(r'<h2 id="\w+">(\w+)</h2>', page)
        self.tables: list[tuple[str, str, list[list[str]]]] = []
        for table in re.finditer(r'<table class="(\w+)">(.*?)</table>', page, re.DOTALL):
            is_inside = page.count("<details>", 0, table.start()) > page.count("</details>", 0, table.start())
            rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table[2])]
            self.tables.append((table[1], "details" * is_inside, [[text_of(cell) for cell in row] for row in rows]))
        figures = re.findall(r"<figcaption><b>(.*?)</b>(.*?)</figure>", page, re.DOTALL)
        self.plots = {tag: len(re.findall(f"<use [^>]*({'|'.join(COLORS)})", plot)) for tag, plot in figures}

    def metrics(self, place: str = "") -> list[dict[str, list[str]]]:
        """Return the tables of metrics: cells by the row's name, those of the head under the empty one."""
        found = [rows for kind, where, rows in self.tables if (kind, where) == ("metrics", place)]
        return [{row[0]: row[1:] for row in rows} for rows in found]


def text_of(page: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", page.replace("<b>", "*").replace("<small>", " | ")))


def page_of(tmp_path: Path, *paths: Path) -> Page:
    """Return the page of the runs in these folders."""
    write_report([open_run(path, Config) for path in paths], tmp_path / "page.html")
    return Page(tmp_path / "page.html")


@pytest.fixture
def changed(short_run: Path, tmp_path: Path) -> Change:
    """Return a function that copies a run, of a generator if not told otherwise, under a name with other options."""

    def copy(name: str, run: Path = short_run, **options: Any) -> Path:
        path = Path(shutil.copytree(run, tmp_path / name, dirs_exist_ok=True))
        content = json.loads((path / "config.json").read_text())
        for key, value in options.items():
            assert key in content["config"]
            content["config"][key] = value
        (path / "config.json").write_text(json.dumps(content))
        return path

    return copy


def keep(run: Path, extractor: str = "pixels", digest: str = "f", **metrics: float) -> None:
    """Leave an evaluation in a run's folder, of samples with this digest."""
    protocol = {"extractor": extractor, "fake": str(run), "fake_digest": digest, "num_fake": 10}
    Evaluation(metrics, {}, protocol).append_to(run)


def test_the_page_is_self_contained(changed: Change, tmp_path: Path) -> None:
    runs = changed("plain"), changed("<script>x & $y$")
    Evaluation({"fid": 12.5, "kid": 0.25}, {"kid": (0.1, 0.4)}, {"extractor": "<b>"}).append_to(runs[0])
    Evaluation({"<script>": 1.0}, {}, {"<script>": "<script>", "extractor": "<script>"}).append_to(runs[1])
    page = page_of(tmp_path, *runs)
    assert "script" not in page.tags
    assert all(place.startswith(("data:image/png;base64,", "#")) for place in page.places)
    assert page.tags.count("img") == 2 * len(list((runs[0] / "samples").glob("*.png")))
    assert page.tags.count("svg") >= 4
    shown = ("plain", "<script>x & $y$", "snnl-projected", "entanglement/input_score", "12.5", "0.1 to 0.4", "<b>")
    assert all(words in page.text for words in shown)


def test_unfinished_lines_and_values_that_are_not_finite_are_skipped(changed: Change) -> None:
    run = open_run(changed("run"), TrainConfig)
    before = read_metrics(run)
    assert len(before["loss/generator"][0]) >= 2
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "loss/generator": null}\n{"step": 100, "loss/gen')
    assert read_metrics(run) == before
    Evaluation({"fid": 1.0, "kid": float("nan")}, {}, {"seed": 0}).append_to(run.path)
    with open(run.path / EVALUATIONS, "a") as file:
        file.write('{"metrics": {"fid"')
    assert read_evaluations(run) == [{"metrics": {"fid": 1.0}, "intervals": {}, "protocol": {"seed": "0"}}]


def test_runs_of_one_name(changed: Change, tmp_path: Path) -> None:
    paths = [Path("/a/x/run"), Path("/a/y/run"), Path("/a/y/other")]
    assert distinct_names(paths) == ["x/run", "y/run", "y/other"]
    text = page_of(tmp_path, changed("plain"), changed("twin/plain")).text
    assert f"{tmp_path.name}/plain" in text
    assert "twin/plain" in text


def test_runs_that_differ_by_seed_are_one_group(changed: Change, tmp_path: Path) -> None:
    first, second = changed("first", seed=0), changed("second", seed=1)
    other = changed("other", seed=1, learning_rate=0.01)
    for run, fid in ((first, 10.0), (second, 14.0), (other, 20.0)):
        keep(run, fid=fid, recall=fid / 10, density=fid / 10, copies_input=0.25)
    page = page_of(tmp_path, first, other, second)
    table = page.metrics()[0]
    assert [re.sub("snnl-projected, digits, ", "", head) for head in table[""][1:]] == [
        "learning_rate 0.0008 | 2 seeds: first, second",
        "learning_rate 0.01 | other",
    ]
    assert table["fid (pixels)"] == [describe_tag("fid"), "*12 | -13.41 to 37.41, n = 2", "20"]
    assert table["recall (pixels)"] == [describe_tag("recall"), "1.2 | -1.341 to 3.741, n = 2", "*2"]
    assert table["density (pixels)"] == [describe_tag("density"), "1.2 | -1.341 to 3.741, n = 2", "2"]
    assert table["copies_input"] == [describe_tag("copies_input"), "0.25 | 0.25 to 0.25, n = 2", "0.25"]  # in pixels
    own = page.metrics("details")[0]
    assert own[""][1:] == ["first", "second", "other"]
    assert own["fid (pixels)"] == [describe_tag("fid"), "*10", "14", "20"]
    assert own["num_fake"] == ["", "10", "10", "10"]


def test_groups_are_of_equal_options_and_hold_no_seed_twice(changed: Change) -> None:
    paths = [
        changed("first", seed=0), changed("copy", seed=0), changed("second", seed=1, data_dir="/elsewhere"),
        changed("steps", steps=8), changed("data", data_digest="another"),
        changed("objective", objective_options={"discriminator_dim": 4}),
    ]  # fmt: skip
    groups = group_by_seed([(path.name, open_run(path, Config)) for path in paths])
    assert [[series.name for series in group.series] for group in groups] == [
        ["first", "second"], ["copy"], ["steps"], ["data"], ["objective"],
    ]  # fmt: skip


def test_no_table_over_two_protocols_data_sets_or_steps(changed: Change, tmp_path: Path) -> None:
    first, second, other = changed("first"), changed("second", seed=1), changed("other", data_digest="another")
    keep(first, "classifier:digits", fid=3.0)
    keep(second, "inception", fid=5.0)
    kept = (second / "metrics.jsonl").read_text().splitlines(keepends=True)
    (second / "metrics.jsonl").write_text("".join(line for line in kept if json.loads(line)["step"] < 4))
    page = page_of(tmp_path, first, second, other)
    by_classifier, by_inception, last, before, of_other = page.metrics()
    assert by_classifier["fid (classifier:digits)"] == [describe_tag("fid"), "3"]
    assert by_inception["fid (inception)"] == [describe_tag("fid"), "5"]
    names = [[head.partition(" | ")[2] for head in table[""][1:]] for table in (last, before, of_other)]
    assert names == [["first"], ["second"], ["other"]]
    for step in (2, 4):
        assert f"Last metrics logged while training on digits, at step {step}" in page.text


def test_the_newest_evaluation_counts(changed: Change, tmp_path: Path) -> None:
    run = changed("run")
    keep(run, fid=3.0, kid=1.0)
    keep(run, fid=4.0)
    table = page_of(tmp_path, run).metrics()[0]
    assert (table["fid (pixels)"][1], table["kid (pixels)"][1]) == ("4", "1")  # kid is that of the same samples
    keep(run, digest="trained further", fid=4.0)
    assert "kid (pixels)" not in page_of(tmp_path, run).metrics()[0]


def test_generators_and_classifiers(changed: Change, classifier: Path, short_run: Path, tmp_path: Path) -> None:
    single = changed("third", run=classifier, seeds="2")
    lines = [json.loads(line) for line in (single / "metrics.jsonl").read_text().splitlines()]
    kept = [{tag: value for tag, value in line.items() if not tag.startswith("seed-")} for line in lines]
    (single / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    page = page_of(tmp_path, classifier, short_run, single)
    assert page.sections == ["Metrics", "Samples", "Curves", "Options"]
    assert page.text.index("Generators") < page.text.index("Classifiers")
    table = page.metrics()[-1]
    assert table[""][1:] == ["feedforward, digits | 3 seeds: classifier seed 0, classifier seed 1, third"]
    both = [lines[-1][f"seed-{seed}/accuracy/test"] for seed in (0, 1)]
    mean = (sum(both) + lines[-1]["accuracy/test"]) / 3
    assert re.fullmatch(f"{mean:.4g} .*, n = 3", table["accuracy/test"][1])
    own = page.metrics("details")[-1]
    assert own["accuracy/test"][1:3] == [f"*{each:.4g}" if each == max(both) else f"{each:.4g}" for each in both]
    for tag in ("cross_entropy/train", "calibration_error/test", "entanglement/train/fc1", "entanglement/test/fc1"):
        assert tag in table
        assert tag in page.plots
    assert not any(tag.startswith("seed-") for tag in [*table, *page.plots])
    assert page.tags.count("img") == len(list((short_run / "samples").glob("*.png")))
    differing, alike = ([rows for kind, _, rows in page.tables if kind == which] for which in ("differs", "alike"))
    assert [row[0] for rows in differing for row in rows] == ["", "seeds"]
    assert [len(rows[0]) for rows in alike] == [2, 3]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_single_value_is_a_marker(changed: Change, tmp_path: Path, steps: int) -> None:
    run = changed("run")
    lines = [{"step": step, "loss/generator": 0.5} for step in (2, 4)[:steps]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert page_of(tmp_path, run).plots == {"loss/generator": int(steps == 1)}


def test_empty_runs(changed: Change, classifier: Path, tmp_path: Path) -> None:
    paths = [changed("new"), changed("also-new", run=classifier)]
    for path in paths:
        (path / "metrics.jsonl").unlink()
        shutil.rmtree(path / "samples", ignore_errors=True)
        shutil.rmtree(path / "checkpoints")
    page = page_of(tmp_path, *paths)
    assert page.text.count("No metrics yet.") == 2
    assert "No samples yet." in page.text
    assert "Not evaluated yet: new." in page.text
    assert page.metrics() == []


def report(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Return exit status, output and errors of ``snngan report``."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["report", *map(str, words)])
    assert isinstance(left.value.code, int)
    return left.value.code, *capsys.readouterr()


def test_other_paths_are_left_out(changed: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, damaged, empty, page = changed("run"), changed("x"), tmp_path / "data", tmp_path / "p.html"
    (damaged / "config.json").write_text("{")
    empty.mkdir()
    status, out, err = report(capsys, empty, run, damaged, "--out", page)
    assert status == 0
    assert out.splitlines() == [f"1 run -> {page}", f"open it in a browser: {page.as_uri()}"]
    for path, line in zip((empty, damaged), err.splitlines(), strict=True):
        assert line.startswith("left out: ") and str(path) in line
    assert Page(page).sections


def test_errors_are_one_line(changed: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = changed("runs/run"), tmp_path / "page.html"
    page.write_text("mine")
    for words, message in (
        ([run.parent], f"{run.parent} is not a run folder: it has no config.json; give one of the runs in it"),
        ([tmp_path, page], "none of 2 paths is a run"),
        ([run, tmp_path / "typo"], f"no run folder {tmp_path / 'typo'}"),
    ):
        status, out, err = report(capsys, *words, "--out", tmp_path / "new.html")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert message in err
        assert not (tmp_path / "new.html").exists()
    assert (
        f"{page} exists already: give another --out, or --force to replace it" in report(capsys, run, "--out", page)[2]
    )
    assert page.read_text() == "mine"
    assert report(capsys, run, "--out", page, "--force")[0] == 0
    assert Page(page).sections
