"""The log-odds of a batch from N x N matrices: the fastest way for small batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor

from snngan.losses.backends import LogOdds
from snngan.losses.backends.loss_curve import LossCurve
from snngan.losses.backends.precision import full_precision
from snngan.losses.pairwise import PairwiseBatch

LOWEST_EXPONENT = {dtype: math.log(torch.finfo(dtype).tiny) / 2 for dtype in (torch.float32, torch.float64)}
"""Its exponential vanishes in a sum with 1 and yet is not a subnormal number, which takes tens of times longer on a
CPU: at low temperatures most exponentials underflow."""


def dense_log_odds(batch: PairwiseBatch, inverses: Tensor) -> LogOdds:
    """Compute log-odds as ``LogOdds`` describes, of one or several groups: one exponential per pair.

    Distances relative to an anchor's nearest neighbor, of its own class or of the others, are computed in float64 and
    only then rounded: the largest weight of each sum is 1, and z loses no digits to the size of the distances.
    """
    is_anchor, has_other = batch.is_anchor, batch.has_other_class
    odds, saved = [], [batch.features, batch.same_class, is_anchor & has_other, inverses, batch.norm_bound]
    nearest_same = batch.distances.masked_fill(~batch.same_class, torch.inf).amin(-1).masked_fill_(~is_anchor, 0.0)
    nearest_other = batch.distances.masked_fill(~batch.other_class, torch.inf).amin(-1).masked_fill_(~has_other, 0.0)
    for inverse in inverses:
        nearest = torch.where(batch.same_class, nearest_same[..., None], nearest_other[..., None])
        weights = nearest.sub_(batch.distances).mul_(inverse).to(batch.dtype)
        weights = weights.clamp_min_(LOWEST_EXPONENT[batch.dtype]).exp_()
        weights.diagonal(dim1=-2, dim2=-1).zero_()
        same = weights.mul(batch.same_class).sum(-1, keepdim=True).masked_fill_(~is_anchor[..., None], 1.0)
        other = weights.mul(batch.other_class).sum(-1, keepdim=True).masked_fill_(~has_other[..., None], 1.0)
        saved += [weights, same, other]
        z = (other.log() - same.log()).squeeze(-1) - inverse * (nearest_other - nearest_same)
        odds.append(z.masked_fill_(~has_other, -torch.inf).masked_fill_(~is_anchor, 0.0))
    return torch.stack(odds), saved, partial(_gradients, batch.needs_grad, batch.distance_factor)


def _gradients(rows: slice, distance_factor: float, grad: Tensor, *saved: Tensor) -> Iterator[Tensor]:
    features, same_class, is_active, inverses, norm_bound, *by_inverse = saved
    largest = inverses.amax()
    shares = inverses / largest.clamp_min(torch.finfo(inverses.dtype).tiny)
    total = torch.zeros_like(same_class, dtype=by_inverse[0].dtype)
    for k in reversed(range(len(inverses))):
        weights, same, other = by_inverse[3 * k : 3 * k + 3]
        # d z_i / d d_ij: each row sums to 0, so the anchor's own term of d |x_i - x_j|^2 vanishes too.
        row = (grad[k] * shares[k]).where(is_active, 0.0)[..., None].to(total.dtype)
        total += torch.where(same_class, row / same, -row / other).mul_(weights)
    if total.is_cuda:  # a float32 product would keep three digits where TF32 is allowed
        total = total.double()
    scaled, gradient = features.to(total.dtype, copy=True).div_(norm_bound), torch.zeros_like(features)
    with full_precision(features.device):
        slopes = total[..., rows, :] + total.mT[..., rows, :]
        gradient[..., rows, :] = total.sum(-2)[..., rows, None] * scaled[..., rows, :] - slopes @ scaled
    yield gradient.mul_(2 * distance_factor * largest * norm_bound)


class DenseCurve(LossCurve):
    """The loss curve from matrices of neighbors."""

    octaves = 1

    def __init__(self, batch: PairwiseBatch) -> None:
        anchors = batch.is_anchor & batch.has_other_class
        distances, same, other = batch.distances[anchors], batch.same_class[anchors], batch.other_class[anchors]
        distances /= batch.norm_bound.square()
        nearest_same = distances.masked_fill(~same, math.inf).amin(1)
        nearest_other = distances.masked_fill(~other, math.inf).amin(1)
        nearest = torch.where(same, nearest_same[:, None], nearest_other[:, None])
        self.excess = (distances - nearest).clamp_min_(0)
        self.same, self.other = same.double(), other.double()
        self.num_anchors, self.num_same, self.gap = (
            int(batch.is_anchor.sum()),
            self.same.sum(1),
            nearest_other - nearest_same,
        )
        self.farthest = float(batch.distances.max() / batch.norm_bound.square())

    def rounded(self) -> Self:
        curve = copy.copy(self)
        curve.excess, curve.same, curve.other = self.excess.float(), self.same.float(), self.other.float()
        return curve

    def sums(self, inverses: Sequence[float]) -> Tensor:
        sums = []
        for inverse in inverses:
            weights = self.excess.mul(-inverse).clamp_min_(LOWEST_EXPONENT[self.excess.dtype]).exp_()
            parts = [
                (part * kind).sum(1) for part in (weights, weights * self.excess) for kind in (self.same, self.other)
            ]
            sums.append(torch.stack(parts))
        return torch.stack(sums).double()
