"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.files import Watched

from snngan.files import SaveError, remove_temporary_files, replacing, temporary_path, write_atomically, write_npz


def test_at_every_moment_the_file_has_the_old_or_the_new_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    seen = []

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def inner(*args: Any) -> None:
            seen.append(path.read_bytes())
            call(*args)
            seen.append(path.read_bytes())

        return inner

    monkeypatch.setattr(os, "fsync", watched(os.fsync))
    monkeypatch.setattr(os, "replace", watched(os.replace))
    write_atomically(path, b"new")
    assert set(seen) == {b"old", b"new"}
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [True, False])
def test_concurrent_writers_of_a_file_do_not_mix(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    with replacing(path, durable=durable) as first:
        first.write(b"the first one's ")
        with replacing(path, durable=durable) as second:
            second.write(b"the second one's")
        assert path.read_bytes() == b"the second one's"
        first.write(b"content")
    assert path.read_bytes() == b"the first one's content"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(error), replacing(path) as file:
        raise error if file.write(b"new") else AssertionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_existing_link_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_bytes(b"mine")
    monkeypatch.setattr(os, "urandom", bytes)
    temporary_path(path).symlink_to(victim)
    with pytest.raises(SaveError, match=r"file could not be written: File exists$"):
        write_atomically(path, b"new")
    assert victim.read_bytes() == b"mine"
    assert temporary_path(path).is_symlink()


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_readable_by_numpy(tmp_path: Path, compressed: bool) -> None:
    arrays = {"images": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "points/first": np.eye(2), "settings": "text"}
    write_npz(tmp_path / "file.npz", arrays, compressed=compressed)
    with np.load(tmp_path / "file.npz", allow_pickle=False) as found:
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(found[name], np.asarray(array))
            assert found[name].dtype == np.asarray(array).dtype
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(tmp_path / "file.npz", {"anything": np.array([object()])})
    assert os.listdir(tmp_path) == ["file.npz"]


@pytest.mark.filterwarnings("error")
def test_arrays_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    normal = open

    def write(room: int, file: Any, content: bytes) -> int:
        if file.tell() + len(content) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(file.write(content))

    for room in range(0, 1000, 100):
        limited = partial(write, room)
        monkeypatch.setattr("builtins.open", lambda *rest, w=limited, **options: Watched(normal(*rest, **options), w))
        with pytest.raises(OSError, match="No space left on device"):
            write_npz(tmp_path / "file.npz", {"one": np.zeros(300, np.uint8), "two": np.zeros(300, np.uint8)})
    gc.collect()  # an archive that was left open would be written now
    assert not os.listdir(tmp_path)


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    usual = path.stat().st_mode
    path.chmod(0o640)
    write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to(path)
    write_atomically(tmp_path / "link", b"of its own")
    assert (tmp_path / "link").lstat().st_mode == usual
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "\N{GRINNING FACE}" * 63])
def test_long_names_can_be_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"content")
    assert os.listdir(tmp_path) == [name]


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    left = temporary_path(tmp_path / "samples" / "step-00000001.png")
    kept = [tmp_path / name for name in (".config.part", "my.part", "step-00000001.png", ".0123abcd.part")]
    left.parent.mkdir()
    for path in (left, *kept):
        path.write_bytes(b"half")
    remove_temporary_files(tmp_path)
    assert not left.exists()
    assert all(path.exists() for path in kept)
