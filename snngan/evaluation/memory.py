"""How much memory this process may still take, and the refusal of work that would take more."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

from snngan.untrusted import memory_bytes


def check_available(size: float, what: str, remedy: str) -> None:
    """Raise ``ValueError`` if ``what`` takes ``size`` bytes and fewer are available; the message ends in ``remedy``."""
    available = available_bytes()
    if size > available:
        raise ValueError(
            f"{what} takes about {size / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are available: "
            f"use {remedy}"
        )


def available_bytes() -> float:
    """Return the bytes that machine, process limit (``ulimit -v``) and control group leave, as far as they say so."""
    bounds = [memory_bytes()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        mapped, resident = (
            int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in Path("/proc/self/statm").read_text().split()[:2]
        )
    except (OSError, ValueError):  # not Linux
        mapped = resident = 0
    if limit != resource.RLIM_INFINITY:
        bounds.append(limit - mapped)
    try:
        free = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())["MemAvailable"]
        bounds.append(int(free.split()[0]) * 1024)
    except (OSError, ValueError, KeyError):
        pass
    try:
        group = Path("/proc/self/cgroup").read_text().partition("::/")[2].split("\n")[0]
        bounds.append(int(Path("/sys/fs/cgroup", group, "memory.max").read_text()) - resident)
    except (OSError, ValueError):  # "max": no limit
        pass
    return max(0.0, min(bounds, default=math.inf))
