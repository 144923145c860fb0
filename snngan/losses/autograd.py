"""Backward passes that cannot be differentiated again, and raise an error that says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Backward = Callable[[Any, Tensor], tuple[Tensor | None, ...]]


def first_derivatives_only(backward: Backward) -> Backward:
    """Wrap an autograd function's ``backward`` so that differentiating its result raises a ``RuntimeError``.

    The result stays connected with the incoming gradient and with the first tensor that the function saved, which must
    be one of its inputs, so that every second derivative raises the error. torch's ``once_differentiable`` connects it
    with the incoming gradient only, and returns zeros if that is a constant.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, grad)
        if not torch.is_grad_enabled():  # no create_graph
            return gradients
        sources = (ctx.saved_tensors[0], grad)
        return tuple(None if gradient is None else _RaiseInBackward.apply(gradient, *sources) for gradient in gradients)

    return wrapped


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
