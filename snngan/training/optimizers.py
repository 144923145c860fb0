"""torch's optimizers, without the compiler that they import for nothing."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def make_optimizer(
    name: str, parameters: Iterable[Tensor], learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Return ``adam`` with ``betas``, ``rmsprop``, or ``sgd`` with Nesterov's momentum of 0.9."""
    _spare_the_compiler()
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda  # what counts steps is there too, so that none of them waits
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: _Adam(parameters, lr=learning_rate, betas=betas, fused=True, capturable=on_gpu),
        "rmsprop": lambda: _RMSprop(parameters, lr=learning_rate, capturable=on_gpu),
        "sgd": lambda: _SGD(parameters, lr=learning_rate, momentum=0.9, nesterov=True),
    }
    return kinds[name]()


def _spare_the_compiler() -> None:
    """Keep torch's optimizers from importing its compiler, 150 MB and 3 seconds, only to tell it to leave them alone.

    They do so at the first call of each method, and in each step. Here methods get the mark that the compiler would
    leave, and ``step`` is the undecorated one, without gradient as the decoration has it. Where the compiler is loaded
    already, or torch marks methods otherwise, this changes nothing.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        wrapped = getattr(method, "__wrapped__", None)
        if wrapped is not None and not hasattr(wrapped, "__dynamo_disable"):
            wrapped.__dynamo_disable = wrapped


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any], load: Callable[[dict[str, Any]], None]) -> None:
    """Load what a saved ``state`` remembers of each weight, as this optimizer's device and its weights' layout want it.

    Fused steps go through memory as it lies, and a checkpoint may come from weights that lay otherwise. Rates and other
    options stay as they are: they are the plan's.

    Raises:
        ValueError: the state is of other weights, or of another optimizer.
    """
    saved, own = state["param_groups"], optimizer.state_dict()["param_groups"]
    if len(saved) != len(own) or any(old["params"] != new["params"] for old, new in zip(saved, own, strict=True)):
        raise ValueError("another number of weights")
    load({"state": state["state"], "param_groups": own})
    for weight, parts in optimizer.state.items():
        if not isinstance(weight, Tensor) or set(parts) != REMEMBERED[type(optimizer)]:
            raise ValueError("what another optimizer remembers")
        for name, part in parts.items():
            if part is None and name == "momentum_buffer":
                continue
            if not isinstance(part, Tensor) or part.shape != (() if name == "step" else weight.shape):
                raise ValueError(f"{name} of another shape")
            if name != "step":
                parts[name] = torch.empty_like(weight, dtype=part.dtype).copy_(part)


class _Adam(torch.optim.Adam):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load(self, state, super().load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return inspect.unwrap(torch.optim.Adam.step)(self, closure)


class _RMSprop(torch.optim.RMSprop):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load(self, state, super().load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return inspect.unwrap(torch.optim.RMSprop.step)(self, closure)


class _SGD(torch.optim.SGD):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load(self, state, super().load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return inspect.unwrap(torch.optim.SGD.step)(self, closure)


REMEMBERED = {
    _Adam: {"step", "exp_avg", "exp_avg_sq"},
    _RMSprop: {"step", "square_avg"},
    _SGD: {"momentum_buffer"},
}
"""What each optimizer keeps of a weight."""
