"""What the last bits of a run's numbers depend on beside its config: versions, commit, device and threads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from snngan.version import __version__


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, commit and device, as they stand in ``config.json``."""
    import platform

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "snngan": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def describe_changes(started_in: Mapping[str, Any]) -> list[str]:
    """Return lines about what differs from the :func:`environment` of a run's start and may change the last bits."""
    now = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return [
        f"started with {name} {started_in[name]}, continued with {value}: the last bits of its numbers may differ"
        for name, value in now.items()
        if name in started_in and started_in[name] != value
    ]


def _commit() -> str | None:
    """Return the commit of the checkout this package runs from, or None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", os.fspath(root), "rev-parse", "HEAD"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
