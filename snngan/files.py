"""Files that are written atomically: after a crash or on a full disk, either the old or the new content is there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


class SaveError(RuntimeError):
    """A file could not be written; its previous content is unchanged."""


def check_local(text: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` if ``text`` is a URL, which would be taken for the name of a folder."""
    if re.search(r"(^|:)(?!folder:|npz:)[A-Za-z][A-Za-z0-9+.-]+://", os.fspath(text)):
        raise ValueError(
            f"paths must be on this machine, got the URL {text}: download it first, or mount it as a folder"
        )


def check_absent(path: Path, *, force: bool, option: str = "--out") -> None:
    """Raise ``ValueError`` if ``path`` exists and a command may not replace it, for want of ``force``."""
    if os.path.lexists(path) and not force:
        raise ValueError(f"{path} exists already: give another {option}, or --force to replace it")


def check_regular(path: Path) -> None:
    """Raise ``ValueError`` unless ``path`` is a regular file."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ValueError(f"cannot find the file {path} ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}; expected a file")


def read_json(path: Path) -> Any:
    """Return the content of the JSON file ``path``; raises ``ValueError`` with its name."""
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one JSON object per line; damaged and unfinished lines are skipped."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                found = json.loads(line)
                if isinstance(found, dict) and line.endswith("\n"):
                    yield found


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path``, durably; folders are created as needed.

    Raises:
        SaveError: it could not be written; the old content stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yield a new file to write to, and move it to ``path`` at the end; raises ``OSError``.

    If ``durable``, the content is on the disk before it is moved. If several processes write the same file, the last
    one wins. The permissions of an existing file are kept.
    """
    temporary = temporary_path(path)
    with open(temporary, "xb") as file:  # "x": neither follows an existing link nor removes an existing file
        try:
            with suppress(OSError):  # no file yet, or a file system without permissions
                if stat.S_ISREG(mode := path.lstat().st_mode):
                    os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if durable:
        sync(path.parent)


def write_npz(path: Path, arrays: Mapping[str, ArrayLike], *, compressed: bool = False) -> None:
    """Write ``arrays`` by name to ``path`` as ``numpy.savez`` does, but atomically; raises ``OSError``.

    ``numpy.savez`` itself leaves its archive open on a full disk, in versions before 2.
    """
    import numpy as np  # here, because the command line's help needs this module but not numpy

    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with replacing(path) as file, zipfile.ZipFile(file, "w", kind) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], content: Any = None) -> None:
    """Write ``tensors`` by name, and ``content`` as JSON in the metadata, as a safetensors file, atomically.

    Equal arguments give equal bytes.

    Raises:
        SaveError: the file could not be written; the old one stays.
    """
    from safetensors.torch import save

    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        own[name] = tensor.detach().cpu().contiguous()
        pointer = own[name].untyped_storage().data_ptr()
        if pointer in storages:  # safetensors takes none that share memory
            own[name] = own[name].clone()
        storages.add(pointer)
    text = json.dumps({"sha256": _digest(own, content), "content": content})
    write_atomically(path, save(own, {"snngan": text}))  # one key, since safetensors writes several in any order


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors, on the CPU, and the content that :func:`save_tensors` wrote.

    Raises:
        ValueError: the file does not exist, is damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["snngan"])
            # Copies, because the tensors of safetensors keep the file mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(tensors, metadata["content"]):
            raise ValueError("its checksum does not match")
        return tensors, metadata["content"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not written by snngan: {error}") from error


def _digest(tensors: Mapping[str, Tensor], content: Any) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(content).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def temporary_path(path: Path) -> Path:
    """Return an unused, unpredictable path beside ``path``, for a file that is to be moved there."""
    return path.with_name(f".{os.urandom(4).hex()}.{path.name[:60]}.part")  # file names have at most 255 bytes


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in ``folder`` and its subfolders; raises ``OSError``."""
    for path in folder.rglob(f".{'[0-9a-f]' * 8}.*.part"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
