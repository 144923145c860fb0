"""The log-odds of picking a neighbor of another class: the quantity from which the loss and the objectives are made."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from snngan.losses.backends.dense import dense_log_odds
from snngan.losses.backends.fused import fused_log_odds
from snngan.losses.backends.tiled import tiled_log_odds
from snngan.losses.pairwise import GroupedBatch, PairwiseBatch

COMPUTE = {"dense": dense_log_odds, "tiled": tiled_log_odds, "fused": fused_log_odds}


def log_odds(batch: PairwiseBatch | GroupedBatch, inverse_temperatures: Tensor) -> Tensor:
    r"""Return the log-odds z (K, N) of picking a neighbor of another class at K inverse temperatures 1/T (K,).

    .. math:: z_i = \log\sum_{y_k \ne y_i} e^{-d_{ik}/T} - \log\sum_{j \ne i,\, y_j = y_i} e^{-d_{ij}/T}

    z is -inf where no sample has another label, and 0 for samples that are not anchors (``PairwiseBatch.is_anchor``).
    Everything stays in the log domain: no epsilon, no subtraction of a self-pair, finite gradients at any T.
    Gradients flow to the features. Second derivatives raise a ``RuntimeError``.
    """
    if isinstance(batch, GroupedBatch):
        return batch.concatenate([log_odds(part, inverse_temperatures) for part in batch.parts])
    if len(batch.features) == 0:
        return batch.features.sum(1).expand(len(inverse_temperatures), 0)
    link = batch.features[:0].clone()
    odds: Tensor = _LogOdds.apply(link, batch.features, batch, inverse_temperatures)
    return odds


class _LogOdds(torch.autograd.Function):
    """Log-odds (K, N) in float64, whose gradient cannot be differentiated.

    torch's ``once_differentiable`` would connect the gradient with the incoming one only, and return zeros if that is a
    constant; here it is also connected with ``link`` (0, D), and so with the features.
    """

    @staticmethod
    def forward(ctx: Any, link: Tensor, features: Tensor, batch: PairwiseBatch, inverses: Tensor) -> Tensor:
        odds, saved, ctx.gradients = COMPUTE[batch.backend](batch, inverses)
        ctx.save_for_backward(link, *saved)
        return odds

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        link, *saved = ctx.saved_tensors
        with torch.no_grad():
            gradient = functools.reduce(torch.add, ctx.gradients(grad, *saved))
        if torch.is_grad_enabled():  # create_graph
            gradient = _RaiseInBackward.apply(gradient, link, grad)
        return None, gradient, None, None


class _RaiseInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> None:
        raise RuntimeError(
            "the soft nearest neighbor loss has no second derivatives: a loss that contains its gradient, such as a "
            "gradient penalty, cannot be differentiated"
        )
