"""Backward passes that are not differentiable themselves, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Backward = Callable[[Any, Tensor], tuple[Tensor | None, ...]]


def first_derivatives_only(backward: Backward) -> Backward:
    """Wrap an autograd function's ``backward``: to differentiate what it returns raises a ``RuntimeError``.

    torch's ``once_differentiable`` takes the result for a constant where the incoming gradient is one.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, grad)
        if not torch.is_grad_enabled():  # no create_graph
            return gradients
        guard = torch.ones((), device=grad.device, requires_grad=True)
        return tuple(None if gradient is None else _Refusing.apply(gradient, guard) for gradient in gradients)

    return wrapped


class _Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, guard: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> None:
        raise RuntimeError(
            "the soft nearest neighbor loss has no second derivatives: nothing can be differentiated that contains "
            "its gradient, such as a gradient penalty"
        )
