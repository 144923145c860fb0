"""Are two sets of points alike? Entanglement as a metric, with an interval, and as a permutation test.

The score is taken over all points. What needs many passes over the pairs, the test, the interval and the correction for
the number of points, is taken on the first few thousand of each side, from one distance matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snngan.evaluation.nearest_neighbors import squared_distance_rows
from snngan.losses.snnl import Entanglement, measure_entanglement
from snngan.seeds import seed_for

PERMUTATIONS, RESAMPLES = 999, 200
SUBSET = 2000
"""Points of each side in the test and the interval."""
OCTAVES, PER_OCTAVE = 8, 2


@dataclass(frozen=True)
class Curve:
    """The loss of the subset against the temperature."""

    temperatures: Tensor
    """(K,), in units of squared distance, rising."""
    real: Tensor
    """(K,) mean loss of the real anchors."""
    fake: Tensor
    """(K,) mean loss of the synthetic ones."""
    low: Tensor
    """(K,) 2.5 % point of the loss of all anchors under permuted labels."""
    high: Tensor
    """(K,) 97.5 % point."""


@dataclass(frozen=True)
class TwoSample:
    """What :func:`compare` finds."""

    entanglement: Entanglement
    """Of all points."""
    low: float
    """Lower end of the score's 95 % interval: 1.96 bootstrap standard errors of the subset's, scaled to the number of
    points of the side that has fewer more than the subset."""
    high: float
    p_value: float
    """Share of permutations, and the data itself, in which the sides are as far apart as in the data, or farther."""
    null_score: float
    """Mean score of the subset under permuted labels: that of two sets of one distribution, of its size."""
    corrected: float
    """The subset's score over that of permuted labels, at most 1: a score that a small set alone does not lower."""
    num_subset: tuple[int, int]
    mean_distance: float
    """Mean squared distance of the subset's pairs."""
    curve: Curve
    odds: Tensor
    """(N + M,) log-odds of picking the other side at the optimal temperature; low: away from the other side."""


@torch.no_grad()
def compare(real: Tensor, fake: Tensor, *, seed: int = 0, subset: int = SUBSET) -> TwoSample:
    """Return how entangled ``real`` (N, ...) and ``fake`` (M, ...) points are, and whether they could be of one kind.

    Args:
        real: one set of points.
        fake: the other.
        seed: of permutations and resamples.
        subset: points of each side in test, interval and correction, the first ones.

    Raises:
        ValueError: fewer than 4 points on a side, shapes that differ, or points that are not finite.
    """
    if min(len(real), len(fake)) < 4:
        raise ValueError(f"a comparison takes two sets of at least 4 points, not of {len(real)} and {len(fake)}")
    reading, odds = measure_entanglement(real, fake)
    first, second = real[:subset].flatten(1), fake[:subset].flatten(1)
    test = PermutationTest(first, second, seed)
    shrunk = max(len(first) / len(real), len(second) / len(fake))
    spread = test.bootstrap_scores(RESAMPLES).std().item() * math.sqrt(shrunk)
    return TwoSample(
        entanglement=reading,
        low=max(0.0, reading.score - 1.96 * spread),
        high=min(1.0, reading.score + 1.96 * spread),
        p_value=test.p_value,
        null_score=test.null_score,
        corrected=min(1.0, test.score / test.null_score),
        num_subset=(len(first), len(second)),
        mean_distance=test.mean_distance,
        curve=test.curve,
        odds=odds,
    )


class PermutationTest:
    """The loss at many temperatures under the true and under permuted labels, from one distance matrix.

    The statistic is the lowest of the losses of all, of the real and of the synthetic anchors over the temperatures,
    each standardized over all labellings: a labelling in which the points of one side keep to themselves more than in
    others, at some T, is extreme. The two sides count by themselves too, because a set that crowds within the other
    lowers the loss of its own anchors as much as it raises that of the others. Under the null the true labelling is as
    any other, so the p-value is uniform.

    Attributes:
        p_value: of the true labelling among ``PERMUTATIONS`` others.
        score: the entanglement score of the true labelling, at the lowest of these temperatures.
        null_score: mean entanglement score of the others.
        curve: the loss against T.
    """

    def __init__(self, real: Tensor, fake: Tensor, seed: int) -> None:
        points = torch.cat([real, fake]).double()
        points -= points.mean(0)
        self.count, self.num_real = len(points), len(real)
        self._lead = torch.empty(self.count, self.count)  # of the nearest neighbor: its distance less that of each
        total = 0.0
        for rows, distances in squared_distance_rows(points, points):
            total += float(distances.sum() - distances[:, rows].trace())
            distances[:, rows].fill_diagonal_(math.inf)
            self._lead[rows] = distances.amin(1, keepdim=True) - distances
        self.mean_distance = total / (self.count * (self.count - 1))
        steps = torch.arange(OCTAVES * PER_OCTAVE + 1, dtype=torch.float64)
        self.temperatures = self.mean_distance * 2 ** (steps / PER_OCTAVE - OCTAVES)
        if not self.mean_distance > 0:
            self.temperatures.fill_(1.0)
        self._generator = torch.Generator().manual_seed(seed_for(seed, "permutations"))
        is_fake = torch.arange(self.count) >= self.num_real
        labellings = [is_fake] + [
            is_fake[torch.randperm(self.count, generator=self._generator)] for _ in range(PERMUTATIONS)
        ]
        losses = self._losses(torch.stack(labellings, 1))
        everyone, chance = losses[0], self._chance()
        lowest = torch.minimum(everyone.amin(0), torch.tensor(chance)) / chance
        self.score, self.null_score = float(lowest[0]), float(lowest[1:].mean())
        spread = losses.std(2, keepdim=True)
        extremes = ((losses - losses.mean(2, keepdim=True)) / spread.clamp_min(1e-300)).amin((0, 1))
        # Equal labellings differ by rounding only.
        self.p_value = float((extremes <= extremes[0] + 1e-9).double().mean())
        bounds = everyone[:, 1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
        self.curve = Curve(self.temperatures, losses[1, :, 0], losses[2, :, 0], *bounds)

    def _weights(self, temperature: Tensor) -> Tensor:
        """Return exp(-(d - nearest) / T) (S, S), 0 from a point to itself; no exponent is below -80."""
        return (self._lead / temperature).clamp_min_(-80).exp_().fill_diagonal_(0)

    def _losses(self, is_fake: Tensor) -> Tensor:
        """Return the mean losses (3, K, P) of P labellings (S, P) at each T: of all, real, synthetic anchors."""
        fake = is_fake.float()
        losses = []
        for temperature in self.temperatures:
            weights = self._weights(temperature)
            to_fake, to_real = weights @ fake, weights @ (1 - fake)
            own = torch.where(is_fake, to_fake, to_real)
            each = ((to_fake + to_real).log() - own.clamp_min(1e-37).log()).double()
            total, of_fake = each.sum(0), each.mul_(is_fake).sum(0)
            num_fake = self.count - self.num_real
            losses.append(torch.stack([total / self.count, (total - of_fake) / self.num_real, of_fake / num_fake]))
        return torch.stack(losses, 1)

    def _chance(self) -> float:
        """Return the loss at T = infinity."""
        sizes = (self.num_real, self.count - self.num_real)
        return sum(size * math.log((self.count - 1) / (size - 1)) for size in sizes) / self.count

    def bootstrap_scores(self, resamples: int) -> Tensor:
        """Return the score (B,) of points drawn anew, with replacement, from each side; a point is no own neighbor."""
        sizes = (self.num_real, self.count - self.num_real)
        draws = [
            torch.stack([torch.randint(size, (size,), generator=self._generator).bincount(minlength=size)
                         for _ in range(resamples)], 1) for size in sizes
        ]  # fmt: skip
        weight = torch.cat(draws).float()
        is_fake = (torch.arange(self.count) >= self.num_real)[:, None]
        lowest, at_infinity = None, None
        for temperature in [None, *self.temperatures]:
            kernel = self._weights(torch.tensor(math.inf) if temperature is None else temperature)
            to_fake, to_real = kernel @ (weight * is_fake), kernel @ (weight * ~is_fake)
            own = torch.where(is_fake, to_fake, to_real)
            each = (to_fake + to_real).clamp_min(1e-37).log() - own.clamp_min(1e-37).log()
            loss = (each * weight).sum(0).double() / self.count
            at_infinity = loss if at_infinity is None else at_infinity
            lowest = loss if lowest is None else torch.minimum(lowest, loss)
        assert lowest is not None
        assert at_infinity is not None
        return lowest / at_infinity
