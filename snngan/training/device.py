"""Where a run computes."""

from __future__ import annotations

import re

import torch


def choose_device(name: str) -> torch.device:
    """Return the device meant by ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ValueError: another name, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ValueError(f"--device takes auto, cpu, cuda or cuda:N, not {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no CUDA device is available to torch {torch.__version__}; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
