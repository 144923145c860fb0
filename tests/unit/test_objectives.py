"""What every registered objective must do: whom its losses reach, in which direction, and what they change."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference.networks import (
    build,
    discriminator_loss_of,
    generator_loss_of,
    make_discriminator,
    make_generator,
    make_images,
    make_latents,
    minimize,
)
from torch import Tensor, nn
from torch.testing import assert_close

from snngan.config import TrainConfig, option_names
from snngan.losses.penalty import gradient_penalty, zero_centered_penalty
from snngan.models import ARCHITECTURES
from snngan.objectives import OBJECTIVES, Batch, Objective

NAMES = OBJECTIVES.names()
ADVERSARIAL = [name for name in NAMES if build(name).discriminator_dim is not None]
ON_NAMES = pytest.mark.parametrize("name", NAMES)
ON_ADVERSARIAL = pytest.mark.parametrize("name", ADVERSARIAL)


def train_discriminator(objective: Objective, discriminator: nn.Module, real: Tensor, fake: Tensor, steps: int) -> Any:
    objective.constrain(discriminator)
    return minimize(
        discriminator,
        lambda: discriminator_loss_of(objective, discriminator, real, fake),
        steps,
        lambda: objective.constrain(discriminator),
    )


def mean(values: list[float], formula: Callable[[float], float]) -> float:
    return sum(map(formula, values)) / len(values)


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


REAL, FAKE = [0.3, -1.2, 2.0, -0.1], [-0.7, 0.4, 1.5]
"""Outputs of a discriminator; the numbers of real and fake images may differ."""
CROSS_ENTROPY = -mean(REAL, lambda r: math.log(probability(r))) - mean(FAKE, lambda f: math.log(1 - probability(f)))
FORMULAS = {
    "gan": (CROSS_ENTROPY, -mean(FAKE, lambda f: math.log(probability(f)))),
    "minimax": (CROSS_ENTROPY, mean(FAKE, lambda f: math.log(1 - probability(f)))),
    "wgan": (mean(FAKE, float) - mean(REAL, float), -mean(FAKE, float)),
    "lsgan": (
        mean(REAL, lambda r: (r - 1) ** 2) / 2 + mean(FAKE, lambda f: f**2) / 2,
        mean(FAKE, lambda f: (f - 1) ** 2) / 2,
    ),
    "hinge": (mean(REAL, lambda r: max(0.0, 1 - r)) + mean(FAKE, lambda f: max(0.0, 1 + f)), -mean(FAKE, float)),
}
"""The losses of discriminator and generator for these outputs."""


def losses_of_outputs(name: str, real: list[float], fake: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return both losses, and the slope of the generator's by each fake output."""
    outputs = [torch.tensor(values)[:, None].requires_grad_() for values in (real, fake)]
    loss = discriminator_loss_of(build(name), nn.Identity(), *outputs)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss, outputs))
    generator_loss = generator_loss_of(build(name), nn.Identity(), *outputs)
    return loss, generator_loss, torch.autograd.grad(generator_loss, outputs[1])[0]


@pytest.mark.parametrize("name", FORMULAS)
def test_classic_losses_are_their_formulas_and_finite_for_large_logits(name: str) -> None:
    assert_close(torch.stack(losses_of_outputs(name, REAL, FAKE)[:2]), torch.tensor(FORMULAS[name]))
    for logit in (-300.0, -40.0, 40.0, 300.0):
        assert all(value.isfinite().all() for value in losses_of_outputs(name, [logit, 1.0], [-logit, 1.0]))


def test_the_non_saturating_loss_has_a_gradient_where_minimax_saturates() -> None:
    slopes = {name: losses_of_outputs(name, [0.0], [-30.0])[2].item() for name in ("gan", "minimax")}
    assert slopes["gan"] == pytest.approx(-1, abs=1e-6)
    assert -1e-12 < slopes["minimax"] < 0


@ON_NAMES
def test_dimension_and_documentation(name: str) -> None:
    objective = build(name)
    assert objective.discriminator_dim is None or objective.discriminator_dim >= 1
    assert inspect.getdoc(OBJECTIVES[name]) != inspect.getdoc(Objective)
    assert not list(objective.parameters())  # the trainer has no optimizer for them


@ON_NAMES
def test_the_generator_loss_reaches_the_generator_and_not_the_real_images(name: str) -> None:
    objective, generator = build(name), make_generator()
    real = make_images(12, 1, 0.3).requires_grad_()
    loss = generator_loss_of(objective, make_discriminator(objective), real, generator(make_latents(12)))
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    loss.backward()
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in generator.parameters())
    assert real.grad is None or not real.grad.any()


@ON_ADVERSARIAL
def test_a_frozen_discriminator_still_teaches_the_generator(name: str) -> None:
    """In the generator's step, the trainer freezes the discriminator's weights."""
    objective, generator = build(name), make_generator()
    discriminator = make_discriminator(objective).requires_grad_(False)
    generator_loss_of(objective, discriminator, make_images(12, 1), generator(make_latents(12))).backward()
    assert all(weight.grad.any() for weight in generator.parameters())
    assert all(weight.grad is None for weight in discriminator.parameters())


@ON_ADVERSARIAL
def test_a_discriminator_learns_against_fixed_images(name: str) -> None:
    objective, real, fake = build(name), make_images(32, 1, 0.2), make_images(32, 2, -0.2)
    discriminator = make_discriminator(objective)
    losses = train_discriminator(objective, discriminator, real, fake, 40)
    assert losses[-1] < losses[0] - 1e-5
    weights = [weight for weight in discriminator.parameters() if weight.ndim > 1]
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in weights)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "drifting"])  # its loss says nothing
def test_a_generator_learns_against_a_fixed_discriminator(name: str) -> None:
    objective, generator, real = build(name), make_generator(), make_images(32, 1, 0.5)
    discriminator = make_discriminator(objective)
    if name in ADVERSARIAL:
        train_discriminator(objective, discriminator, real, generator(make_latents(32)).detach(), 20)
        discriminator.requires_grad_(False)
    losses = minimize(
        generator,
        lambda: generator_loss_of(objective, discriminator, real, generator(make_latents(32))),
        40,
        lambda: None,
    )
    assert losses[-1] < min(losses[:5]) - 1e-6


@ON_ADVERSARIAL
def test_the_losses_oppose_each_other(name: str) -> None:
    """Images like the real ones are worse for a discriminator that has learned, and better for the generator."""
    objective, real, far = build(name), make_images(32, 1, 0.3), make_images(32, 2, -0.3)
    discriminator = make_discriminator(objective)
    train_discriminator(objective, discriminator, real, far, 150)
    losses = []
    for fake in (far, make_images(32, 3, 0.3)):
        torch.manual_seed(0)
        discriminated = discriminator_loss_of(objective, discriminator, real, fake)
        losses.append((discriminated.item(), generator_loss_of(objective, discriminator, real, fake).item()))
    (discriminated_far, generated_far), (discriminated_near, generated_near) = losses
    assert discriminated_far < discriminated_near
    assert generated_near < generated_far


@ON_NAMES
def test_losses_repeat_and_change_neither_images_nor_weights(name: str) -> None:
    objective = build(name)
    discriminator, real, fake = make_discriminator(objective), make_images(8, 1), make_images(8, 2, 0.1)
    before = copy.deepcopy([real, fake, discriminator.state_dict()])
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        losses = [generator_loss_of(objective, discriminator, real, fake)]
        if name in ADVERSARIAL:
            losses.append(discriminator_loss_of(objective, discriminator, real, fake))
        values.append(losses)
    assert_close(values[0], values[1], rtol=0, atol=0)
    assert_close([real, fake, discriminator.state_dict()], before, rtol=0, atol=0)


@ON_ADVERSARIAL
def test_only_wasserstein_clips(name: str) -> None:
    discriminator = make_discriminator(build(name))
    before = copy.deepcopy(discriminator.state_dict())
    build(name).constrain(discriminator)
    if name == "wgan":
        assert max(weight.abs().max().item() for weight in discriminator.parameters()) == pytest.approx(0.01)
        critic = nn.Linear(2, 1)
        nn.init.constant_(critic.weight, 5.0)
        build("wgan", clip=0.5).constrain(critic)
        assert_close(critic.weight.detach(), torch.full((1, 2), 0.5))
    else:
        assert_close(discriminator.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("penalty", [0.0, 10.0])
def test_the_gradient_penalty_is_weighted(penalty: float) -> None:
    objective = build("wgan-gp", penalty=penalty)
    critic, real, fake = make_discriminator(objective), make_images(8, 1), make_images(8, 2)
    torch.manual_seed(3)
    loss = discriminator_loss_of(objective, critic, real, fake)
    torch.manual_seed(3)
    expected = critic(fake).mean() - critic(real).mean() + penalty * gradient_penalty(critic, real, fake)
    assert_close(loss, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("snnl-projected", {"discriminator_dim": 1}, r"discriminator_dim must be in \[2, 4096\], got 1"),
        ("mmd", {"discriminator_dim": 0}, r"discriminator_dim must be in \[2, 4096\], got 0"),
        ("wgan", {"clip": 0.0}, "clip must be in .*, got 0"),
        ("wgan-gp", {"penalty": -1.0}, r"penalty must be in \[0, 1e\+06\], got -1"),
        ("gan", {"clip": 0.1}, r"unknown option 'clip' \(known: r1, r2\)"),
        ("wgan", {"clip": "much"}, "clip must be a number, got 'much'"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        build(name, **options)


@ON_NAMES
def test_recommendations_are_options_of_training_or_of_an_architecture(name: str) -> None:
    recommended = dict(OBJECTIVES[name].recommended)
    owners = [TrainConfig, *(ARCHITECTURES[arch] for arch in ARCHITECTURES.names())]
    for key, value in recommended.items():
        takers = [owner for owner in owners if key in option_names(owner)]
        assert takers, f"{key} is not an option"
        assert all(getattr(owner(**{key: value}), key) == value for owner in takers)


@ON_NAMES
@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_option_names_are_unique(name: str, arch: str) -> None:
    """``--set NAME=VALUE`` names an option of the objective, of the architecture or of training."""
    owners: list[Any] = [OBJECTIVES[name].Options, ARCHITECTURES[arch], TrainConfig]
    names = [option for owner in owners for option in option_names(owner)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["gan", "snnl-projected", "wgan-gp"])
def test_penalties_at_real_and_synthetic_images_are_added(name: str) -> None:
    kind = OBJECTIVES[name]
    plain, penalized = (kind(kind.make_options(given)) for given in ({}, {"r1": 2.0, "r2": 0.5}))
    discriminator = make_discriminator(plain)
    real, fake = (Batch(make_images(6, seed, 0.3)) for seed in (1, 2))
    calls: list[int] = []

    def discriminate(batch: Batch) -> Tensor:
        calls.append(len(batch.images))
        outputs: Tensor = discriminator(batch.images)
        return outputs

    torch.manual_seed(0)
    expected = plain.discriminator_loss(discriminate, real, fake)
    for weight, batch in ((2.0, real), (0.5, fake)):
        images = batch.images.detach().requires_grad_()
        expected = expected + weight / 2 * zero_centered_penalty(discriminator(images), images)
    without = len(calls)
    torch.manual_seed(0)
    assert_close(penalized.penalized_discriminator_loss(discriminate, real, fake), expected)
    assert len(calls) == 2 * without  # the passes of the loss serve the penalties, too
    assert_close(
        plain.penalized_discriminator_loss(discriminate, real, fake), plain.discriminator_loss(discriminate, real, fake)
    )


def test_pairs_of_a_relativistic_gan() -> None:
    objective = build("rpgan")
    values = torch.tensor([[3.0], [1.0], [0.0], [2.0]])
    sides = Batch(values[:2]), Batch(values[2:])
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 2
    assert_close(objective.discriminator_loss(lambda batch: batch.images, *sides), torch.tensor(expected))
    expected = (math.log1p(math.exp(3)) + math.log1p(math.exp(-1))) / 2
    assert_close(objective.generator_loss(lambda batch: batch.images, *sides), torch.tensor(expected))
