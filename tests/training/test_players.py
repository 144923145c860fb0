"""The players: their weights follow from the seed, the average from its formula."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from snngan.config import Plan
from snngan.data import Dataset
from snngan.objectives import OBJECTIVES
from snngan.training.checkpoint import CheckpointError
from snngan.training.game import average_share
from snngan.training.players import AsLargeAs, Players, build_players

CPU = torch.device("cpu")
ON_OBJECTIVES = pytest.mark.parametrize("objective", OBJECTIVES.names())
LATENTS = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def weights_of(players: Players) -> list[torch.Tensor]:
    networks = [players.generator, players.averaged, players.discriminator]
    return [part for network in networks if network is not None for part in network.state_dict().values()]


def same(a: Players, b: Players) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights_of(a), weights_of(b), strict=True))


@ON_OBJECTIVES
def test_the_weights_follow_from_the_seed(plan_of: Callable[..., Plan], objective: str) -> None:
    before = torch.get_rng_state()
    players = build_players(plan_of(objective=objective, seed=3), CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert same(players, build_players(plan_of(objective=objective, seed=3), CPU))
    assert not same(players, build_players(plan_of(objective=objective, seed=4), CPU))


@ON_OBJECTIVES
def test_what_there_is(plan_of: Callable[..., Plan], dataset: Dataset, objective: str) -> None:
    players = build_players(plan_of(objective=objective), CPU)
    dim = players.objective.discriminator_dim
    assert (players.discriminator is None) == (dim is None) == (players.discriminator_optimizer is None)
    assert players.sample(LATENTS).shape == (5, 1, 8, 8)
    points = players.project(torch.zeros(5, 1, 8, 8))
    if dim in (None, 1):
        assert points is None
    else:
        assert points is not None
        assert points.shape == (5, dim)
        assert players.discriminator is not None
        assert players.discriminator.training


def test_the_average_begins_as_the_generator_and_needs_no_gradient(plan_of: Callable[..., Plan]) -> None:
    players = build_players(plan_of(), CPU)
    assert not players.averaged.training
    assert not any(parameter.requires_grad for parameter in players.averaged.parameters())
    for kept, current in zip(players.averaged.parameters(), players.generator.parameters(), strict=True):
        assert torch.equal(kept, current)
        assert kept.data_ptr() != current.data_ptr()


@pytest.mark.parametrize(("decay", "step", "kept_share"), [(0.9, 1, 1 / 11), (0.9, 10, 0.5), (0.9, 10**6, 0.9)])
def test_the_average_by_hand(plan_of: Callable[..., Plan], decay: float, step: int, kept_share: float) -> None:
    players = build_players(plan_of(), CPU)
    old = copy.deepcopy(players.averaged.state_dict())
    with torch.no_grad():
        for parameter in players.generator.parameters():
            parameter.add_(torch.randn_like(parameter))
    players.generator(LATENTS)  # moves the running means
    players.update_average(torch.tensor(average_share(decay, step)))
    for name, new in players.averaged.state_dict().items():
        current = players.generator.state_dict()[name]
        if current.is_floating_point():
            assert_close(new, kept_share * old[name] + (1 - kept_share) * current)
        else:
            assert torch.equal(new, current), f"the count {name} is taken over"


def test_the_optimizer_is_the_planned_one(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("discriminator_learning_rate=0.25", objective="gan", learning_rate=0.125, betas=(0.25, 0.75))
    players = build_players(plan, CPU)
    assert players.discriminator_optimizer is not None
    for optimizer, rate in ((players.generator_optimizer, 0.125), (players.discriminator_optimizer, 0.25)):
        assert isinstance(optimizer, torch.optim.Adam)
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (rate, (0.25, 0.75))
    players = build_players(plan_of("optimizer=rmsprop", objective="gan"), CPU)
    assert isinstance(players.generator_optimizer, torch.optim.RMSprop)
    plan = plan_of("discriminator_learning_rate=0", objective="gan")
    still = build_players(plan, CPU).discriminator_optimizer
    assert still is not None
    assert still.defaults["lr"] == 0


@ON_OBJECTIVES
def test_the_state_is_all_there_is(plan_of: Callable[..., Plan], objective: str) -> None:
    players = build_players(plan_of(objective=objective, seed=1), CPU)
    others = build_players(plan_of(objective=objective, seed=2), CPU)
    others.load_state_dict(players.state_dict())
    assert same(players, others)


def remove(state: dict[str, Any]) -> None:
    del state["averaged"]


def of_another_width(state: dict[str, Any]) -> None:
    state["generator"] = nn.Linear(3, 4).state_dict()


def of_no_kind(state: dict[str, Any]) -> None:
    state["generator_optimizer"] = {"state": {}, "param_groups": []}


@pytest.mark.parametrize("change", [remove, of_another_width, of_no_kind])
def test_the_state_of_other_networks_is_refused(
    plan_of: Callable[..., Plan], change: Callable[[dict[str, Any]], None]
) -> None:
    players = build_players(plan_of(), CPU)
    state = players.state_dict()
    change(state)
    message = r"the checkpoint does not fit the run's config\.json: its (averaged|generator|generator_optimizer) is"
    with pytest.raises(CheckpointError, match=message):
        players.load_state_dict(state)


def test_a_saved_state_bounds_what_is_made_for_it() -> None:
    state = {"weights": [torch.zeros(1 << 20)]}
    with AsLargeAs(state):
        torch.empty(1 << 20)
        with pytest.raises(CheckpointError, match="its networks are smaller"):
            torch.empty(1 << 21)
    with AsLargeAs(state), pytest.raises(CheckpointError, match="its networks are smaller"):
        torch.empty(1 << 60)
    with (
        AsLargeAs(None),
        pytest.raises(RuntimeError, match=r"memory|size"),
    ):  # too large a network is no checkpoint's fault
        torch.empty(1 << 60)
