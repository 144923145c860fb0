"""The triplet loss of a labeled batch, over every triplet in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.pairwise import Distance, PairwiseBatch, build_pairwise_batch, squared_distances


def triplet_loss(features: Tensor, labels: Tensor, margin: float = 1.0, distance: Distance = "sqeuclidean") -> Tensor:
    r"""Return the mean of max(0, D(a, p) - D(a, n) + margin) over all triplets (a, p, n) of the batch.

    Every sample is an anchor a, every other one of its class a positive p, every one of another class a negative n.
    Sorting the negatives by distance, with running sums, gives the N^3 terms in O(N^2 log N) time and O(N^2) memory.

    Args:
        features: (N, ...), floating point.
        labels: (N,) integers.
        margin: how much farther a negative should be than a positive, 0 or above, in units of the distance.
        distance: ``"sqeuclidean"``, or ``"cosine"``: 1 - cos.

    Returns:
        () in float32, or float64 for float64 features; 0 for a batch without a triplet.

    Raises:
        ValueError: the shapes do not match, or an argument is out of its range.

    Source:
        Frosst et al. 2019, eq. 4; over all triplets as in Hermans et al. 2017, "batch all".

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0]])
        >>> float(triplet_loss(points, torch.tensor([0, 0, 1]), margin=4.0))  # of 1 - 9 + 4 and 1 - 4 + 4
        0.5
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be a finite number of 0 or above, got {margin}")
    batch = build_pairwise_batch(features.detach(), labels, distance, "dense")  # also checks the arguments
    assert isinstance(batch, PairwiseBatch)
    flat = features.flatten(1)
    if distance == "cosine":
        flat = F.normalize(flat.double(), dim=1)
        distances = 1 - flat @ flat.T
    else:
        centered = flat.double() - flat.detach().double().mean(0)
        distances = squared_distances(centered, centered)
    negatives = distances.masked_fill(~batch.other_class, math.inf).sort(1).values
    sums = F.pad(negatives.masked_fill(negatives == math.inf, 0.0).cumsum(1), (1, 0))
    limit = distances + margin
    num_within = torch.searchsorted(negatives.detach().contiguous(), limit.detach().contiguous())
    terms = (num_within * limit - sums.gather(1, num_within)) * batch.same_class
    num_triplets = (batch.same_class.sum(1) * batch.other_class.sum(1)).sum()
    return (terms.sum() / num_triplets.clamp_min(1)).to(torch.promote_types(features.dtype, torch.float32))
