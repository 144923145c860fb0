from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from torch import Tensor
from torch.testing import assert_close

from snngan.metrics.fid import frechet_distance
from snngan.metrics.moments import Moments


def moments(features: Tensor, chunk: int = 7) -> Moments:
    result = Moments(features.shape[1])
    for part in features.split(chunk):  # type: ignore[no-untyped-call]
        result.update(part)
    return result


def vectors(count: int, dims: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=rng) @ torch.randn(dims, dims, generator=rng) + seed


def test_moments_of_chunks_equal_moments_of_all() -> None:
    features = vectors(100, 5, 1) + 1000
    for chunk in (1, 7, 100):
        found = moments(features, chunk)
        assert found.count == 100
        assert_close(found.mean, features.double().mean(0))
        assert_close(found.covariance_root().T @ found.covariance_root(), features.double().T.cov())


def test_closed_form_of_diagonal_gaussians() -> None:
    """For commuting covariances: |mean - mean'|^2 + sum of (std - std')^2."""
    first, second = Moments(3), Moments(3)
    deviations = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 0.5, 1.0]).double()
    for side, deviation, mean in zip((first, second), deviations, (0.0, 2.0), strict=True):
        side.count, side.mean, side.scatter = 11, torch.full((3,), mean).double(), deviation.square().diag() * 10
    expected = 12 + (deviations[0] - deviations[1]).square().sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.skipif(
    tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18), reason="pytorch-fid's distance breaks on this SciPy"
)
@pytest.mark.parametrize("dims", [2, 20, 64])
def test_equals_pytorch_fid(dims: int) -> None:
    sides = vectors(300, dims, 1), vectors(200, dims, 2)
    statistics: list[np.ndarray] = []
    for side in sides:
        statistics += [side.double().mean(0).numpy(), np.cov(side.double().numpy(), rowvar=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = calculate_frechet_distance(*statistics)
    assert frechet_distance(*map(moments, sides)) == pytest.approx(expected, rel=1e-6)


def test_low_rank_covariances() -> None:
    features = vectors(10, 40, 3)
    assert frechet_distance(moments(features), moments(features)) < 1e-9 * features.square().sum().item()
    # Both sets lie in one plane, where the distance must be the same.
    flat = torch.zeros(2, 30, 40)
    flat[:, :, :2] = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(0))
    turn, _ = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(1)).double())
    in_plane = frechet_distance(*(moments(side[:, :2]) for side in flat))
    rotated = frechet_distance(*(moments(side.double() @ turn) for side in flat))
    assert rotated == pytest.approx(in_plane, rel=1e-6)


def of_covariance(features: Tensor) -> Moments:
    return Moments.from_covariance(features.double().mean(0), features.double().T.cov())


@pytest.mark.parametrize(
    ("count", "other", "dims"), [(20, 20, 60), (7, 40, 60), (60, 60, 60), (59, 61, 60), (20, 150, 60), (150, 20, 60)]
)
def test_few_vectors_have_the_distance_of_their_full_covariances(count: int, other: int, dims: int) -> None:
    sides = vectors(count, dims, 1), vectors(other, dims, 2)
    full = frechet_distance(*map(of_covariance, sides))
    assert frechet_distance(*map(moments, sides)) == pytest.approx(full, rel=1e-9)
    assert frechet_distance(moments(sides[0]), of_covariance(sides[1])) == pytest.approx(full, rel=1e-9)


@pytest.mark.parametrize("count", [2, 30, 60, 200])
def test_order_does_not_matter(count: int) -> None:
    features = vectors(count, 60, 3)
    trace = float(features.double().var(0).sum())
    assert frechet_distance(moments(features), moments(features.flip(0))) < 1e-12 * trace


def test_few_vectors_in_many_dimensions_build_no_covariance() -> None:
    """A covariance in a million dimensions would take 8 TB."""
    first, second = torch.zeros(3, 10**6), torch.zeros(2, 10**6)
    first[0, 0] = second[0, 0] = 3.0
    means, variances = (1.0, 1.5), (3.0, 4.5)
    expected = (means[0] - means[1]) ** 2 + sum(variances) - 2 * (variances[0] * variances[1]) ** 0.5
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-9)


def test_single_vectors_have_their_squared_distance() -> None:
    first, second = torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0]])
    assert frechet_distance(moments(first), moments(second)) == 25


def test_different_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="the same dimensions, got 2 and 3"):
        frechet_distance(Moments(2), Moments(3))
