from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from snngan.metrics.kid import kernel_distance, unbiased_squared_mmd


def mmd_loop(real: Tensor, fake: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (x.double() @ y.double() / len(x) + 1).item() ** 3

    def within(side: Tensor) -> float:
        return sum(kernel(x, y) for i, x in enumerate(side) for j, y in enumerate(side) if i != j) / (
            len(side) * (len(side) - 1)
        )

    between = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    return within(real) + within(fake) - 2 * between


def normal_sides(count: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=rng), torch.randn(count, 4, generator=rng) + shift


def test_equals_loops() -> None:
    real, fake = normal_sides(9, 1.0)
    assert unbiased_squared_mmd(real, fake[:7]) == pytest.approx(mmd_loop(real, fake[:7]), rel=1e-12)


def test_mean_and_interval_of_blocks() -> None:
    real, fake = normal_sides(35, 0.5)
    values = [mmd_loop(real[n : n + 10], fake[n : n + 10]) for n in (0, 10, 20)]
    found = kernel_distance(real, fake, block=10)
    assert found.value == pytest.approx(sum(values) / 3, rel=1e-6)
    half = 4.302653 * torch.tensor(values).std().item() / math.sqrt(3)  # Student's 97.5 % point at 2 degrees
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=1e-5)


def test_few_images_are_one_block_without_an_interval() -> None:
    found = kernel_distance(*normal_sides(19), block=10)
    assert found.value == pytest.approx(mmd_loop(*normal_sides(19)))
    assert math.isnan(found.low)


def test_unbiased_and_95_percent_of_intervals_contain_zero() -> None:
    found = [kernel_distance(*normal_sides(200, seed=seed), block=20) for seed in range(200)]
    values = torch.tensor([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    num_containing = sum(each.low <= 0 <= each.high for each in found)
    assert 180 <= num_containing <= 198


def test_a_single_image_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or more images per side, got 1 and 5"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
