"""Which backend computes the loss: dense matrices, tiles, or Triton kernels. ``choose_backend`` alone decides."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "dense", "tiled", "fused"]
BACKENDS = ("auto", "dense", "tiled", "fused")
LogOdds = tuple[Tensor, list[Tensor], Callable[..., Iterator[Tensor]]]
"""What a backend computes for K inverse temperatures: log-odds (K, N), tensors to save, and a function that yields
parts of the gradient (N, D) by the features, given that by the log-odds (K, N) and the saved tensors."""
MAX_DENSE_SAMPLES = 512
"""Batch size up to which the dense backend is the fastest."""
MAX_FUSED_DIMS = 256
"""Dimensions up to which the kernels keep a gradient's block of anchors on the chip."""


def choose_backend(
    num_samples: int, num_dims: int, dtype: torch.dtype, device: torch.device, requested: Backend = "auto"
) -> Backend:
    """Return the backend, ``"dense"``, ``"tiled"`` or ``"fused"``, for features (num_samples, num_dims) of all ranks.

    ``"auto"`` means the fastest one. Only ``"tiled"`` waits for results of a GPU.

    Raises:
        ValueError: ``requested`` is ``"fused"``, which does not support such features.
    """
    if requested == "fused":
        reason = why_not_fused(num_dims, dtype, device)
        if reason:
            raise ValueError(f'backend="fused" requires {reason}: use backend="tiled"')
    if requested != "auto":
        return requested
    if num_samples <= MAX_DENSE_SAMPLES:
        return "dense"
    return "fused" if device.type == "cuda" and why_not_fused(num_dims, dtype, device) is None else "tiled"


def why_not_fused(num_dims: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return what the fused backend requires and such features lack, or None."""
    if dtype == torch.float64:
        return "features of float32 or narrower, got float64"
    if not 1 <= num_dims <= MAX_FUSED_DIMS:
        return f"1 to {MAX_FUSED_DIMS} dimensions, got {num_dims}"
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # on any device
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    if _has_triton() and (is_interpreted or (is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0))):
        return None
    return f"Triton and features on an NVIDIA GPU of compute capability 8 or above, got {device}"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
