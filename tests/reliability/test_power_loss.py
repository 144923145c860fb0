"""Checkpoints after a loss of power.

Only files that were synced are surely complete, and only renames and removals whose folder was synced surely happened;
each of the other operations may or may not have reached the disk.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from snngan.checkpoint import KEEP, load_newest, save_checkpoint


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "networks": {"weights": torch.arange(50.0) + step}}


class Disk:
    """Records the operations in a folder, and which of them a loss of power might undo at each moment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.moments: list[list[tuple[str, ...]]] = []
        """Operations not yet synced, after each operation."""
        self.pending: list[tuple[str, ...]] = []
        self.names: dict[int, str] = {}
        opened, fsync, replace, unlink, open_number = builtins.open, os.fsync, os.replace, os.unlink, os.open

        def watched(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            file = opened(path, mode, *rest, **options)
            if set("wx") & set(mode):
                self.names[file.fileno()] = Path(path).name
                self.note("write", Path(path).name)
            return file

        def numbered(path: Any, *rest: Any, **options: Any) -> int:
            number = open_number(path, *rest, **options)
            self.names[number] = Path(path).name
            return number

        def synced(number: int) -> None:
            fsync(number)
            name = self.names[number]
            if name == folder.name:
                self.pending = [each for each in self.pending if each[0] == "write"]
            else:
                self.pending = [each for each in self.pending if each != ("write", name)]
            self.note()

        def replaced(old: Any, new: Any) -> None:
            replace(old, new)
            self.note("rename", Path(old).name, Path(new).name)

        def unlinked(path: Any, *rest: Any, **options: Any) -> None:
            content = Path(path).read_bytes() if Path(path).exists() else b""
            unlink(path, *rest, **options)
            self.note("unlink", Path(path).name, content.hex())

        monkeypatch.setattr(builtins, "open", watched)
        monkeypatch.setattr(io, "open", watched)
        for name, call in {"fsync": synced, "replace": replaced, "unlink": unlinked, "open": numbered}.items():
            monkeypatch.setattr(os, name, call)
        self.snapshots: list[dict[str, bytes]] = []

    def note(self, *operation: str) -> None:
        if operation:
            self.pending.append(operation)
        self.moments.append(list(self.pending))
        self.snapshots.append({path.name: path.read_bytes() for path in self.folder.iterdir()})


def undo(files: dict[str, bytes], operations: tuple[tuple[str, ...], ...]) -> dict[str, bytes]:
    """Return ``files`` with some operations undone: written files lose half of their content, names are as before."""
    found = dict(files)
    for operation in reversed(operations):
        match operation:
            case ("write", name):
                for each in (name, re.sub(r"^\.\w{8}\.(.+)\.part$", r"\1", name)):
                    if each in found:
                        found[each] = found[each][: len(found[each]) // 2]
            case ("rename", old, new) if new in found:
                found[old] = found.pop(new)
            case ("unlink", name, content) if content:
                found[name] = bytes.fromhex(content)
    return found


def test_the_newest_checkpoint_or_the_one_before_survives_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    for step in range(1, KEEP + 1):
        save_checkpoint(folder, step, state_of(step))
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch)
        save_checkpoint(folder, KEEP + 1, state_of(KEEP + 1))
    tried, steps = 0, set()
    for files, pending in zip(disk.snapshots, disk.moments, strict=True):
        for count in range(len(pending) + 1):
            for operations in itertools.combinations(pending, count):
                again = tmp_path / "again"
                shutil.rmtree(again, ignore_errors=True)
                again.mkdir()
                for name, content in undo(files, operations).items():
                    (again / name).write_bytes(content)
                state = load_newest(again)
                assert torch.equal(state["networks"]["weights"], torch.arange(50.0) + state["step"])
                assert state["step"] >= KEEP
                steps.add(state["step"])
                tried += 1
    assert tried > 5
    assert steps == {KEEP, KEEP + 1}


def test_a_saved_checkpoint_is_synced_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch)
        save_checkpoint(folder, 1, state_of(1))
    assert disk.moments[-1] == []
