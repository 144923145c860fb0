"""Checkpoints: one safetensors file per saved step, such as ``step-00004000.safetensors``.

Tensors have flat names, such as ``networks/generator/body.0.weight``; everything else is JSON in the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snngan.files import load_tensors, save_tensors

KEEP = 3
"""How many of the newest checkpoints stay: if one is damaged, there are others."""
TENSOR = "tensor"
"""The key under which the metadata names a tensor in the place where it was."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or that of another run."""


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-[0-9]+", path.stem))


def step_of(path: Path) -> int:
    """Return the step of the checkpoint at ``path``."""
    return int(path.stem.removeprefix("step-"))


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` and delete all but the newest; return its path.

    Args:
        folder: where the checkpoints are.
        step: the step they are named after.
        state: tensors and values of JSON in dicts and lists.

    Raises:
        SaveError: the file could not be written (a full disk, say); earlier checkpoints are unchanged.
    """
    path = folder / f"step-{step:08d}.safetensors"
    tensors: dict[str, Tensor] = {}
    content = _separate(state, "", tensors)
    save_tensors(path, tensors, content)
    for old in checkpoint_paths(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def _separate(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` with the name of each tensor in its place, and enter the tensors under their names."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _separate(part, f"{name}/{key}".lstrip("/"), tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_separate(part, f"{name}/{index}", tensors) for index, part in enumerate(value)]
    return value


def _join(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value of which :func:`_separate` gave content and tensors."""
    if isinstance(content, dict):
        if set(content) == {TENSOR} and isinstance(content[TENSOR], str):
            return tensors[content[TENSOR]]
        return {key: _join(part, tensors) for key, part in content.items()}
    return [_join(part, tensors) for part in content] if isinstance(content, list) else content


def load_newest(folder: Path, notify: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Return the newest sound checkpoint in ``folder``, its tensors on the CPU; the keys of its dicts are strings.

    Args:
        folder: where the checkpoints are.
        notify: called with a line for each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: every checkpoint is missing or damaged, or one cannot be read.
    """
    paths = checkpoint_paths(folder)
    for number, path in reversed(list(enumerate(paths))):
        try:
            if path.is_file():
                path.open("rb").close()
            tensors, content = load_tensors(path)
        except OSError as error:  # which says nothing about its content
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            notify(f"{error}: {'falling back to the checkpoint before it' if number else 'there is none before it'}")
            continue
        if not isinstance(content, dict) or not {"step", "networks"} <= set(content):
            raise CheckpointError(f"{path} is not a checkpoint of a run")
        state: dict[str, Any] = _join(content, tensors)
        return state
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} is sound: all {len(paths)} are damaged; remove it, and train again"
        )
    if any(folder.glob("step-*.pt")):
        raise CheckpointError(f"{folder} holds checkpoints of an older version, which this one cannot read")
    raise CheckpointError(f"no checkpoint in {folder}: the run stopped before it saved one; train again")


def build_to_fit(build: Callable[[], nn.Module], saved: Mapping[str, Any] | None, name: str) -> nn.Module:
    """Return the network that ``build`` makes, after comparing its shapes with those of its ``saved`` weights, if any.

    They are compared on the meta device, before memory is taken: config and checkpoint of a run folder may not belong
    together. A network that cannot be built there is not compared.

    Raises:
        CheckpointError: names or shapes differ.
    """
    if saved is not None:
        try:
            with torch.device("meta"):
                expected = build().state_dict()
        except (NotImplementedError, RuntimeError):
            return build()
        with explain_mismatch(name):
            if _shapes(expected) != _shapes(saved):
                raise ValueError("other shapes")
    return build()


def _shapes(state: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: part.shape for name, part in state.items() if isinstance(part, Tensor)}


@contextmanager
def explain_mismatch(name: str) -> Iterator[None]:
    """Turn an error while the part ``name`` of a checkpoint is loaded into a ``CheckpointError`` that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit the run's config.json: its {name} differs") from error
