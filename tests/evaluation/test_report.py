from __future__ import annotations

import html.parser
import json
import shutil
from pathlib import Path

import pytest

from snngan.evaluation.measure import EVALUATIONS, Evaluation
from snngan.evaluation.report import distinct_names, read_evaluations, read_metrics, write_report
from snngan.training.runlog import RunFolder


class Page(html.parser.HTMLParser):
    """What a page shows and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.places, self.tags = "", [], []  # type: ignore[var-annotated]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.places += [value for name, value in attrs if name.endswith(("src", "href")) and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def runs(short_run: Path, tmp_path: Path) -> list[RunFolder]:
    """Return two runs, the second under a name that is no HTML."""
    return [RunFolder.open(Path(shutil.copytree(short_run, tmp_path / name))) for name in ("plain", "<script>x & $y$")]


def test_the_page_stands_alone_and_shows_all(runs: list[RunFolder], tmp_path: Path) -> None:
    Evaluation({"fid": 12.5, "kid": 0.25}, {"kid": (0.1, 0.4)}, {"extractor": "<b>"}).keep(runs[0].path)
    write_report(runs, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert "script" not in page.tags
    assert all(place.startswith(("data:image/png;base64,", "#")) for place in page.places)
    assert page.tags.count("img") == 2 * len(list(runs[0].samples.glob("*.png")))
    assert page.tags.count("svg") >= 4
    for words in (
        "plain",
        "<script>x & $y$",
        "snnl-projected",
        "entanglement/input_score",
        "12.5",
        "0.1 to 0.4",
        "<b>",
    ):
        assert words in page.text


def test_unfinished_lines_are_passed_over(runs: list[RunFolder]) -> None:
    run = runs[0]
    before = read_metrics(run)
    assert len(before["loss/generator"][0]) >= 2
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "loss/generator": null}\n[1]\n{"step": 100, "loss/gen')
    assert read_metrics(run) == before
    sound = {"figures": {"fid": 1.0}, "intervals": {}, "protocol": {}}
    damaged = [
        '{"figures": {}}', "[]", '{"fig', '{"figures": [1], "intervals": {}, "protocol": {}}', "\xff",
        '{"figures": {}, "intervals": {"kid": [1]}, "protocol": {}}',
        '{"figures": {}, "intervals": {}, "protocol": []}',
    ]  # fmt: skip
    (run.path / EVALUATIONS).write_bytes(
        "\n".join([*damaged, json.dumps(sound), '{"figures": {"fid"']).encode("latin-1")
    )
    assert read_evaluations(run) == [sound]
    Evaluation({"fid": 2.0}).keep(run.path)
    assert [each["figures"]["fid"] for each in read_evaluations(run)] == [1, 2]
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'\n{"step": 1e999, "loss/generator": 1}\n\xff\n')
    assert read_metrics(run) == before


def test_runs_of_one_name_are_told_apart(runs: list[RunFolder], tmp_path: Path) -> None:
    paths = [Path("/a/x/run"), Path("/a/y/run"), Path("/a/y/other")]
    assert distinct_names(paths) == ["x/run", "y/run", "y/other"]
    assert distinct_names([paths[0], paths[0]]) == ["run (1)", "run (2)"]
    twin = RunFolder.open(Path(shutil.copytree(runs[0].path, tmp_path / "twin" / "plain")))
    write_report([runs[0], twin], tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text()).text
    assert f"{tmp_path.name}/plain" in text
    assert "twin/plain" in text
