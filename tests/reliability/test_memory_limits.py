"""Small files that would take much memory: refused before they do, or read only as far as they declare."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from snngan.config import TrainConfig
from snngan.training.run_folder import open_run

MIB = 1 << 20


@contextmanager
def within(mebibytes: float) -> Iterator[None]:
    """Fail if the peak of traced memory is above that."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mebibytes * MIB, f"{peak / MIB:.1f} MiB"


@contextmanager
def refused(message: str, mebibytes: float = 2) -> Iterator[None]:
    with within(mebibytes), pytest.raises(ValueError, match=message):
        yield


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    for text in (
        "[" * 100_000,
        '{"a":' * 100_000,
        json.dumps({"config": {"steps": 1}})[:-1] + ', "x": ' + "[" * 99_999,
    ):
        (tmp_path / "config.json").write_text(text)
        with refused("cannot be read as JSON", 16):
            open_run(tmp_path, TrainConfig)
