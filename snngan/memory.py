"""How much memory this process may still use; work that needs more is refused before it starts."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path


def memory_bytes() -> float:
    """Return the size of the machine's memory in bytes; infinity if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_memory(size: int, what: str) -> None:
    """Raise ``ValueError`` if ``what``, of ``size`` bytes, is larger than the machine's memory."""
    if size > memory_bytes():
        raise ValueError(f"{what} would take {size / 2**30:.1f} GiB, more than this machine's memory")


def check_available(size: float, what: str, remedy: str) -> None:
    """Raise ``ValueError`` if ``what`` needs ``size`` bytes and fewer are available; the message ends in ``remedy``."""
    available = available_bytes()
    if size > available:
        raise ValueError(
            f"{what} needs about {size / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are available: "
            f"use {remedy}"
        )


def available_bytes() -> float:
    """Return the bytes left by machine, process limit (``ulimit -v``) and control group, as far as these are known."""
    bounds = [memory_bytes()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        pages = Path("/proc/self/statm").read_text().split()[:2]
        mapped, resident = (int(each) * os.sysconf("SC_PAGE_SIZE") for each in pages)
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
