"""The gradient penalty, compared with closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from snngan.losses.penalty import gradient_penalty, zero_centered_penalty


@pytest.mark.parametrize("shape", [(5, 6), (5, 1, 2, 3)])
def test_a_linear_critic(shape: tuple[int, ...]) -> None:
    """The gradient is the weight everywhere: (|w| - 1)^2, with derivative 2 (|w| - 1) w / |w|."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 1))
    weight = critic[1].weight
    nn.init.normal_(weight, std=2.0)
    real, fake = torch.randn(shape).requires_grad_(), torch.randn(shape).requires_grad_()
    penalty = gradient_penalty(critic, real, fake)
    penalty.backward()
    length = weight.detach().norm()
    assert_close(penalty, (length - 1).square())
    assert_close(weight.grad, 2 * (length - 1) * weight.detach() / length)
    assert real.grad is fake.grad is None


def test_it_is_evaluated_between_real_and_fake_images() -> None:
    seen: list[Tensor] = []

    def critic(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return images.flatten(1).square().sum(1, keepdim=True) / 2  # the gradient at x is x

    fake = torch.rand(64, 1, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    penalty = gradient_penalty(critic, torch.zeros(64, 1, 2, 2), fake)
    (between,) = seen
    weights = (between / fake).flatten(1)
    assert_close(weights, weights[:, :1].expand_as(weights))  # on the line between both images
    assert 0 <= weights.min() < 0.15 and 0.85 < weights.max() <= 1
    assert len(weights[:, 0].unique()) == 64
    assert_close(penalty, (between.flatten(1).norm(dim=1) - 1).square().mean())


def test_the_zero_centered_penalty_of_one_output_is_its_squared_slope() -> None:
    images = torch.randn(5, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    penalty = zero_centered_penalty((weight * images.square()).sum((1, 2, 3))[:, None], images)
    assert_close(penalty, 9 * images.square().sum((1, 2, 3)).mean())
    (slope,) = torch.autograd.grad(penalty, weight)
    assert_close(slope, 2 * penalty.detach() / 1.5)


def test_the_zero_centered_penalty_of_several_outputs_estimates_the_jacobian() -> None:
    images = torch.randn(400, 6, requires_grad=True)
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = torch.stack([zero_centered_penalty(images @ matrix.T, images) for _ in range(50)])
    assert found.std() > 0  # 20000 draws of signs: a standard error of 1 % or less
    assert_close(found.mean(), matrix.square().sum(), rtol=0.03, atol=0)
