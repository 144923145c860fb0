"""Train GANs with the Soft Nearest Neighbor Loss, and measure how entangled synthetic data is with real data.

The public names load on first use: importing ``snngan`` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snngan.lazy import public_names
from snngan.version import __version__

if TYPE_CHECKING:
    from snngan.api import Run, load_run, train, train_classifier
    from snngan.data.datasets import load_dataset
    from snngan.evaluation.classifier import load_classifier
    from snngan.evaluation.measure import evaluate
    from snngan.evaluation.two_sample_report import compare
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

__all__ = [
    "AnnealedTemperature",
    "EntangledLoss",
    "Entanglement",
    "FixedTemperature",
    "LearnedTemperature",
    "OptimalTemperature",
    "RelativeTemperature",
    "Run",
    "SoftNearestNeighborLoss",
    "__version__",
    "compare",
    "entanglement",
    "evaluate",
    "load_classifier",
    "load_dataset",
    "load_generator",
    "load_run",
    "soft_nearest_neighbor_loss",
    "train",
    "train_classifier",
]
_PACKAGES = (
    "data",
    "evaluation",
    "experiments",
    "losses",
    "metrics",
    "models",
    "objectives",
    "robustness",
    "selfsupervised",
    "training",
)

__getattr__, __dir__ = public_names(
    __name__,
    {
        **dict.fromkeys(__all__, "losses"),
        **{name: name for name in _PACKAGES},
        "__version__": "",
        **dict.fromkeys(("Run", "load_run", "train", "train_classifier"), "api"),
        **dict.fromkeys(("compare", "evaluate", "load_classifier"), "evaluation"),
        "load_dataset": "data.datasets",
        "load_generator": "training",
    },
)
