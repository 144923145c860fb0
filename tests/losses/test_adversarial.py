"""The classic adversarial losses compared with their formulas, and the gradient penalty with closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from snngan.losses import adversarial
from snngan.losses.adversarial import gradient_penalty

REAL, FAKE = [0.3, -1.2, 2.0, -0.1], [-0.7, 0.4, 1.5]
"""Outputs of a discriminator; the numbers of real and fake images may differ."""


def mean(values: list[float], formula: Callable[[float], float]) -> float:
    return sum(formula(value) for value in values) / len(values)


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


DISCRIMINATOR = {
    "logistic": -mean(REAL, lambda r: math.log(probability(r))) - mean(FAKE, lambda f: math.log(1 - probability(f))),
    "least_squares": mean(REAL, lambda r: (r - 1) ** 2) / 2 + mean(FAKE, lambda f: f**2) / 2,
    "hinge": mean(REAL, lambda r: max(0.0, 1 - r)) + mean(FAKE, lambda f: max(0.0, 1 + f)),
    "wasserstein": mean(FAKE, lambda f: f) - mean(REAL, lambda r: r),
}
GENERATOR = {
    "non_saturating": -mean(FAKE, lambda f: math.log(probability(f))),
    "minimax": mean(FAKE, lambda f: math.log(1 - probability(f))),
    "least_squares": mean(FAKE, lambda f: (f - 1) ** 2) / 2,
    "wasserstein": -mean(FAKE, lambda f: f),
}


def column(values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None].requires_grad_()


def discriminator_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    kind = "critic" if name == "wasserstein" else "discriminator"
    loss: Callable[[Tensor, Tensor], Tensor] = getattr(adversarial, f"{name}_{kind}_loss")
    return loss


def generator_loss(name: str) -> Callable[[Tensor], Tensor]:
    loss: Callable[[Tensor], Tensor] = getattr(adversarial, f"{name}_generator_loss")
    return loss


@pytest.mark.parametrize("name", DISCRIMINATOR)
def test_discriminator_loss_is_its_formula(name: str) -> None:
    loss = discriminator_loss(name)(column(REAL), column(FAKE))
    assert_close(loss, torch.tensor(DISCRIMINATOR[name]))


@pytest.mark.parametrize("name", GENERATOR)
def test_generator_loss_is_its_formula(name: str) -> None:
    assert_close(generator_loss(name)(column(FAKE)), torch.tensor(GENERATOR[name]))


def test_every_loss_of_the_module_is_covered() -> None:
    named = {name for name in vars(adversarial) if name.endswith("_loss")}
    covered = {discriminator_loss(name).__name__ for name in DISCRIMINATOR}  # type: ignore[attr-defined]
    assert named == covered | {generator_loss(name).__name__ for name in GENERATOR}  # type: ignore[attr-defined]


@pytest.mark.parametrize("logit", [-300.0, -40.0, 40.0, 300.0])
def test_large_logits_give_finite_losses_and_gradients(logit: float) -> None:
    for name in DISCRIMINATOR:
        real, fake = column([logit, 1.0]), column([-logit, 1.0])
        loss = discriminator_loss(name)(real, fake)
        slopes = torch.autograd.grad(loss, [real, fake])
        assert loss.isfinite()
        assert all(slope.isfinite().all() for slope in slopes)
    for name in GENERATOR:
        fake = column([logit, 1.0])
        (slope,) = torch.autograd.grad(generator_loss(name)(fake), fake)
        assert slope.isfinite().all()


def test_the_non_saturating_loss_has_a_gradient_where_minimax_saturates() -> None:
    slopes = {}
    for name in ("non_saturating", "minimax"):
        fake = column([-30.0])
        (slope,) = torch.autograd.grad(generator_loss(name)(fake), fake)
        slopes[name] = slope.item()
    assert slopes["non_saturating"] == pytest.approx(-1, abs=1e-6)
    assert -1e-12 < slopes["minimax"] < 0


class TestGradientPenalty:
    @pytest.mark.parametrize("shape", [(5, 6), (5, 1, 2, 3)])
    def test_a_linear_critic(self, shape: tuple[int, ...]) -> None:
        """The gradient is the weight everywhere: (|w| - 1)^2, with derivative 2 (|w| - 1) w / |w|."""
        critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 1))
        weight = critic[1].weight
        assert isinstance(weight, nn.Parameter)
        rng = torch.Generator().manual_seed(0)
        nn.init.normal_(weight, std=2.0, generator=rng)
        penalty = gradient_penalty(critic, torch.randn(shape, generator=rng), torch.randn(shape, generator=rng))
        length = weight.detach().norm()
        assert_close(penalty, (length - 1).square())
        (slope,) = torch.autograd.grad(penalty, weight)
        assert_close(slope, 2 * (length - 1) * weight.detach() / length)

    def test_it_is_evaluated_between_real_and_fake_images(self) -> None:
        seen: list[Tensor] = []

        class Critic(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                seen.append(images.detach())
                return images.flatten(1).square().sum(1, keepdim=True) / 2  # the gradient at x is x

        real = torch.zeros(64, 1, 2, 2)
        fake = torch.rand(64, 1, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
        penalty = gradient_penalty(Critic(), real, fake)
        (between,) = seen
        weights = (between / fake).flatten(1)
        assert_close(weights, weights[:, :1].expand_as(weights))  # on the line between both images
        assert (weights >= 0).all()
        assert (weights <= 1).all()
        assert weights[:, 0].min() < 0.15
        assert weights[:, 0].max() > 0.85
        assert len(weights[:, 0].unique()) == 64
        assert_close(penalty, (between.flatten(1).norm(dim=1) - 1).square().mean())

    def test_images_get_no_gradient(self) -> None:
        real, fake = torch.randn(3, 2).requires_grad_(), torch.randn(3, 2).requires_grad_()
        gradient_penalty(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), real, fake).backward()
        assert real.grad is None
        assert fake.grad is None
