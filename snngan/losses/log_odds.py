"""The log-odds of picking a neighbor of another class: the quantity from which the loss and the objectives are made."""

from __future__ import annotations

from torch import Tensor

from snngan.losses.backends.dense import dense_log_odds
from snngan.losses.backends.fused import fused_log_odds
from snngan.losses.backends.tiled import tiled_log_odds
from snngan.losses.pairwise import PairwiseBatch

COMPUTE = {"dense": dense_log_odds, "tiled": tiled_log_odds, "fused": fused_log_odds}


def log_odds(batch: PairwiseBatch, inverse_temperatures: Tensor) -> Tensor:
    r"""Return the log-odds z (K, N) of picking a neighbor of another class at K inverse temperatures 1/T (K,).

    .. math:: z_i = \log\sum_{y_k \ne y_i} e^{-d_{ik}/T} - \log\sum_{j \ne i,\, y_j = y_i} e^{-d_{ij}/T}

    z is -inf where no sample has another label, and 0 for samples that are not anchors (``PairwiseBatch.is_anchor``).
    Everything stays in the log domain: no epsilon, no subtraction of a self-pair, finite gradients at any T.
    Gradients flow to the features. Second derivatives raise a ``RuntimeError``.
    """
    if len(batch.features) == 0:
        return batch.features.sum(1).expand(len(inverse_temperatures), 0)
    return COMPUTE[batch.backend](batch, inverse_temperatures)
