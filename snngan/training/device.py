"""Where a run computes."""

from __future__ import annotations

import os
import re

import torch


def set_up(*, tf32: bool, deterministic: bool = False) -> None:
    """Set what torch keeps for the whole process, before a run of steps that are all of one shape.

    Args:
        tf32: whether CUDA may round the factors of products and convolutions to 10 bits: by itself torch lets
            convolutions do so. What cuDNN's algorithms cost is measured at the first step.
        deterministic: whether CUDA is to give the same bits each time: its algorithms are not chosen by their speed
            then, and an operation that has no such algorithm is refused by a ``RuntimeError``.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's first product is taken
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not deterministic


def preferred_layout(device: torch.device, precision: str) -> torch.memory_format:
    """Return how convolutions lie best in memory: channels last on a CPU, and for tensor cores, which fp32 leaves."""
    tensor_cores = precision != "fp32"
    return torch.channels_last if device.type == "cpu" or tensor_cores else torch.contiguous_format


def choose_device(name: str) -> torch.device:
    """Return the device meant by ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ValueError: another name, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ValueError(f"--device takes auto, cpu, cuda or cuda:N, not {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no CUDA device is available to torch {torch.__version__}; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
