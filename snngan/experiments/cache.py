"""Tensors that an experiment computes once and keeps in its folder: npz files, with the settings they belong to."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snngan.files import write_atomically

SETTINGS = "settings.json"


def compute_once(
    path: Path, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors in the file ``path``; if it does not exist, ``compute`` makes them and they are kept there.

    Raises:
        ValueError: the file is damaged or of other ``settings``.
    """
    if not path.exists():
        save_arrays(path, compute(), settings)
    return load_arrays(path, settings)


def save_arrays(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name, and the JSON ``settings``, to an npz file; raises ``SaveError``."""
    arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in tensors.items()}
    content = io.BytesIO()
    np.savez(content, **{SETTINGS: np.array(json.dumps(settings)), **arrays})
    write_atomically(path, content.getvalue())


def load_arrays(path: Path, settings: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return what :func:`save_arrays` wrote; raises ``ValueError`` for a damaged file or other ``settings``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        found = json.loads(str(arrays.pop(SETTINGS)))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: remove it, and it is computed again") from error
    if found != json.loads(json.dumps(settings)):
        raise ValueError(f"{path} holds a different run than this experiment's: give another --out, or remove it")
    return {key: torch.from_numpy(array) for key, array in arrays.items()}
