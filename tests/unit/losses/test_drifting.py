"""The drift of samples: its field against loops, its loss, and its relation to the log-odds of the SNNL."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from snngan.losses.drifting import drift_field, drifting_loss
from snngan.losses.log_odds import log_odds
from snngan.losses.mmd import squared_mmd
from snngan.losses.pairwise import build_real_fake_batch


def cloud(count: int, seed: int, dims: int = 3) -> Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def field_loop(real: Tensor, fake: Tensor, temperature: float) -> Tensor:
    """Equation 11 and the two softmaxes of the paper, one pair at a time."""
    samples = [*real, *fake]

    def kernel(x: int, y: int) -> float:
        if y == len(real) + x:
            return 0.0
        return math.exp(-float((fake[x] - samples[y]).norm()) / temperature)

    def affinity(x: int, y: int) -> float:
        over_samples = sum(kernel(x, other) for other in range(len(samples)))
        over_fake = sum(kernel(other, y) for other in range(len(fake)))
        return math.sqrt(kernel(x, y) / over_samples * kernel(x, y) / over_fake)

    field = torch.zeros_like(fake)
    for x in range(len(fake)):
        for near in range(len(real)):
            for other in range(len(fake)):
                weight = affinity(x, near) * affinity(x, len(real) + other)
                field[x] += weight * (real[near] - fake[other])
    return field


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
@pytest.mark.parametrize(("num_real", "num_fake"), [(5, 5), (2, 4), (6, 2)])
def test_the_field_agrees_with_the_loops(num_real: int, num_fake: int, temperature: float) -> None:
    real, fake = cloud(num_real, 0) + 1e3, cloud(num_fake, 1) + 1e3
    assert_close(drift_field(real, fake, temperature), field_loop(real, fake, temperature), rtol=1e-7, atol=1e-9)


def test_the_gradient_is_the_sum_of_normalized_fields() -> None:
    real, fake = cloud(6, 0), cloud(4, 1).requires_grad_()
    distance = torch.stack([(a - b).norm() for a in real for b in real]).sum() / 30
    field = torch.zeros(4, 3, dtype=torch.float64)
    for temperature in (0.1, 0.5):
        own = field_loop(real, fake.detach(), temperature * float(distance))
        field += own / own.square().mean().sqrt()
    loss = drifting_loss(real, fake, (0.1, 0.5))
    (slope,) = torch.autograd.grad(loss, fake)
    assert_close(loss, field.square().mean())
    assert_close(slope, -2 * field / 12 / (distance / 3**0.5))


def test_with_classes_samples_drift_within_them() -> None:
    """At one temperature the field of each class is that of the class alone, up to the common norm."""
    real, fake = cloud(12, 0), cloud(6, 1).requires_grad_()
    classes = torch.arange(12) % 3, torch.tensor([2, 0, 1, 0, 1, 2])
    within = [real[classes[0] == each] for each in range(3)]
    distance = torch.stack([(a - b).norm() for rows in within for a in rows for b in rows]).sum() / 36
    (slope,) = torch.autograd.grad(drifting_loss(real, fake, (0.3,), classes=classes, num_classes=3), fake)
    field = torch.zeros_like(fake)
    for each in range(3):
        field[classes[1] == each] = field_loop(within[each], fake.detach()[classes[1] == each], 0.3 * float(distance))
    assert_close(slope / slope.norm(), -field / field.norm())


@pytest.mark.parametrize("spread", [0.0, 1e4])
def test_equal_and_distant_samples_have_finite_gradients(spread: float) -> None:
    real, fake = torch.ones(3, 2), (torch.ones(4, 2) + spread * cloud(4, 0, 2).float()).requires_grad_()
    loss = drifting_loss(real, fake)
    assert loss.dtype == torch.float32
    (slope,) = torch.autograd.grad(loss, fake)
    assert slope.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_gradient_of_log_odds_is_the_field_of_the_gaussian_kernel(temperature: float) -> None:
    """docs/guide/theory.md: z of a synthetic anchor, others held fixed, points to 2 / T (mean real - mean fake)."""
    real, fake = cloud(7, 0), cloud(5, 1) + 0.5
    for anchor in range(5):
        moving = fake.clone().requires_grad_()
        pair = build_real_fake_batch(real, moving)
        odds = log_odds(pair, torch.tensor([1 / temperature], dtype=torch.float64))[0]
        (slope,) = torch.autograd.grad(odds[7 + anchor], moving)
        others = torch.cat([fake[:anchor], fake[anchor + 1 :]])
        means = []
        for side in (real, others):
            weights = torch.stack([torch.exp(-(fake[anchor] - each).square().sum() / temperature) for each in side])
            means.append((weights[:, None] * side).sum(0) / weights.sum())
        assert_close(slope[anchor], 2 / temperature * (means[0] - means[1]))


def test_samples_that_drift_become_like_the_real_ones() -> None:
    real, fake = cloud(40, 0) * 0.6 + 0.7, cloud(40, 1).requires_grad_()
    before = squared_mmd(real, fake.detach())
    optimizer = torch.optim.Adam([fake], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        drifting_loss(real, fake).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = squared_mmd(real, fake.detach())
    assert after < before / 5
