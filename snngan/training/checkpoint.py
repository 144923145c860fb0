"""Checkpoints that survive: written beside, synced, checksummed, renamed; read without ever running what they hold.

A checkpoint is an ordinary ``torch.save`` file, ``step-00001000.pt``, with its SHA-256 in ``step-00001000.pt.sha256``
(the format of ``sha256sum``). The checksum is in place before the checkpoint gets its name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from snngan.files import SaveError, check_regular, write_atomically
from snngan.tensors import PickledCodeError, pack_tensors, read_tensors

KEEP = 3
"""How many of the newest checkpoints stay: if one is damaged there are others."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not to be trusted."""


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-[0-9]+\.pt", path.name))


def step_of(path: Path) -> int:
    """Return the step of the checkpoint at ``path``."""
    return int(path.stem.removeprefix("step-"))


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` and drop all but the newest; return its path.

    Raises:
        SaveError: the file could not be written (a full disk, say); the checkpoints before it are as they were.
    """
    path = folder / f"step-{step:08d}.pt"
    content = pack_tensors(state)
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n".encode())
    write_atomically(path, content)
    for old in checkpoint_paths(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
        old.with_name(old.name + ".sha256").unlink(missing_ok=True)
    return path


def save_tensors(path: Path, value: Any) -> None:
    """Write tensors, in dicts and lists with plain values, as ``torch.save`` does, whole or not at all.

    Raises:
        SaveError: the file could not be written.
    """
    write_atomically(path, pack_tensors(value))


def load_tensors(path: Path) -> Any:
    """Return what :func:`save_tensors` wrote, without running anything; raises ``ValueError``."""
    check_regular(path)
    return read_tensors(path.read_bytes())


def clear_after(folder: Path, step: int) -> None:
    """Set aside the checkpoints after ``step``, and remove check sums that have none.

    A run resumes from the newest sound checkpoint; later damaged ones would count among the newest, which stay.

    Raises:
        SaveError: the folder cannot be written to.
    """
    paths = checkpoint_paths(folder)
    try:
        for path in paths:
            if step_of(path) > step:
                for each in (path, path.with_name(f"{path.name}.sha256")):
                    if each.exists():
                        each.rename(each.with_name(f"{each.name}.damaged"))
        for path in folder.glob("step-*.pt.sha256"):
            if not path.with_suffix("").exists():
                path.unlink()
    except OSError as error:
        raise SaveError(f"{folder} could not be written: {error.strerror or error}") from error


def load_newest(folder: Path, notify: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Return the newest sound checkpoint in ``folder``, its tensors on the CPU.

    A damaged file is passed over with a line to ``notify``; one that holds pickled code is refused outright.

    Raises:
        CheckpointError: checkpoints are missing or damaged, hold pickled code or are of another kind.
    """
    paths = checkpoint_paths(folder)
    for number, path in reversed(list(enumerate(paths))):
        next_one = "falling back to the checkpoint before it" if number else "there is none before it"
        try:
            check_regular(path)
            content = path.read_bytes()
        except PermissionError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        except (OSError, ValueError) as error:
            notify(f"{path} is damaged (it cannot be read: {getattr(error, 'strerror', error)}): {next_one}")
            continue
        code = _find_pickled_code(content)
        if code is not None:
            raise CheckpointError(f"{path} holds pickled code ({code}) and was not loaded; delete it to resume without")
        damage = _damage(path, content)
        if damage is not None:
            notify(f"{path} is damaged ({damage}): {next_one}")
            continue
        return _unpack(path, content)
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} is sound: all {len(paths)} are damaged; remove it, and train again"
        )
    raise CheckpointError(f"no checkpoint in {folder}: the run stopped before it saved one; train again")


def _damage(path: Path, content: bytes) -> str | None:
    """Return how the file differs from what was written, or None where it is as it was."""
    try:
        recorded = path.with_name(path.name + ".sha256").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return f"{path.name}.sha256 is missing"
    except (OSError, ValueError) as error:
        return f"its checksum cannot be read: {error}"
    return None if recorded[:1] == [hashlib.sha256(content).hexdigest()] else "its checksum does not match"


def _unpack(path: Path, content: bytes) -> dict[str, Any]:
    """Return what an undamaged checkpoint holds."""
    try:
        state = read_tensors(content)
    except ValueError as error:
        raise CheckpointError(f"{path} is undamaged, but not a checkpoint that this version reads: {error}") from error
    if not isinstance(state, dict) or type(state.get("step")) is not int or not isinstance(state.get("networks"), dict):
        raise CheckpointError(f"{path} is not a checkpoint of a run: it lacks step and networks")
    return state


def _find_pickled_code(content: bytes) -> str | None:
    """Return a name that a file would import beyond what tensors need; None: there is none to be found.

    A damaged file gives None as well: nothing in it is ever loaded.
    """
    try:
        read_tensors(content)
    except PickledCodeError as error:
        return str(error)
    except ValueError:
        pass
    return None


class AsLargeAs(TorchFunctionMode):
    """A context that limits new weights to the size of a checkpoint's ``state``: its config.json may be anyone's.

    More are refused by a ``CheckpointError`` before their memory is used. With a ``state`` of None, nothing is refused.
    """

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.left = math.inf if state is None else 2 * _bytes_of(state) + (1 << 20)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.empty or self.left == math.inf:
            return func(*args, **(kwargs or {}))
        made = None
        with suppress(RuntimeError):  # of more than any machine has
            made = func(*args, **(kwargs or {}))
        self.left -= math.inf if made is None else made.nbytes
        if self.left < 0:
            raise CheckpointError("the checkpoint does not fit the run's config.json: its networks are smaller")
        return made


def _bytes_of(state: Any) -> int:
    """Return the size of all tensors in dicts and lists, of those that share memory once."""
    waiting, storages = [state], {}
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        elif isinstance(each, dict | list | tuple):
            waiting += each.values() if isinstance(each, dict) else each
    return sum(storages.values())


@contextmanager
def explain_mismatch(name: str) -> Iterator[None]:
    """Turn an error while the part ``name`` of a checkpoint is loaded into a ``CheckpointError`` that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit the run's config.json: its {name} differs") from error
