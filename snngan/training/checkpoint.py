"""Checkpoints that survive: written beside, synced, checksummed, renamed; read without ever running what they hold.

A checkpoint is an ordinary ``torch.save`` file, ``step-00001000.pt``, with its SHA-256 in ``step-00001000.pt.sha256``
(the format of ``sha256sum``). The checksum is in place before the checkpoint gets its name.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

KEEP = 3
"""How many of the newest checkpoints stay: if one is damaged there are others."""
_IMPORTING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
"""The instructions of a pickle that import something."""


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


def load_newest(
    folder: Path, notify: Callable[[str], None] = lambda line: None, holds: str = "players"
) -> dict[str, Any]:
    """Return the newest sound checkpoint in ``folder``, its tensors on the CPU.

    A damaged file is passed over with a line to ``notify``; one that holds pickled code is refused outright.

    Raises:
        CheckpointError: there is no checkpoint, none is sound, or one holds pickled code or is of another kind.
    """
    paths = checkpoint_paths(folder)
    for number, path in reversed(list(enumerate(paths))):
        next_one = "falling back to the checkpoint before it" if number else "there is none before it"
        try:
            content = path.read_bytes()
        except OSError as error:
            notify(f"{path} is damaged (it cannot be read: {error.strerror}): {next_one}")
            continue
        code = _named_code(content)
        if code is not None:
            raise CheckpointError(f"{path} holds pickled code ({code}) and was not loaded; delete it to go on without")
        damage = _damage(path, content)
        if damage is not None:
            notify(f"{path} is damaged ({damage}): {next_one}")
            continue
        return _unpack(path, content, holds)
    if paths:
        raise CheckpointError(f"no checkpoint in {folder} is sound: all {len(paths)} are damaged")
    raise CheckpointError(f"no checkpoint in {folder}: the run stopped before it saved one; train again")


def _damage(path: Path, content: bytes) -> str | None:
    """Return how the file differs from what was written, or None where it is as it was."""
    try:
        recorded = path.with_name(path.name + ".sha256").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return f"there is no {path.name}.sha256 beside it"
    except (OSError, ValueError) as error:
        return f"its checksum cannot be read: {error}"
    return None if recorded[:1] == [hashlib.sha256(content).hexdigest()] else "its checksum does not match"


def _unpack(path: Path, content: bytes, holds: str) -> dict[str, Any]:
    """Return what an undamaged checkpoint holds; it was not ours to begin with if that fails."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind fails in many ways
        raise CheckpointError(
            f"{path} is undamaged, but not a checkpoint that this version reads ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or "step" not in state or holds not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a run: it lacks step and {holds}")
    return state


def _named_code(content: bytes) -> str | None:
    """Return a name that loading the file would import, beyond what tensors need; None: there is none to be found.

    A damaged archive gives None as well: nothing in it is ever loaded.
    """
    if content.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        archive.read(name)  # its own checksum tells damage from intent
        except Exception:  # a damaged archive fails in many ways
            return None
        try:
            return min(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)), default=None)
        except Exception:
            return "in a form that torch.save does not write"
    stream = io.BytesIO(content)
    try:
        while stream.tell() < len(content):  # torch's old format is several pickles in a row
            for code, argument, _ in pickletools.genops(stream):
                if code.name in _IMPORTING:
                    return str(argument or code.name)
    except ValueError:
        pass  # neither an archive nor a pickle
    return None
