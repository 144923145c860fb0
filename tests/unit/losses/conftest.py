"""The backends of the loss; tiles are small, so that a small batch has several.

With TRITON_INTERPRET=1 the backend is the fused one, where it supports the features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from snngan.losses.backends import choose_backend, why_not_fused

IN_INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"


def prefer_fused(count: int, dims: int, dtype: torch.dtype, device: torch.device, requested: Any) -> str:
    if requested == "auto":
        return "fused" if why_not_fused(dims, dtype, device) is None else "tiled"
    return choose_backend(count, dims, dtype, device, requested)


@pytest.fixture(params=["fused"] if IN_INTERPRETER else ["dense", "tiled"], scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let ``backend="auto"`` choose each of them in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snngan.losses.backends.MAX_DENSE_SAMPLES", 10**9 if request.param == "dense" else 0)
        patch.setattr("snngan.losses.backends.tiled.TILE", 24)
        if IN_INTERPRETER:
            patch.setattr("snngan.losses.pairwise.choose_backend", prefer_fused)
            _let_triton_loop(patch)
        yield request.param


def _let_triton_loop(patch: pytest.MonkeyPatch) -> None:
    """Let Triton 3.6 loop to a bound under NumPy 2.4, which no longer converts an array of one element to a number."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def with_index(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        change = scope[0].set_attr if scope else setattr  # Triton 3.4 has no scope
        change(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch.setattr(interpreter, "_patch_lang_tensor", with_index)
