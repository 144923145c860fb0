"""The two-sample test: its curve, its p-value and its interval."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from snngan import soft_nearest_neighbor_loss
from snngan.evaluation import two_sample
from snngan.evaluation.two_sample import PermutationTest, compare_features


def normal_sides(count: int, other: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=rng), torch.randn(other, 3, generator=rng) + shift


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 99)
    monkeypatch.setattr(two_sample, "RESAMPLES", 50)


def test_curve_equals_the_loss() -> None:
    real, fake = normal_sides(30, 20, 0.5)
    curve = PermutationTest(real, fake, seed=0)
    labels = torch.arange(50) >= 30
    for row in (8, 12, 16):  # at lower temperatures the exponents are clamped
        losses = soft_nearest_neighbor_loss(
            torch.cat([real, fake]), labels.long(), float(curve.temperatures[row]), reduction="none"
        )
        assert_close(curve.real_losses[row], losses[:30].mean().double(), rtol=1e-4, atol=1e-4)
        assert_close(curve.fake_losses[row], losses[30:].mean().double(), rtol=1e-4, atol=1e-4)
    assert curve.temperatures[-1] / curve.temperatures[0] == 2**8
    assert (curve.permuted_losses[0] < curve.permuted_losses[1]).all()


def test_two_samples_of_one_distribution_have_a_uniform_p_value() -> None:
    values = [PermutationTest(*normal_sides(25, 25, seed=seed), seed=seed).p_value for seed in range(80)]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert min(values) >= 0.01  # the true labeling is one of them


def test_separate_sides() -> None:
    result = compare_features(*normal_sides(60, 40, 3.0))
    assert result.test.p_value == 0.01
    assert result.entanglement.score < 0.2
    assert result.test.null_score > 0.9
    assert result.interval[0] <= result.entanglement.score <= result.interval[1] < 0.5
    assert result.odds.shape == (100,)


def test_small_sets_lower_the_score_but_not_the_corrected_score() -> None:
    results = [compare_features(*normal_sides(5, 5, seed=seed)) for seed in range(40)]
    raw = sum(each.entanglement.score for each in results) / 40
    corrected = sum(each.corrected for each in results) / 40
    assert raw < 0.95
    assert raw + 0.01 < corrected <= 1
    result = compare_features(*normal_sides(60, 40, 1.5))
    assert result.corrected == pytest.approx(result.entanglement.score / result.test.null_score, rel=0.03)


@pytest.mark.parametrize(("count", "other"), [(240, 60), (60, 160)])
def test_interval_contains_the_mean_score_of_many_samples(count: int, other: int) -> None:
    results = [compare_features(*normal_sides(count, other, 1.5, seed=seed), subset=60) for seed in range(40)]
    mean = sum(result.entanglement.score for result in results) / len(results)
    num_containing = sum(result.interval[0] <= mean <= result.interval[1] for result in results)
    assert num_containing >= 33  # 38 of 40 are expected


def test_a_side_that_lies_closely_within_the_other() -> None:
    """The loss of its own anchors is as much lower as that of the others is higher, so their mean does not change."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(100, 100, generator=rng), 0.9 * torch.randn(100, 100, generator=rng)
    result = compare_features(real, fake)
    assert result.entanglement.score > 0.999
    assert result.test.p_value <= 0.02
    assert compare_features(fake, real).test.p_value <= 0.02


def test_equal_seeds_give_equal_results() -> None:
    first, again, other = (compare_features(*normal_sides(30, 30, 0.7), seed=seed) for seed in (1, 1, 2))
    assert (first.test.p_value, first.interval) == (again.test.p_value, again.interval)
    assert (first.test.p_value, first.interval) != (other.test.p_value, other.interval)


def test_equal_vectors_cannot_be_told_apart() -> None:
    result = compare_features(torch.ones(10, 2), torch.ones(8, 2))
    assert (result.test.p_value, result.entanglement.score, result.corrected) == (1, 1, 1)


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="4 or more vectors per side, got 3 and 9"):
        compare_features(torch.zeros(3, 2), torch.zeros(9, 2))
