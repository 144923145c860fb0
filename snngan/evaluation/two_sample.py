"""Can two sets of feature vectors be told apart? The entanglement score with an interval, and a permutation test.

The score is that of all vectors; the rest is computed on the first few thousand of each side, from one distance matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snngan.losses.snnl import Entanglement, measure_entanglement
from snngan.metrics.distances import squared_distance_rows
from snngan.seeds import seed_for

PERMUTATIONS, RESAMPLES = 999, 200
SUBSET = 2000
"""Number of vectors of each side in the test and the interval."""
OCTAVES, PER_OCTAVE = 8, 2
"""Range and density of the temperatures: from 1/256 to 1 of the mean squared distance, two for each factor of 2."""


@dataclass(frozen=True)
class TwoSampleResult:
    """The result of :func:`compare_features`.

    Attributes:
        entanglement: score and anchors' losses over all vectors.
        odds: (N + M,) log-odds of picking the other side at the optimal temperature; low: far from the other side.
        interval: the score's 95 % interval: 1.96 bootstrap standard errors of the subset, times the square root of the
            larger of the two shares of vectors that are in the subset.
        corrected: score of the subset over that under permuted labels, at most 1: unlike the score, it is not lower for
            small sets.
        test: the test of the subset.
    """

    entanglement: Entanglement
    odds: Tensor
    interval: tuple[float, float]
    corrected: float
    test: PermutationTest


@torch.no_grad()
def compare_features(real: Tensor, fake: Tensor, *, seed: int = 0, subset: int = SUBSET) -> TwoSampleResult:
    """Return how entangled two sets of feature vectors are, and whether they can be told apart.

    Args:
        real: (N, ...) one set.
        fake: (M, ...) the other set.
        seed: seed of permutations and resamples.
        subset: number of vectors of each side, the first ones, in test, interval and correction.

    Raises:
        ValueError: fewer than 4 vectors on a side, shapes that differ, or vectors that are not finite.
    """
    if min(len(real), len(fake)) < 4:
        raise ValueError(f"a comparison needs 4 or more vectors per side, got {len(real)} and {len(fake)}")
    entanglement, odds = measure_entanglement(real, fake)
    test = PermutationTest(real[:subset].flatten(1), fake[:subset].flatten(1), seed)
    share = max(size / len(side) for size, side in zip(test.sizes, (real, fake), strict=True))
    error = 1.96 * (test.bootstrap_scores(RESAMPLES).std().item() * math.sqrt(share))
    interval = max(0.0, entanglement.score - error), min(1.0, entanglement.score + error)
    return TwoSampleResult(entanglement, odds, interval, min(1.0, test.score / test.null_score), test)


class PermutationTest:
    """The loss at many temperatures under the true and under permuted labels, from one distance matrix.

    The statistic is the minimum, over the temperatures and over the mean losses of all, of the real and of the
    synthetic anchors, each standardized over all labelings: a labeling is extreme if the vectors of one side are closer
    to one another, at some T, than in other labelings. Each side is also tested separately, because a set that lies
    closely within the other lowers the loss of its own anchors as much as it raises that of the others. If both sets
    have one distribution, the true labeling is like any other, so the p-value is uniform.

    Attributes:
        sizes: number of real and of synthetic vectors.
        p_value: share of labelings (permuted ones and the true one) in which the sides are as far apart as in the data.
        score: entanglement score of the true labeling, at the best of these temperatures.
        null_score: mean entanglement score of the other labelings.
        mean_distance: mean squared distance of pairs.
        temperatures: (K,), in units of squared distance, rising.
        real_losses: (K,) mean loss of the real anchors.
        fake_losses: (K,) mean loss of the synthetic anchors.
        permuted_losses: (2, K) 2.5 % and 97.5 % quantiles of the loss of all anchors under permuted labels.
    """

    def __init__(self, real: Tensor, fake: Tensor, seed: int) -> None:
        vectors = torch.cat([real, fake]).double()
        vectors -= vectors.mean(0)
        self.count, self.sizes = len(vectors), (len(real), len(fake))
        self._is_fake = torch.arange(self.count) >= len(real)
        self._lead = torch.empty(self.count, self.count)  # distance of the nearest neighbor less that of each
        total = 0.0
        for rows, distances in squared_distance_rows(vectors, vectors):
            total += float(distances.sum() - distances[:, rows].trace())
            distances[:, rows].fill_diagonal_(math.inf)
            self._lead[rows] = distances.amin(1, keepdim=True) - distances
        self.mean_distance = total / (self.count * (self.count - 1))
        steps = torch.arange(OCTAVES * PER_OCTAVE + 1, dtype=torch.float64)
        self.temperatures = self.mean_distance * 2 ** (steps / PER_OCTAVE - OCTAVES)
        if not self.mean_distance > 0:
            self.temperatures.fill_(1.0)
        self._generator = torch.Generator().manual_seed(seed_for(seed, "permutations"))
        permuted = [self._is_fake[torch.randperm(self.count, generator=self._generator)] for _ in range(PERMUTATIONS)]
        losses = self._losses(torch.stack([self._is_fake, *permuted], 1))
        of_all = losses[0]
        chance = sum(size * math.log((self.count - 1) / (size - 1)) for size in self.sizes) / self.count  # at T = inf
        lowest = torch.minimum(of_all.amin(0), torch.tensor(chance)) / chance
        self.score, self.null_score = float(lowest[0]), float(lowest[1:].mean())
        spread = losses.std(2, keepdim=True)
        extremes = ((losses - losses.mean(2, keepdim=True)) / spread.clamp_min(1e-300)).amin((0, 1))
        # Equal labelings differ by rounding errors.
        self.p_value = float((extremes <= extremes[0] + 1e-9).double().mean())
        self.real_losses, self.fake_losses = losses[1:, :, 0]
        self.permuted_losses = of_all[:, 1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)

    def _weights(self, temperature: Tensor) -> Tensor:
        """Return exp(-(d - nearest) / T) (S, S), with zeros on the diagonal; exponents are clamped at -80."""
        return (self._lead / temperature).clamp_min_(-80).exp_().fill_diagonal_(0)

    def _losses(self, is_fake: Tensor) -> Tensor:
        """Return the mean losses (3, K, P) of P labelings (S, P) at each T: of all, real, synthetic anchors."""
        fake = is_fake.float()
        losses = []
        for temperature in self.temperatures:
            weights = self._weights(temperature)
            to_fake, to_real = weights @ fake, weights @ (1 - fake)
            own = torch.where(is_fake, to_fake, to_real)
            each = ((to_fake + to_real).log() - own.clamp_min(1e-37).log()).double()
            total, fake_total = each.sum(0), each.mul_(is_fake).sum(0)
            num_real, num_fake = self.sizes
            losses.append(torch.stack([total / self.count, (total - fake_total) / num_real, fake_total / num_fake]))
        return torch.stack(losses, 1)

    def bootstrap_scores(self, resamples: int) -> Tensor:
        """Return the scores (B,) of resamples drawn with replacement from each side; copies of a vector do not count.

        A copy is at distance 0 on its own side, and would lower the loss.
        """
        draws = [
            torch.randint(size, (size,), generator=self._generator).bincount(minlength=size)
            for size in self.sizes
            for _ in range(resamples)
        ]
        weight = torch.cat([torch.stack(draws[:resamples], 1), torch.stack(draws[resamples:], 1)]).float()
        is_fake = self._is_fake[:, None]
        losses = []
        for temperature in [torch.tensor(math.inf), *self.temperatures]:
            kernel = self._weights(temperature)
            to_fake, to_real = kernel @ (weight * is_fake), kernel @ (weight * ~is_fake)
            own = torch.where(is_fake, to_fake, to_real)
            each = (to_fake + to_real).clamp_min(1e-37).log() - own.clamp_min(1e-37).log()
            losses.append((each * weight).sum(0).double() / self.count)
        return torch.stack(losses).amin(0) / losses[0]
