"""The two objectives on the soft nearest neighbor loss: forms, temperatures, and their state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from reference.networks import (
    build,
    discriminator_loss_of,
    generator_loss_of,
    make_discriminator,
    make_images,
    minimize,
)
from reference.snnl_loops import distances_loop, log_odds_loop, mean_distance_loop
from torch import Tensor
from torch.testing import assert_close

from snngan.objectives import OBJECTIVES
from snngan.objectives.snnl import FORMS

NAMES = ("snnl-pixel", "snnl-projected")
FORMULAS: Mapping[str, Callable[[float, float], float]] = {
    "literal": lambda z, chance: -math.log(1 + math.exp(z)),
    "log-odds": lambda z, chance: math.log(1 + math.exp(-z)),
    "log-odds-linear": lambda z, chance: -z,
    "chance-capped": lambda z, chance: -min(z, chance),
}


def odds_by_loops(real: Tensor, fake: Tensor, temperature: float, distance: str) -> list[float]:
    labels = torch.tensor([0] * len(real) + [1] * len(fake))
    distances = distances_loop(torch.cat([real.flatten(1), fake.flatten(1)]).detach(), distance)
    return [odds.item() for odds in log_odds_loop(distances, labels, temperature).values()]


def mean_distance(embeddings: Tensor, distance: str) -> float:
    return mean_distance_loop(distances_loop(embeddings.flatten(1).detach(), distance))


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_each_form_equals_its_formula_on_the_loops_odds(name: str, form: str, distance: str) -> None:
    """The temperature is relative to the real images alone in pixel space, and to all embeddings in the learned one."""
    real, fake = make_images(6, 1, 0.2), make_images(9, 2, -0.1)
    kind: Any = OBJECTIVES[name]
    for text in ("", "0.2", "0.05+0.5"):
        objective = build(name, form=form, distance=distance, temperature=text)
        discriminator = make_discriminator(objective)
        own, others = discriminator(real), discriminator(fake)
        measured = own if name == "snnl-pixel" else torch.cat([own, others])
        factors = [float(part) for part in (text or kind.default_temperatures[form]).split("+")]
        odds = [odds_by_loops(own, others, f * mean_distance(measured, distance), distance) for f in factors]
        flat = [z for row in odds for z in row]
        chances = ([math.log(9 / 5)] * 6 + [math.log(6 / 8)] * 9) * len(factors)
        expected = sum(map(FORMULAS[form], flat, chances)) / len(flat)
        assert_close(
            generator_loss_of(objective, discriminator, real, fake), torch.tensor(expected), rtol=1e-4, atol=1e-5
        )
        if name == "snnl-projected":
            loss = discriminator_loss_of(objective, discriminator, real, fake)
            expected = sum(math.log(1 + math.exp(z)) for z in flat) / len(flat)
            assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_slopes_of_the_forms(form: str) -> None:
    odds = torch.tensor([-500.0, -1.0, -0.1, 2.0, 500.0], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([FORMS[form](z[None], torch.zeros(1)) for z in odds])
    (slope,) = torch.autograd.grad(losses.sum(), odds)
    expected = {
        "literal": -torch.sigmoid(odds), "log-odds": -torch.sigmoid(-odds),
        "log-odds-linear": -torch.ones(5), "chance-capped": -torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    }[form]  # fmt: skip
    assert losses.isfinite().all()
    assert_close(slope, expected.detach().to(slope))


@pytest.mark.parametrize("name", NAMES)
def test_a_learned_temperature_is_state(name: str) -> None:
    objective, other, unchanged = (build(name, temperature="learned:0.5") for _ in range(3))
    discriminator, real, fake = make_discriminator(objective), make_images(8, 1, 0.2), make_images(8, 2)
    first = copy.deepcopy(objective.state_dict())
    for _ in range(3):
        generator_loss_of(objective, discriminator, real, fake)
    state = objective.state_dict()
    assert any(not torch.equal(state[key], first[key]) for key in state)
    other.load_state_dict(state)
    values = [generator_loss_of(each, discriminator, real, fake).item() for each in (objective, other, unchanged)]
    assert values[0] == values[1] != values[2]


def test_the_projection_separates_real_from_synthetic_images() -> None:
    """At an absolute T: a relative one follows the scale of the projection, so that growth alone lowers no loss."""
    objective = build("snnl-projected", temperature="absolute:0.5")
    discriminator, real, fake = make_discriminator(objective), make_images(32, 1, 0.3), make_images(32, 2, -0.3)
    losses = minimize(
        discriminator, lambda: discriminator_loss_of(objective, discriminator, real, fake), 60, lambda: None
    )
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "log_odds"}, r"unknown value for form 'log_odds'; did you mean 'log-odds'\?"),
        ({"distance": "l2"}, "unknown value for distance 'l2'"),
        ({"temperature": "warm"}, "temperature .*'warm'"),
        ({"temperature": "-1"}, "temperature .*'-1'"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        build(name, **options)
