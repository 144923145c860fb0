"""How much memory this process may still use; work that needs more is refused before it starts."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path


def check_available(size: float, what: str, remedy: str) -> None:
    """Raise ``ValueError`` if ``what`` needs ``size`` bytes and fewer are available; the message ends in ``remedy``."""
    available = available_bytes()
    if size > available:
        raise ValueError(
            f"{what} needs about {size / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are available: "
            f"use {remedy}"
        )


def available_bytes() -> float:
    """Return the bytes left by machine and control group (of a container or a job), as far as these are known."""
    bounds = [math.inf]
    with suppress(OSError, ValueError, KeyError):  # not Linux, or no limit
        page = os.sysconf("SC_PAGE_SIZE")
        bounds.append(page * os.sysconf("SC_PHYS_PAGES"))
        machine = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        bounds.append(int(machine["MemAvailable"].split()[0]) * 1024)
        group = Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
        limit = int(Path("/sys/fs/cgroup", group, "memory.max").read_text())
        bounds.append(limit - page * int(Path("/proc/self/statm").read_text().split()[1]))  # what this process has
    return max(0.0, min(bounds))
