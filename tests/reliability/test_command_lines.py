"""Every option of every command, with values that nobody would type: one line, and nothing written elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from reliability.command_lines import LINES, check, command_lines, furnish
from hypothesis import given, settings


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words") / "original"
    folder.mkdir()
    furnish(folder)
    return folder


@pytest.mark.parametrize("line", LINES)
def test_lines_that_are_right(original: Path, tmp_path: Path, line: str) -> None:
    assert check(line.split(), tmp_path / "here", original) == 0


@pytest.mark.slow
@settings(max_examples=300)
@given(words=command_lines())
def test_whatever_is_typed(original: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    check(words, tmp_path_factory.getbasetemp() / "typed", original)
