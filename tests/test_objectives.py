"""What every registered objective must do, and the formulas of the two that rest on the soft nearest neighbor loss."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import Any

import pytest
import torch
from reference.players import build, descend, discriminator_of, generator_of, images, latents
from torch import nn
from torch.testing import assert_close

from snngan.config import Optimization
from snngan.losses.adversarial import gradient_penalty
from snngan.models import ARCHITECTURES
from snngan.objectives import OBJECTIVES
from snngan.training.plan import option_names

NAMES = OBJECTIVES.names()

ON_NAMES = pytest.mark.parametrize("name", NAMES)


def playing(names: tuple[str, ...] = NAMES) -> list[str]:
    """Return the objectives that have a discriminator."""
    return [name for name in names if build(name).discriminator_dim is not None]


@ON_NAMES
def test_dimension_and_explanation(name: str) -> None:
    objective = build(name)
    assert objective.discriminator_dim is None or objective.discriminator_dim >= 1
    assert dataclasses.is_dataclass(objective)
    assert objective.__dataclass_params__.frozen
    assert inspect.getdoc(OBJECTIVES[name])
    fields: Any = dataclasses.fields(objective)
    assert all(field.metadata["help"] for field in fields if field.init)


@ON_NAMES
def test_generator_loss_reaches_the_generator_and_not_the_real_images(name: str) -> None:
    objective, generator = build(name), generator_of()
    discriminator, real = discriminator_of(objective), images(12, 1, 0.3).requires_grad_()
    loss = objective.generator_loss(discriminator, real, generator(latents(12)))
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
    assert all(p.grad is not None and p.grad.any() for p in generator.parameters())
    assert real.grad is None or not real.grad.any()


@pytest.mark.parametrize("name", playing())
def test_discriminator_loss_reaches_the_discriminator(name: str) -> None:
    objective = build(name)
    discriminator = discriminator_of(objective)
    assert discriminator is not None
    loss = objective.discriminator_loss(discriminator, images(12, 1, 0.3), images(12, 2, -0.3))
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    loss.backward()
    weights = [p for p in discriminator.parameters() if p.ndim > 1]
    assert weights
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in weights)


@pytest.mark.parametrize("name", playing())
def test_a_frozen_discriminator_still_teaches_the_generator(name: str) -> None:
    """The training loop holds the discriminator's weights still in the generator's step."""
    objective, generator = build(name), generator_of()
    discriminator = discriminator_of(objective)
    assert discriminator is not None
    discriminator.requires_grad_(False)
    objective.generator_loss(discriminator, images(12, 1), generator(latents(12))).backward()
    assert all(p.grad is not None and p.grad.any() for p in generator.parameters())
    assert all(p.grad is None for p in discriminator.parameters())


@pytest.mark.parametrize("name", playing())
def test_a_discriminator_learns_against_a_fixed_generator(name: str) -> None:
    objective = build(name)
    discriminator = discriminator_of(objective)
    assert discriminator is not None
    objective.constrain(discriminator)
    real, fake = images(32, 1, 0.2), images(32, 2, -0.2)
    values = descend(
        discriminator,
        lambda: objective.discriminator_loss(discriminator, real, fake),
        lambda: objective.constrain(discriminator),
        40,
    )
    assert values[-1] < values[0] - 1e-5


@ON_NAMES
def test_a_generator_learns_against_a_fixed_discriminator(name: str) -> None:
    objective, generator, real = build(name), generator_of(), images(32, 1, 0.5)
    discriminator = discriminator_of(objective)
    if discriminator is not None:
        objective.constrain(discriminator)
        first = generator(latents(32)).detach()
        descend(
            discriminator,
            lambda: objective.discriminator_loss(discriminator, real, first),
            lambda: objective.constrain(discriminator),
            20,
        )
        discriminator.requires_grad_(False)
    values = descend(
        generator, lambda: objective.generator_loss(discriminator, real, generator(latents(32))), lambda: None, 40
    )
    assert values[-1] < values[0] - 1e-6
    assert min(values[:5]) > values[-1]


@pytest.mark.parametrize("name", playing())
def test_the_players_oppose_each_other(name: str) -> None:
    """For a discriminator that has learned, images like the real ones are worse; for its generator, better."""
    objective, real, far = build(name), images(32, 1, 0.3), images(32, 2, -0.3)
    discriminator = discriminator_of(objective)
    assert discriminator is not None
    objective.constrain(discriminator)
    descend(
        discriminator,
        lambda: objective.discriminator_loss(discriminator, real, far),
        lambda: objective.constrain(discriminator),
        150,
    )
    losses = []
    for fake in (far, images(32, 3, 0.3)):
        torch.manual_seed(0)
        against = objective.discriminator_loss(discriminator, real, fake)
        losses.append((against.item(), objective.generator_loss(discriminator, real, fake).item()))
    (against_far, made_far), (against_like, made_like) = losses
    assert against_far < against_like
    assert made_like < made_far


@ON_NAMES
def test_losses_draw_and_change_nothing_but_what_is_theirs(name: str) -> None:
    """The same call twice gives the same value, and neither images nor weights move."""
    objective = build(name)
    discriminator, real, fake = discriminator_of(objective), images(8, 1), images(8, 2, 0.1)
    before = copy.deepcopy([real, fake])
    weights = copy.deepcopy(discriminator.state_dict()) if discriminator else {}
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        pair = [objective.generator_loss(discriminator, real, fake)]
        if discriminator is not None:
            pair.append(objective.discriminator_loss(discriminator, real, fake))
        values.append(pair)
    assert_close(values[0], values[1], rtol=0, atol=0)
    assert_close([real, fake], before, rtol=0, atol=0)
    assert_close(discriminator.state_dict() if discriminator else {}, weights, rtol=0, atol=0)


def test_wasserstein_clips_and_the_others_do_not() -> None:
    for name in playing():
        objective = build(name)
        discriminator = discriminator_of(objective)
        assert discriminator is not None
        before = copy.deepcopy(discriminator.state_dict())
        objective.constrain(discriminator)
        largest = max(p.abs().max().item() for p in discriminator.parameters())
        if name == "wgan":
            assert largest == pytest.approx(0.01)
        else:
            assert_close(discriminator.state_dict(), before, rtol=0, atol=0)
    critic = nn.Linear(2, 1)
    build("wgan", clip=1e3).constrain(critic)
    nn.init.constant_(critic.weight, 5.0)
    build("wgan", clip=0.5).constrain(critic)
    assert_close(critic.weight.detach(), torch.full((1, 2), 0.5))


@pytest.mark.parametrize("penalty", [0.0, 10.0])
def test_gradient_penalty_is_weighted(penalty: float) -> None:
    objective = build("wgan-gp", penalty=penalty)
    critic, real, fake = discriminator_of(objective), images(8, 1), images(8, 2)
    assert critic is not None
    torch.manual_seed(3)
    loss = objective.discriminator_loss(critic, real, fake)
    torch.manual_seed(3)
    expected = critic(fake).mean() - critic(real).mean() + penalty * gradient_penalty(critic, real, fake)
    assert_close(loss, expected)


@ON_NAMES
def test_state_is_one_module_that_saves_and_loads(name: str) -> None:
    objective = build(name)
    assert isinstance(objective.state(), nn.Module)
    objective.state().load_state_dict(objective.state().state_dict())
    assert not list(objective.state().parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("snnl-projected", {"discriminator_dim": 1}),
        ("mmd", {"discriminator_dim": 0}),
        ("wgan", {"clip": 0.0}),
        ("wgan-gp", {"penalty": -1.0}),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \["):
        build(name, **options)


@ON_NAMES
def test_what_an_objective_recommends_exists(name: str) -> None:
    recommended = dict(OBJECTIVES[name].recommended)
    if "arch" in recommended:
        ARCHITECTURES[recommended.pop("arch")]
    for key, value in recommended.items():
        owners: list[Any] = [ARCHITECTURES[arch] for arch in ARCHITECTURES.names()]
        takers = [owner for owner in [Optimization, *owners] if key in option_names(owner)]
        assert takers, f"{key} is no option of any architecture, nor of training"
        for owner in takers:
            assert getattr(owner(**{key: value}), key) == value


@ON_NAMES
def test_no_option_has_two_owners(name: str) -> None:
    """``--set NAME=VALUE`` names an option of the objective, of the architecture or of training, and one of them."""
    kind: Any = OBJECTIVES[name]
    for arch in ARCHITECTURES.names():
        architecture: Any = ARCHITECTURES[arch]
        names = [*option_names(kind), *option_names(architecture), *option_names(Optimization)]
        assert len(names) == len(set(names))
