"""The optimizers by name, and how the state of a saved one is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

WeightStates = dict[str, dict[str, Tensor]]
"""What an optimizer keeps: tensors by weight and by their own names, such as ``exp_avg``."""


def make_optimizer(
    name: str, parameters: Iterable[Tensor], learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Return ``adam`` with ``betas``, ``rmsprop``, or ``sgd`` with Nesterov's momentum of 0.9.

    Parameter groups keep the learning rate as ``initial_lr``, too.
    """
    weights = list(parameters)
    groups: Any = [{"params": weights, "initial_lr": learning_rate}]
    on_gpu = weights[0].is_cuda  # what counts steps is there too, so that no step waits
    if name == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas, fused=True, capturable=on_gpu)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=learning_rate, capturable=on_gpu)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)


STATE_NAMES = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.RMSprop: {"step", "square_avg"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""What each optimizer keeps of a weight."""


def optimizer_state(optimizer: torch.optim.Optimizer, weights: Iterable[tuple[str, Tensor]]) -> WeightStates:
    """Return what an optimizer keeps of the named ``weights``: tensors by weight and by their own names."""
    return {name: dict(optimizer.state.get(weight, {})) for name, weight in weights}


def load_optimizer(
    optimizer: torch.optim.Optimizer, weights: Iterable[tuple[str, Tensor]], state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Load what :func:`optimizer_state` returned, in the memory layout that the weights have now.

    Fused steps go through memory as it lies, and the saved weights may have had another layout. Learning rates and
    other options stay as they are: they are the config's.

    Raises:
        ValueError: the state is that of other weights, or of another optimizer.
    """
    named = dict(weights)
    if set(named) != set(state):
        raise ValueError("the state of other weights")
    for name, weight in named.items():
        parts = state[name]
        if parts and set(parts) != STATE_NAMES[type(optimizer)]:
            raise ValueError("the state of another optimizer")
        for part, tensor in parts.items():
            if tensor is None or tensor.shape != (() if part == "step" else weight.shape):
                raise ValueError(f"{part} of another shape")
            kept = torch.empty((), device=weight.device) if part == "step" else torch.empty_like(weight)
            optimizer.state[weight][part] = kept.to(tensor.dtype).copy_(tensor)
