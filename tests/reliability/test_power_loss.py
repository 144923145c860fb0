"""A machine that loses its power: of what was written only what was synced is there, and what was renamed if its folder
was synced; of all else any part may be missing."""

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
from reliability.fuzz_targets import run_in

from snngan.training.checkpoint import KEEP, load_newest, save_checkpoint


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "players": {"weights": torch.arange(50.0) + step}}


class Disk:
    """What one folder's disk may hold after the power went, as operations come."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.moments: list[list[tuple[str, ...]]] = []
        """Operations that no sync has followed yet, at each operation."""
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


def lost(files: dict[str, bytes], operations: tuple[tuple[str, ...], ...]) -> dict[str, bytes]:
    """Return ``files`` without what some operations have done: half of what was written, names as they were."""
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


def test_at_any_moment_the_newest_but_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
                for name, content in lost(files, operations).items():
                    (again / name).write_bytes(content)
                state = load_newest(again)
                assert torch.equal(state["players"]["weights"], torch.arange(50.0) + state["step"])
                assert state["step"] >= KEEP
                steps.add(state["step"])
                tried += 1
    assert tried > 10
    assert steps == {KEEP, KEEP + 1}


def test_once_it_is_saved_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch)
        save_checkpoint(folder, 1, state_of(1))
    assert disk.moments[-1] == []


def test_what_was_logged_is_on_the_disk_before_the_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, synced, fsync = run_in(tmp_path), [], os.fsync

    def noted(number: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    run.log(2, {"loss/generator": 1.0})
    monkeypatch.setattr(os, "fsync", noted)
    run.save(2, state_of(2))
    assert [name.partition(".")[0] for name in synced] == [
        "run", "metrics", "events", "", "checkpoints", "", "checkpoints"
    ]  # fmt: skip


def test_a_new_folder_is_on_the_disk_with_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def noted(number: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    run_in(tmp_path)
    assert synced[0] == "config.json"
    assert re.fullmatch(r"\.\w{8}\.run\.part", synced[1])
    assert synced[2] == tmp_path.name
