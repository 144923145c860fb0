"""Train GANs with the Soft Nearest Neighbor Loss, and measure how entangled synthetic data is with real data.

The public names load on first use: importing ``snngan`` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snngan.lazy import public_names
from snngan.version import __version__ as __version__

if TYPE_CHECKING:
    from snngan.api import Run as Run
    from snngan.api import load_run as load_run
    from snngan.api import train as train
    from snngan.api import train_classifier as train_classifier
    from snngan.data.datasets import load_dataset as load_dataset
    from snngan.evaluation.classifier import load_classifier as load_classifier
    from snngan.evaluation.measure import evaluate as evaluate
    from snngan.evaluation.two_sample_report import compare as compare
    from snngan.losses.entangled import EntangledLoss as EntangledLoss
    from snngan.losses.snnl import Entanglement as Entanglement
    from snngan.losses.snnl import SoftNearestNeighborLoss as SoftNearestNeighborLoss
    from snngan.losses.snnl import entanglement as entanglement
    from snngan.losses.snnl import soft_nearest_neighbor_loss as soft_nearest_neighbor_loss
    from snngan.losses.temperature import AnnealedTemperature as AnnealedTemperature
    from snngan.losses.temperature import FixedTemperature as FixedTemperature
    from snngan.losses.temperature import LearnedTemperature as LearnedTemperature
    from snngan.losses.temperature import OptimalTemperature as OptimalTemperature
    from snngan.losses.temperature import RelativeTemperature as RelativeTemperature
    from snngan.training.sampling import load_generator as load_generator

_PACKAGES = "data evaluation experiments losses metrics models objectives robustness selfsupervised training"

__getattr__, __dir__ = public_names(
    __name__,
    {
        "": "__version__",
        ".": _PACKAGES,
        "api": "Run load_run train train_classifier",
        "data.datasets": "load_dataset",
        "evaluation": "compare evaluate load_classifier",
        "losses": "EntangledLoss Entanglement SoftNearestNeighborLoss entanglement soft_nearest_neighbor_loss "
        "FixedTemperature RelativeTemperature AnnealedTemperature LearnedTemperature OptimalTemperature",
        "training": "load_generator",
    },
)
__all__ = [name for name in __dir__() if name not in _PACKAGES.split()]
