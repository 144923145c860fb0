"""Checkpoints that survive: written beside, synced, checksummed, renamed; read without ever running what they hold.

A checkpoint is an ordinary ``torch.save`` file, ``step-00001000.pt``, with its SHA-256 in ``step-00001000.pt.sha256``
(the format of ``sha256sum``). The checksum is in place before the checkpoint gets its name.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

KEEP = 3
"""How many of the newest checkpoints stay: if one is damaged there are others."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not to be trusted."""


class SaveError(RuntimeError):
    """A file of the run that could not be written; what was there before is unharmed."""


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if path.stem.removeprefix("step-").isdigit())


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` and drop all but the newest; return its path.

    Raises:
        SaveError: the file could not be written (a full disk, say); the checkpoints before it are as they were.
    """
    path = folder / f"step-{step:08d}.pt"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n".encode())
    write_atomically(path, content)
    for old in checkpoint_paths(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
        old.with_name(old.name + ".sha256").unlink(missing_ok=True)
    return path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` so that after a crash at any moment the old or the new content is there, whole.

    Raises:
        SaveError: it could not be written; the old content stays.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error


def load_newest(folder: Path, notify: Callable[[str], None], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the newest sound checkpoint in ``folder``, its tensors on ``device``.

    A damaged file is passed over with a line to ``notify``; one that holds pickled code is refused outright.

    Raises:
        CheckpointError: there is no checkpoint, none is sound, or one holds pickled code.
    """
    paths = checkpoint_paths(folder)
    for path in reversed(paths):
        content = path.read_bytes()
        _refuse_code(path, content)
        try:
            checksum = path.with_name(path.name + ".sha256").read_text().split()[0]
            if hashlib.sha256(content).hexdigest() != checksum:
                raise CheckpointError("its checksum does not match")
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            return state
        except (ValueError, OSError, IndexError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            notify(f"{path} is damaged ({reason}): falling back to the checkpoint before it")
    if paths:
        raise CheckpointError(f"no checkpoint in {folder} is sound: all {len(paths)} are damaged")
    raise CheckpointError(f"no checkpoint in {folder}: the run stopped before it saved one; train again")


def _refuse_code(path: Path, content: bytes) -> None:
    """Raise if the file names anything that loading would have to import, beyond what tensors need."""
    found: list[str] = []
    if zipfile.is_zipfile(io.BytesIO(content)):
        try:
            found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
        except (RuntimeError, pickle.UnpicklingError, ValueError, zipfile.BadZipFile):
            return  # damaged: the checksum will say so
    else:
        try:
            found = [str(argument) for code, argument, _ in pickletools.genops(content) if code.name.endswith("GLOBAL")]
        except ValueError:
            return  # neither a zip archive nor a pickle
    if found:
        raise CheckpointError(f"{path} holds pickled code ({found[0]}) and was not loaded; delete it to go on without")
