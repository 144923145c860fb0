"""The maximum mean discrepancy, compared with the loops; its expectation is unbiased."""

from __future__ import annotations

import itertools

import pytest
import torch
from reference.snnl_loops import squared_mmd_loop
from torch import Tensor
from torch.testing import assert_close

from snngan.losses.mmd import squared_mmd

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


def cloud(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize(("num_real", "num_fake", "shift"), [(6, 6, 0.0), (4, 9, 0.5), (2, 2, 1.0), (7, 5, 20.0)])
def test_value_agrees_with_the_loops(num_real: int, num_fake: int, shift: float, offset: float) -> None:
    real, fake = cloud(num_real, 0) + offset, cloud(num_fake, 1) + offset + shift
    found = squared_mmd(real, fake)
    assert found.dtype == torch.float32
    assert found.shape == ()
    assert found.item() == pytest.approx(squared_mmd_loop(real, fake, WIDTHS), rel=1e-5, abs=1e-7)
    narrow = squared_mmd(real.double(), fake.double(), widths=(0.3,))
    assert narrow.dtype == torch.float64
    assert narrow.item() == pytest.approx(squared_mmd_loop(real, fake, (0.3,)), rel=1e-10, abs=1e-12)


def test_unbiased_over_all_ways_to_split_a_sample() -> None:
    """Over all splits of one sample the estimates average to 0; those of a biased one have a positive mean."""
    features = cloud(7, 0).double()
    estimates = []
    for chosen in itertools.combinations(range(7), 3):
        others = [row for row in range(7) if row not in chosen]
        estimates.append(squared_mmd(features[list(chosen)], features[others]))
    assert_close(torch.stack(estimates).mean(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-14)
    assert torch.stack(estimates).abs().max() > 0.01


def test_gradient_with_constant_widths() -> None:
    """The widths depend on the batch but have no gradient."""
    real, fake = cloud(4, 0).double().requires_grad_(), cloud(5, 1).double().requires_grad_()
    slopes = torch.autograd.grad(squared_mmd(real, fake), [real, fake])

    def plain(real: Tensor, fake: Tensor, scale: Tensor) -> Tensor:
        def kernel(a: Tensor, b: Tensor) -> Tensor:
            distances = (a[:, None] - b).square().sum(2)
            return torch.stack([torch.exp(-distances / (width * scale)) for width in WIDTHS]).mean(0)

        within = (kernel(real, real).sum() - 4) / 12 + (kernel(fake, fake).sum() - 5) / 20
        return within - 2 * kernel(real, fake).mean()

    features = torch.cat([real, fake]).detach()
    scale = (features[:, None] - features).square().sum() / 72
    assert_close(slopes, torch.autograd.grad(plain(real, fake, scale), [real, fake]))


def test_equal_samples() -> None:
    real, fake = torch.ones(3, 2).requires_grad_(), torch.ones(4, 2).requires_grad_()
    value = squared_mmd(real, fake)
    assert_close(value, torch.tensor(0.0))
    assert not any(slope.any() for slope in torch.autograd.grad(value, [real, fake]))


def test_with_classes_it_is_the_mean_over_the_classes() -> None:
    real, fake = cloud(12, 0), cloud(6, 1) + 0.3
    classes = torch.arange(12) % 3, torch.tensor([2, 0, 1, 0, 1, 2])
    sides = [[side[own == each] for side, own in zip((real, fake), classes, strict=True)] for each in range(3)]
    expected = torch.stack([squared_mmd(*pair) for pair in sides]).mean()
    assert_close(squared_mmd(real, fake, classes=classes, num_classes=3), expected)
