"""Small files that would take much memory: refused before they do, or read only as far as they declare."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from snngan.config import TrainConfig
from snngan.data import DATASETS
from snngan.data.image_files import read_image
from snngan.data.npz import read_npz
from snngan.data.public import _read_idx
from snngan.robustness.dknn import DkNN
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


def npy(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """Return the head of an npy file."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def archive_of(path: Path, parts: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "data set": ("images", lambda path: read_npz("set", path)),
    "dknn": ("layers/a", DkNN.load),
}


@pytest.mark.parametrize("reader", READERS)
def test_npz_files_that_unpack_to_more_than_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    key, read = READERS[reader]
    path = tmp_path / "bomb.npz"
    archive_of(path, {f"{key}.npy": npy((8 * MIB // 64, 1, 8, 8)) + bytes(8 * MIB)})
    assert path.stat().st_size < 20_000
    monkeypatch.setattr("snngan.untrusted.memory_bytes", lambda: 4 * MIB)
    with refused("more than this machine's memory"):
        read(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", [(10**12, 1, 8, 8), (10**5, 1, 8, 8), (10**400,), (-1, 8, 8)])
def test_npz_files_that_declare_more_than_they_hold(tmp_path: Path, reader: str, shape: tuple[int, ...]) -> None:
    key, read = READERS[reader]
    archive_of(tmp_path / "bomb.npz", {f"{key}.npy": npy(shape) + bytes(1000)})
    with refused("declares|cannot be read|is not a saved"):
        read(tmp_path / "bomb.npz")


def idx(*shape: int) -> bytes:
    return b"\0\0\x08" + bytes([len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)


def test_compressed_idx_files_are_read_only_as_far_as_they_declare(tmp_path: Path) -> None:
    path = tmp_path / "images-ubyte.gz"
    path.write_bytes(gzip.compress(idx(10, 8, 8) + bytes(32 * MIB)))
    with refused("not a complete idx file"):
        _read_idx(tmp_path / "images-ubyte")
    path.write_bytes(gzip.compress(idx(2**32 - 1, 2**32 - 1, 4) + bytes(100)))
    with refused("would take more than this machine's memory|more than this machine's memory"):
        _read_idx(tmp_path / "images-ubyte")


def test_a_notmnist_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notMNIST_small.tar.gz").write_bytes(gzip.compress(bytes(32 * MIB)))
    monkeypatch.setattr("snngan.data.notmnist.LARGEST_UNPACKED", MIB)
    with refused("it unpacks to more than 1 MiB", 8):
        DATASETS["notmnist"].load("notmnist", tmp_path, False)


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_huge_images_are_refused(tmp_path: Path, side: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(MIB)))
    (tmp_path / "giant.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b""))
    with refused("giant.png cannot be read", 8):
        read_image(tmp_path / "giant.png")


def test_postscript_is_not_passed_to_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would pass a PostScript file to Ghostscript, whatever the name of the file."""
    monkeypatch.setattr("subprocess.check_call", lambda *words, **options: pytest.fail("another program was started"))
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "page.png").write_bytes(page)
    with refused("page.png cannot be read: cannot identify image file", 8):
        read_image(tmp_path / "page.png")


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    for text in (
        "[" * 100_000,
        '{"a":' * 100_000,
        json.dumps({"config": {"steps": 1}})[:-1] + ', "x": ' + "[" * 99_999,
    ):
        (tmp_path / "config.json").write_text(text)
        with refused("cannot be read as JSON", 16):
            open_run(tmp_path, TrainConfig)
