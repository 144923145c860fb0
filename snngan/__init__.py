"""Train GANs with the Soft Nearest Neighbor Loss, and measure how entangled synthetic data is with real data.

The public names load on first use: importing ``snngan`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from snngan.version import __version__

if TYPE_CHECKING:
    from snngan.data.datasets import load_dataset
    from snngan.losses.entangled import EntangledLoss
    from snngan.losses.snnl import Entanglement, SoftNearestNeighborLoss, entanglement, soft_nearest_neighbor_loss
    from snngan.losses.temperature import (
        AnnealedTemperature,
        FixedTemperature,
        LearnedTemperature,
        OptimalTemperature,
        RelativeTemperature,
    )
    from snngan.training.sampling import load_generator

_HOME = {
    "EntangledLoss": "snngan.losses.entangled",
    "soft_nearest_neighbor_loss": "snngan.losses.snnl",
    "SoftNearestNeighborLoss": "snngan.losses.snnl",
    "entanglement": "snngan.losses.snnl",
    "Entanglement": "snngan.losses.snnl",
    "FixedTemperature": "snngan.losses.temperature",
    "RelativeTemperature": "snngan.losses.temperature",
    "AnnealedTemperature": "snngan.losses.temperature",
    "LearnedTemperature": "snngan.losses.temperature",
    "OptimalTemperature": "snngan.losses.temperature",
    "load_dataset": "snngan.data.datasets",
    "load_generator": "snngan.training.sampling",
}

__all__ = [
    "AnnealedTemperature",
    "EntangledLoss",
    "Entanglement",
    "FixedTemperature",
    "LearnedTemperature",
    "OptimalTemperature",
    "RelativeTemperature",
    "SoftNearestNeighborLoss",
    "__version__",
    "entanglement",
    "load_dataset",
    "load_generator",
    "soft_nearest_neighbor_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'snngan' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
