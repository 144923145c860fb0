"""Saved optimizers continue on any device and in any memory layout; the state of another one is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from snngan.training.optimizers import load_optimizer, make_optimizer

NAMES = ("adam", "rmsprop", "sgd")


def step(name: str, start: Tensor, gradient: Tensor, state: dict[str, Any] | None = None) -> Any:
    """Return a weight after one step, and the optimizer."""
    weight = start.clone().requires_grad_()
    optimizer = make_optimizer(name, [weight], 0.1)
    if state is not None:
        load_optimizer(optimizer, state)
    weight.grad = gradient
    optimizer.step()
    return weight.detach(), optimizer


def test_options() -> None:
    weight = torch.zeros(3, requires_grad=True)
    adam, sgd = make_optimizer("adam", [weight], 0.125, (0.25, 0.75)), make_optimizer("sgd", [weight], 0.0)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (0.125, (0.25, 0.75))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.0, 0.9, True)
    assert isinstance(make_optimizer("rmsprop", [weight], 0.1), torch.optim.RMSprop)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_steps_are_counted_where_the_weights_are(name: str) -> None:
    """A checkpoint of a run on a GPU says to count on the GPU: on a CPU, that is wrong."""
    start, gradient = torch.zeros(3), torch.ones(3)
    state = step(name, start, gradient)[1].state_dict()
    state["param_groups"][0]["capturable"] = True
    _, second = step(name, start, gradient, copy.deepcopy(state))
    assert not second.param_groups[0]["capturable"]
    assert float(second.state_dict()["state"][0]["step"]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_is_that_of_the_config(name: str) -> None:
    state = step(name, torch.zeros(3), torch.ones(3))[1].state_dict()
    state["param_groups"][0]["lr"] = 77.0
    assert step(name, torch.zeros(3), torch.ones(3), state)[1].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_continues_in_any_layout_of_its_weights(name: str) -> None:
    """Fused Adam goes through memory as it lies."""
    start, gradients = torch.randn(4, 3, 5, 5), torch.randn(3, 4, 3, 5, 5)
    found = []
    for layouts in ((torch.contiguous_format,) * 3, (torch.contiguous_format, *(torch.channels_last,) * 2)):
        values, state = start, None
        for layout, gradient in zip(layouts, gradients, strict=True):
            ordered = values.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
            values, optimizer = step(name, *ordered, state)
            state = optimizer.state_dict()
        found.append(values)
    assert_close(found[1], found[0])


def more_weights(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"].append(1)


def another_optimizer(state: dict[str, Any]) -> None:
    state["state"][0] = {"step": torch.zeros(()), "speed": torch.zeros(3)}


def another_shape(state: dict[str, Any]) -> None:
    state["state"][0] = {name: torch.zeros(4) for name in state["state"][0]}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [more_weights, another_optimizer, another_shape])
def test_the_state_of_other_weights_is_refused(name: str, change: Callable[[dict[str, Any]], None]) -> None:
    state = step(name, torch.zeros(3), torch.ones(3))[1].state_dict()
    change(state)
    with pytest.raises(ValueError, match=r"another number of weights|of another optimizer|of another shape"):
        step(name, torch.zeros(3), torch.ones(3), state)
