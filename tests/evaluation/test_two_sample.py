from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from snngan import soft_nearest_neighbor_loss
from snngan.evaluation import two_sample
from snngan.evaluation.two_sample import PermutationTest, compare


def clouds(count: int, other: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=rng), torch.randn(other, 3, generator=rng) + shift


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 99)
    monkeypatch.setattr(two_sample, "RESAMPLES", 50)


def test_the_curve_is_the_loss() -> None:
    real, fake = clouds(30, 20, 0.5)
    curve = PermutationTest(real, fake, seed=0).curve
    labels = torch.arange(50) >= 30
    for place in (8, 12, 16):  # at colder ones an anchor's loss may be above the 80 at which it is cut
        losses = soft_nearest_neighbor_loss(
            torch.cat([real, fake]), labels.long(), float(curve.temperatures[place]), reduction="none"
        )
        assert_close(curve.real[place], losses[:30].mean().double(), rtol=1e-4, atol=1e-4)
        assert_close(curve.fake[place], losses[30:].mean().double(), rtol=1e-4, atol=1e-4)
    assert curve.temperatures[-1] / curve.temperatures[0] == 2**8
    assert (curve.low < curve.high).all()


def test_two_samples_of_one_distribution_have_a_uniform_p_value() -> None:
    values = [PermutationTest(*clouds(25, 25, seed=seed), seed=seed).p_value for seed in range(120)]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert min(values) >= 0.01  # the data themselves are among the labellings


def test_sides_that_lie_apart_are_told_apart() -> None:
    result = compare(*clouds(60, 40, 3.0))
    assert result.p_value == 0.01
    assert result.entanglement.score < 0.2
    assert result.null_score > 0.9
    assert result.low <= result.entanglement.score <= result.high < 0.5
    assert result.odds.shape == (100,)


def test_a_few_points_lower_the_score_and_not_the_corrected_one() -> None:
    results = [compare(*clouds(5, 5, seed=seed)) for seed in range(60)]
    raw, corrected = (
        sum(values) / len(results)
        for values in ([each.entanglement.score for each in results], [each.corrected for each in results])
    )
    assert raw < 0.95
    assert raw + 0.01 < corrected <= 1
    result = compare(*clouds(60, 40, 1.5))
    assert result.corrected == pytest.approx(result.entanglement.score / result.null_score, rel=0.03)


@pytest.mark.parametrize(("count", "other"), [(60, 60), (240, 60), (60, 240), (160, 160)])
def test_the_interval_holds_the_score_of_fresh_points(count: int, other: int) -> None:
    """About 19 in 20 intervals hold the mean score of many samples."""
    results = [compare(*clouds(count, other, 1.5, seed=seed), subset=60) for seed in range(40)]
    mean = sum(result.entanglement.score for result in results) / len(results)
    held = sum(result.low <= mean <= result.high for result in results)
    assert held >= 33


def test_a_side_that_crowds_within_the_other_is_told_apart() -> None:
    """What its own anchors' loss falls by, that of the others rises by, so that their mean says nothing."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(100, 100, generator=rng), 0.9 * torch.randn(100, 100, generator=rng)
    result = compare(real, fake)
    assert result.entanglement.score > 0.999
    assert result.p_value <= 0.02
    assert compare(fake, real).p_value <= 0.02


def test_the_same_seed_gives_the_same_figures() -> None:
    first, again, other = (compare(*clouds(30, 30, 0.7), seed=seed) for seed in (1, 1, 2))
    assert (first.p_value, first.low) == (again.p_value, again.low)
    assert (first.p_value, first.low) != (other.p_value, other.low)


def test_points_that_all_coincide_cannot_be_told_apart() -> None:
    result = compare(torch.ones(10, 2), torch.ones(8, 2))
    assert (result.p_value, result.entanglement.score, result.corrected) == (1, 1, 1)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 points, not of 3 and 9"):
        compare(torch.zeros(3, 2), torch.zeros(9, 2))
