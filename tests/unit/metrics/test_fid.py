"""FID and the moments it is computed from, against torch-fidelity and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from snngan.metrics.fid import frechet_distance
from snngan.metrics.moments import Moments


def moments(features: Tensor, chunk: int = 7) -> Moments:
    result = Moments(features.shape[1])
    for part in torch.split(features, chunk):
        result.update(part)
    return result


def vectors(count: int, dims: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=rng) @ torch.randn(dims, dims, generator=rng) + seed


def torch_fidelity_fid(first: Tensor, second: Tensor) -> float:
    statistics = [fid_features_to_statistics(side.double()) for side in (first, second)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


@pytest.mark.parametrize(("count", "other", "dims"), [(300, 200, 2), (300, 200, 64), (61, 150, 60), (59, 150, 60)])
def test_equals_torch_fidelity(count: int, other: int, dims: int) -> None:
    sides = vectors(count, dims, 1), vectors(other, dims, 2)
    expected = torch_fidelity_fid(*sides)
    assert frechet_distance(*map(moments, sides)) == pytest.approx(expected, rel=1e-6)
    full = [Moments.from_covariance(side.double().mean(0), side.double().T.cov()) for side in sides]
    assert frechet_distance(*full) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(moments(sides[0]), full[1]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_moments_of_chunks_equal_moments_of_all(chunk: int) -> None:
    features = vectors(100, 5, 1) + 1000
    found = moments(features, chunk)
    assert found.count == 100
    assert_close(found.mean, features.double().mean(0))
    assert_close(found.covariance_root().T @ found.covariance_root(), features.double().T.cov())


def test_closed_form_of_diagonal_gaussians() -> None:
    """For commuting covariances: |mean - mean'|^2 + sum of (std - std')^2."""
    deviations = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 1.0]]).double()
    means = torch.tensor([0.0, 2.0]).double()[:, None].expand(2, 3)
    sides = [Moments.from_covariance(*each) for each in zip(means, deviations.square().diag_embed(), strict=True)]
    expected = 12 + (deviations[0] - deviations[1]).square().sum().item()
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-12)


def test_rotations_of_flat_sets_do_not_change_the_distance() -> None:
    """Both sets lie in one plane of 40 dimensions."""
    flat = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(0)).double()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0][:2]
    rotated = frechet_distance(*(moments(side @ torch.from_numpy(turn)) for side in flat))
    assert rotated == pytest.approx(frechet_distance(*map(moments, flat)), rel=1e-6)


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
    assert frechet_distance(moments(torch.tensor([[0.0, 3.0]])), moments(torch.tensor([[4.0, 0.0]]))) == 25


def test_different_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="the same dimensions, got 2 and 3"):
        frechet_distance(Moments(2), Moments(3))
