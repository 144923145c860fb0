"""When a training run under test is asked to stop."""

from __future__ import annotations

from collections.abc import Callable


def stop_after(step: int) -> Callable[[], bool]:
    """Return a ``should_stop`` that is true at its call number ``step``."""
    calls: list[None] = []

    def should_stop() -> bool:
        calls.append(None)
        return len(calls) >= step

    return should_stop
