"""The two objectives that use the soft nearest neighbor loss: forms, temperatures and state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from reference.players import build, descend, discriminator_of, images
from reference.snnl_loops import distances_loop, log_odds_loop, mean_distance_loop
from torch import Tensor
from torch.testing import assert_close

from snngan.objectives import FORMS, OBJECTIVES, entangling_loss

NAMES = ("snnl-pixel", "snnl-projected")


FORMULAS: Mapping[str, Callable[[float], float]] = {
    "literal": lambda z: -math.log(1 + math.exp(z)),
    "log-odds": lambda z: math.log(1 + math.exp(-z)),
    "log-odds-linear": lambda z: -z,
    "chance-capped": lambda z: -min(z, 0.0),
}


def odds_by_loops(real: Tensor, fake: Tensor, temperature: float, distance: str) -> list[float]:
    labels = torch.tensor([0] * len(real) + [1] * len(fake))
    distances = distances_loop(torch.cat([real.flatten(1), fake.flatten(1)]).detach(), distance)
    return [odds.item() for odds in log_odds_loop(distances, labels, temperature).values()]


def mean_distance(points: Tensor, distance: str) -> float:
    return mean_distance_loop(distances_loop(points.flatten(1).detach(), distance))


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_each_form_agrees_with_its_formula_on_the_odds_of_the_loops(name: str, form: str, distance: str) -> None:
    """The temperature is relative to the real images alone in pixel space, and to all points in the learned one."""
    real, fake = images(6, 1, 0.2), images(9, 2, -0.1)
    kind: Any = OBJECTIVES[name]
    for text in ("", "0.2", "0.05+0.5"):
        objective = build(name, form=form, distance=distance, temperature=text)
        discriminator = discriminator_of(objective)
        points, others = (discriminator(real), discriminator(fake)) if discriminator else (real, fake)
        measured = points if name == "snnl-pixel" else torch.cat([points, others])
        factors = [float(part) for part in (text or kind.default_temperatures[form]).split("+")]
        odds = [odds_by_loops(points, others, f * mean_distance(measured, distance), distance) for f in factors]
        flat = [z for row in odds for z in row]
        expected = sum(map(FORMULAS[form], flat)) / len(flat)
        assert_close(objective.generator_loss(discriminator, real, fake), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        if discriminator is not None:
            loss = objective.discriminator_loss(discriminator, real, fake)
            expected = sum(math.log(1 + math.exp(z)) for z in flat) / len(flat)
            assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_forms_at_large_odds(form: str) -> None:
    assert set(FORMS) == set(FORMULAS)
    odds = torch.tensor([-500.0, -1.0, -0.1, 2.0, 500.0], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([entangling_loss(z[None], form) for z in odds])
    (slope,) = torch.autograd.grad(losses.sum(), odds)
    expected = {
        "literal": -torch.sigmoid(odds), "log-odds": -torch.sigmoid(-odds),
        "log-odds-linear": -torch.ones(5), "chance-capped": -torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]),
    }[form]  # fmt: skip
    assert losses.isfinite().all()
    assert (slope <= 0).all()
    assert_close(slope, expected.detach().to(slope))


@pytest.mark.parametrize("name", NAMES)
def test_a_learned_temperature_is_state(name: str) -> None:
    options = {"temperature": "learned:0.5"}
    objective, other, untouched = (build(name, **options) for _ in range(3))
    discriminator, real, fake = discriminator_of(objective), images(8, 1, 0.2), images(8, 2)
    first = copy.deepcopy(objective.state().state_dict())
    for _ in range(3):
        objective.generator_loss(discriminator, real, fake)
    state = objective.state().state_dict()
    assert state
    assert any(not torch.equal(state[key], first[key]) for key in state)
    other.state().load_state_dict(state)
    values = [o.generator_loss(discriminator, real, fake).item() for o in (objective, other, untouched)]
    assert values[0] == values[1] != values[2]


def test_training_the_projection_separates_real_from_fake() -> None:
    """At an absolute T: a relative one changes with the projection, so that scaling does not lower the loss."""
    objective = build("snnl-projected", temperature="absolute:0.5")
    discriminator, real, fake = discriminator_of(objective), images(32, 1, 0.3), images(32, 2, -0.3)
    assert discriminator is not None
    values = descend(discriminator, lambda: objective.discriminator_loss(discriminator, real, fake), lambda: None, 60)
    assert values[-1] < 0.2 * values[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "log_odds"}, "unknown value for form 'log_odds'; did you mean 'log-odds'?"),
        ({"distance": "l2"}, "unknown value for distance 'l2'"),
        ({"temperature": "warm"}, "temperature must be"),
        ({"temperature": "-1"}, "temperature must be"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?")):
        build(name, **options)
