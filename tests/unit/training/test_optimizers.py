"""Saved optimizers continue on any device and in any memory layout; the state of another one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from snngan.training.optimizers import WeightStates, load_optimizer, make_optimizer, optimizer_state

NAMES = ("adam", "rmsprop", "sgd")


def step(name: str, start: Tensor, gradient: Tensor, state: WeightStates | None = None) -> Any:
    """Return a weight after one step, and what the optimizer keeps of it."""
    weight = start.clone().requires_grad_()
    optimizer = make_optimizer(name, [weight], 0.1)
    if state is not None:
        load_optimizer(optimizer, [("weight", weight)], state)
    weight.grad = gradient
    optimizer.step()
    return weight.detach(), optimizer_state(optimizer, [("weight", weight)])


def test_options() -> None:
    weight = torch.zeros(3, requires_grad=True)
    adam, sgd = make_optimizer("adam", [weight], 0.125, (0.25, 0.75)), make_optimizer("sgd", [weight], 0.0)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (0.125, (0.25, 0.75))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.0, 0.9, True)
    assert isinstance(make_optimizer("rmsprop", [weight], 0.1), torch.optim.RMSprop)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_continues_in_any_layout_of_its_weights(name: str) -> None:
    """Fused Adam goes through memory as it lies."""
    start, gradients = torch.randn(4, 3, 5, 5), torch.randn(3, 4, 3, 5, 5)
    unbroken = start.clone().requires_grad_()
    optimizer = make_optimizer(name, [unbroken], 0.1)
    for gradient in gradients:
        unbroken.grad = gradient.clone()
        optimizer.step()
    for second in (torch.contiguous_format, torch.channels_last):
        values, state = start, None
        for layout, gradient in zip((torch.contiguous_format, second, second), gradients, strict=True):
            ordered = values.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
            values, state = step(name, *ordered, state)
        assert_close(values, unbroken.detach())


def of_another_weight(state: WeightStates) -> None:
    state["other"] = state.pop("weight")


def of_another_optimizer(state: WeightStates) -> None:
    state["weight"] = {"step": torch.zeros(()), "speed": torch.zeros(3)}


def of_another_shape(state: WeightStates) -> None:
    name = list(state["weight"])[-1]
    state["weight"][name] = torch.zeros(4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [of_another_weight, of_another_optimizer, of_another_shape])
def test_the_state_of_something_else_is_refused(name: str, change: Callable[[WeightStates], None]) -> None:
    state = step(name, torch.zeros(3), torch.ones(3))[1]
    change(state)
    with pytest.raises(ValueError, match="other"):
        step(name, torch.zeros(3), torch.ones(3), state)
