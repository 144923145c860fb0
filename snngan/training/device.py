"""The device that a run uses, and how it computes there."""

from __future__ import annotations

import os
import re

import torch


def set_up(*, tf32: bool, deterministic: bool = False) -> None:
    """Set torch's process-wide switches for a run whose steps all have the same shapes.

    Args:
        tf32: whether CUDA may round the factors of matrix products and convolutions to 10 bits; torch's default
            allows it for convolutions.
        deterministic: whether CUDA must give the same bits each time: then algorithms are not chosen by speed, and an
            operation without a deterministic one raises a ``RuntimeError``.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product on CUDA
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not deterministic


def choose_layout(device: torch.device, precision: str) -> torch.memory_format:
    """Return the fastest memory layout of convolutions: channels last on a CPU and for tensor cores (not fp32)."""
    tensor_cores = precision != "fp32"
    return torch.channels_last if device.type == "cpu" or tensor_cores else torch.contiguous_format


def choose_device(name: str) -> torch.device:
    """Return the device named ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ValueError: the name is wrong, or the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no CUDA device is available to torch {torch.__version__}; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
