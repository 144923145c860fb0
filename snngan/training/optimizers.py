"""The optimizers by name, and how the state of a saved one is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def make_optimizer(
    name: str, parameters: Iterable[Tensor], learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Return ``adam`` with ``betas``, ``rmsprop``, or ``sgd`` with Nesterov's momentum of 0.9."""
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda  # what counts steps is there too, so that no step waits
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, betas=betas, fused=True, capturable=on_gpu)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=learning_rate, capturable=on_gpu)
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, nesterov=True)


STATE_NAMES = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.RMSprop: {"step", "square_avg"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""What each optimizer keeps of a weight."""


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved ``state`` in the memory layout that the optimizer's weights have now.

    Fused steps go through memory as it lies, and the saved weights may have had another layout. Learning rates and
    other options stay as they are: they are the config's.

    Raises:
        ValueError: the state is that of other weights, or of another optimizer.
    """
    saved, own = state["param_groups"], optimizer.state_dict()["param_groups"]
    if len(saved) != len(own) or any(old["params"] != new["params"] for old, new in zip(saved, own, strict=True)):
        raise ValueError("another number of weights")
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
    for weight, tensors in optimizer.state.items():
        if not isinstance(weight, Tensor) or set(tensors) != STATE_NAMES[type(optimizer)]:
            raise ValueError("the state of another optimizer")
        for name, tensor in tensors.items():
            if tensor is None and name == "momentum_buffer":
                continue
            if not isinstance(tensor, Tensor) or tensor.shape != (() if name == "step" else weight.shape):
                raise ValueError(f"{name} of another shape")
            if name != "step":
                tensors[name] = torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
