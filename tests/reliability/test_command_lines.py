"""Random values for every option of every command: one line of error at most, and no write outside the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from reliability.command_lines import LINES, check, command_lines, create_files


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command-lines") / "original"
    folder.mkdir()
    create_files(folder)
    return folder


@pytest.mark.parametrize("line", LINES)
def test_correct_command_lines_succeed(original: Path, tmp_path: Path, line: str) -> None:
    assert check(line.split(), tmp_path / "here", original) == 0


@pytest.mark.slow
@settings(max_examples=150)
@given(words=command_lines())
def test_random_command_lines_fail_cleanly(
    original: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    check(words, tmp_path_factory.getbasetemp() / "random", original)
