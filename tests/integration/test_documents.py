"""What the documents say is what the code does."""

from __future__ import annotations

import glob
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from snngan.cli import main
from snngan.cli.options import IMPORTED_MODULES
from snngan.metrics import METRICS
from snngan.models import ARCHITECTURES
from snngan.objectives import OBJECTIVES
from snngan.version import __version__

ROOT = Path(__file__).parents[2]


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


README = (ROOT / "README.md").read_text()
SHELL = [line for block in re.findall(r"```\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in SHELL if line.startswith("snngan ")]
DOCS = sorted(ROOT.glob("docs/**/*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, ROOT / "samples" / "README.md"]
PYTHON_PAGES = [
    *(relative(page) for page in DOCS if page.parent.name == "guide" and page.stem != "classify"),
    pytest.param("docs/guide/classify.md", marks=pytest.mark.slow),
    "docs/reference/python.md docs/reference/run-folder.md",  # the second reads what the first wrote
]
*PYTHON, OBJECTIVE = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_page_of_commands_is_the_help() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "docs"))["commands_page"]()
    assert (ROOT / "docs" / "reference" / "commands.md").read_text() == page, "run: .venv/bin/python scripts/docs"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target, heading in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]


@pytest.mark.parametrize("page", DOCS, ids=relative)
def test_a_page_opens_with_two_sentences(page: Path) -> None:
    title, opening = page.read_text().split("\n\n")[:2]
    assert re.fullmatch("# .*", title)
    assert re.match(r"\w", opening), "a paragraph must come before lists, tables and code"
    assert len(re.findall(r"[.!?](?=\s|$)", opening)) >= 2, opening


@pytest.mark.parametrize("pages", PYTHON_PAGES)
def test_the_python_of_the_documents_runs(pages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for registry in (ARCHITECTURES, METRICS, OBJECTIVES):  # what a page registers stays on it
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    for page in pages.split():
        names: dict[str, object] = {"__name__": "page"}
        for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S):
            if "runs/0001" not in block:
                exec(compile(block, page, "exec", dont_inherit=True), names)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with short runs under the names that the README uses."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for command in ("train --batch-size 20", "classify train --batch-size 32 --set units=16"):
            with pytest.raises(SystemExit) as stop:
                main([*command.split(), "--steps", "4", "--set", "width=16"])
            assert stop.value.code == 0
    return path


@pytest.mark.slow
def test_the_readme_python_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    names: dict[str, object] = {}
    exec("".join(PYTHON), names)
    assert tuple(names["images"].shape) == (16, 1, 28, 28)  # type: ignore[attr-defined]
    assert 0 < float(capsys.readouterr().out.split()[0]) <= 1


def test_the_readme_objective_trains_from_a_file_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_gan.py").write_text(OBJECTIVE)
    command = re.search(r"`snngan (train --import my_gan [^`]*)`", README)
    assert command
    names = OBJECTIVES.names()
    for each in (f"{command[1]} --dataset digits --steps 2 --run-dir run", "sample run --import my_gan --out grid.png"):
        with monkeypatch.context() as patch:  # the second command must import it, too
            patch.setattr(OBJECTIVES, "_entries", dict(OBJECTIVES._entries))
            patch.setattr(sys, "path", [*sys.path])
            with pytest.raises(SystemExit, match="0"):
                main(each.split())
            del sys.modules["my_gan"]
            IMPORTED_MODULES.clear()
        assert OBJECTIVES.names() == names
        assert "snngan evaluate run --import my_gan\n" in capsys.readouterr().out
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_readme_commands_run(arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("os.execv", lambda program, words: None)  # snngan board would serve until it is stopped
    if "--download" in arguments or "folder:PATH" in arguments:
        pytest.skip("wants data of the user's or the network; the same options are tested on small files")
    if "train" in arguments[:2]:
        arguments = [*arguments, "--dry-run"]
    expanded = [name for word in arguments for name in (sorted(glob.glob(word)) or [word])]  # as a shell does
    with pytest.raises(SystemExit) as stop:
        main(expanded)
    assert stop.value.code == 0


def test_the_samples_are_in_their_index() -> None:
    """By name, or by the name of their folder with a slash behind."""
    samples = ROOT / "samples"
    index = set(re.findall(r"`([^` ]+)`", (samples / "README.md").read_text()))
    for path in samples.rglob("*"):
        inside = path.relative_to(samples)
        if path.is_file() and path.name != "README.md":
            assert index & {str(inside), f"{inside.parent}/"}, f"{inside} is not in samples/README.md"
            assert path.stat().st_size < 300_000
    for name in index:
        assert not name.startswith(("experiments/", "mnist/")) or (samples / name).exists()


def test_the_version_is_cited() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
