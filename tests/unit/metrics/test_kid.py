"""KID against torch-fidelity, with its interval over blocks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kernel_poly, mmd2

from snngan.metrics.kid import kernel_distance


def torch_fidelity_kid(real: Tensor, fake: Tensor) -> float:
    """Return torch-fidelity's unbiased estimate for two sets of one size."""
    options = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    x, y = real.double().numpy(), fake.double().numpy()
    return float(mmd2(*(kernel_poly(left, right, **options) for left, right in ((x, x), (x, y), (y, y)))))


def normal_sides(count: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=rng), torch.randn(count, 4, generator=rng) + shift


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_one_block_equals_torch_fidelity_and_has_no_interval(shift: float) -> None:
    real, fake = normal_sides(19, shift)
    found = kernel_distance(real, fake, block=10)
    assert found.value == pytest.approx(torch_fidelity_kid(real, fake), rel=1e-6)  # kept in float32
    assert math.isnan(found.low)


def test_mean_and_interval_of_blocks() -> None:
    real, fake = normal_sides(35, 0.5)
    values = [torch_fidelity_kid(real[n : n + 10], fake[n : n + 10]) for n in (0, 10, 20)]
    found = kernel_distance(real, fake, block=10)
    assert found.value == pytest.approx(sum(values) / 3, rel=1e-6)
    half = 4.302653 * torch.tensor(values).std().item() / math.sqrt(3)  # Student's 97.5 % point at 2 degrees
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=1e-5)


def test_unbiased_and_95_percent_of_intervals_contain_zero() -> None:
    found = [kernel_distance(*normal_sides(200, seed=seed), block=20) for seed in range(200)]
    values = torch.tensor([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    num_containing = sum(each.low <= 0 <= each.high for each in found)
    assert 180 <= num_containing <= 198


def test_a_single_image_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or more images per side, got 1 and 5"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
