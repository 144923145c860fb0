"""Every test of the loss runs with each backend; tiles are small, so that a small batch has several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, params=["dense", "tiled"], scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let ``backend="auto"`` choose this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snngan.losses.backends.MAX_DENSE_SAMPLES", 10**9 if request.param == "dense" else 0)
        patch.setattr("snngan.losses.backends.tiled.TILE", 24)
        yield request.param
