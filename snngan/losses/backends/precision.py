"""Matrix products of float32 in full precision, whatever the caller's switches allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn autocast off, and TF32 or bfloat16 inside float32 products, for the block; then restore the settings."""
    set_precision: Callable[[str], None] = torch.set_float32_matmul_precision
    highest = "highest"
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # raised if the caller used the switches of torch 2.9 or later
        backends: Any = torch.backends
        matmul = (backends.cuda if device.type == "cuda" else backends.mkldnn).matmul
        before, highest = matmul.fp32_precision, "ieee"
        set_precision = partial(setattr, matmul, "fp32_precision")
    with torch.autocast(device.type, enabled=False):
        if before == highest:
            yield
            return
        set_precision(highest)
        try:
            yield
        finally:
            set_precision(before)
