"""Class labels: integers of any type, converted to int64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def integer_labels(labels: Any, count: int, device: torch.device | str | None = None, name: str = "labels") -> Tensor:
    """Return ``labels``, a tensor, array or sequence of integers (count,) of any type or booleans, as int64.

    They are returned on ``device``, by default on their own. torch lacks comparisons, sorting or indexing for unsigned
    and narrow integers, so nothing is computed with those.

    Raises:
        ValueError: they have another shape, or are not integers.
    """
    try:
        found: Tensor = torch.as_tensor(labels, device=device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be integers ({count},), got {type(labels).__name__}: {error}") from error
    if found.shape != (count,) or found.is_floating_point() or found.is_complex():
        kind = str(found.dtype).removeprefix("torch.")
        raise ValueError(f"{name} must be integers ({count},), one per sample, got {kind} {tuple(found.shape)}")
    return found.long()
