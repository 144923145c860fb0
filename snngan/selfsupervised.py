"""Classes without labels: neighbors should agree, far samples disagree, and all classes be used.

The objective is that of the blog post "Min-Max Loss, Self Supervised Classification"; without its far samples it is
close to SCAN's (Van Gansbeke et al. 2020, "Learning to Classify Images without Labels").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.lazy import public_names
from snngan.seeds import seed_for

CHUNK = 1024
"""Samples whose distances from all others are computed at a time."""


@dataclass(frozen=True)
class Neighborhood:
    """The near samples of each of N samples, and those that are neither near nor far; all others are far."""

    near: Tensor
    """Indices (N, k) of the nearest other samples, the nearest first."""
    between: Tensor
    """Indices (N, m) of the sample itself, and of those between its near and its far samples."""

    @property
    def num_far(self) -> int:
        """Number of far samples of each sample."""
        return len(self.near) - self.near.shape[1] - self.between.shape[1]


def find_neighborhood(features: Tensor, near: int = 10, far: float = 0.9) -> Neighborhood:
    """Return the near samples of each sample by Euclidean distance, and those that are neither near nor far.

    Distances are computed in float64 on the device of the features; the result takes N (1 - far) indices per sample.

    Args:
        features: (N, ...), floating point.
        near: number of near samples, 1 or above.
        far: share of all N samples that are far from each, above 0 and below 1.

    Raises:
        ValueError: an argument is out of its range, a feature is not finite, or there are too few samples.
    """
    if not (isinstance(near, int) and near >= 1 and 0 < far < 1):
        raise ValueError(f"near must be a positive integer and far between 0 and 1, got {near} and {far}")
    flat, count = _standardize(features)[0], len(features)
    num_far = round(far * count)
    if num_far < 1 or near > count - 1 - num_far:
        raise ValueError(f"{count} samples cannot each have {near} near and {num_far} far others; lower near or far")
    order = []
    for first in range(0, count, CHUNK):
        distances = torch.cdist(flat[first : first + CHUNK], flat)
        distances.diagonal(first).fill_(-1)  # the sample itself comes before its duplicates
        order.append(distances.topk(count - num_far, largest=False).indices)
    ranked = torch.cat(order)
    between = torch.cat([ranked[:, :1], ranked[:, near + 1 :]], 1)
    return Neighborhood(ranked[:, 1 : near + 1].contiguous(), between)


def min_max_loss(
    probabilities: Tensor, neighborhood: Neighborhood, anchors: Tensor | None = None, entropy_weight: float = 0.3
) -> Tensor:
    r"""Return how much near samples disagree and far ones agree, minus the weighted entropy of the mean prediction.

    .. math::
        L = \operatorname{mean}_{near} (1 - s_{ij})^2 + \operatorname{mean}_{far} s_{ij}^2 - \lambda H(\bar p)

    where s is the cosine of two samples' probabilities. Both means have the same weight, whatever the number of pairs.
    The loss is at least ``-entropy_weight * log(K)``.

    Args:
        probabilities: (N, K) of K classes, of all samples.
        neighborhood: near and far samples of each.
        anchors: indices (B,) of the samples whose pairs count; default: all.
        entropy_weight: weight of the entropy (nats), 0 or above; at 0 all samples may share a class.

    Raises:
        ValueError: the probabilities are of another number of samples.
    """
    if len(probabilities) != len(neighborhood.near):
        raise ValueError(f"probabilities must be of {len(neighborhood.near)} samples, got {len(probabilities)}")
    directions = F.normalize(probabilities, dim=1)
    chosen = slice(None) if anchors is None else anchors
    agreement = directions[chosen] @ directions.T
    near = agreement.gather(1, neighborhood.near[chosen])
    not_far = near.square().sum() + agreement.gather(1, neighborhood.between[chosen]).square().sum()
    far = (agreement.square().sum() - not_far) / (len(agreement) * neighborhood.num_far)
    mean = probabilities.mean(0)
    entropy = -torch.special.xlogy(mean, mean.clamp_min(1e-30)).sum()
    loss: Tensor = (1 - near).square().mean() + far - entropy_weight * entropy
    return loss


def _standardize(features: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return features (N, D) in float64, centered and of mean norm 1, with their mean (D,) and mean norm."""
    if features.dim() < 2 or not features.is_floating_point() or not bool(features.isfinite().all()):
        given = f"{tuple(features.shape)} {features.dtype}"
        raise ValueError(f"features must be (N, ...), floating point and finite, got {given}")
    flat = features.detach().flatten(1).double()
    mean = flat.mean(0)
    flat = flat - mean
    largest = float(flat.abs().max()) or 1.0  # so that squares neither overflow nor underflow
    norm = largest * float((flat / largest).norm(dim=1).mean()) or 1.0  # 1 where all features are equal
    return flat / norm, mean, norm


@dataclass(frozen=True)
class Clusters:
    """The result of :func:`cluster`."""

    labels: Tensor
    """Class (N,) of each sample, from the start with the lowest loss."""
    starts: Tensor
    """Classes (R, N) from each start."""
    network: nn.Module
    """Maps features (N, D), float32, to logits (N, K)."""
    losses: tuple[float, ...]
    """Loss over all samples at the end of each start (R)."""


def cluster(
    features: Tensor,
    num_clusters: int,
    *,
    near: int = 10,
    far: float = 0.9,
    entropy_weight: float = 0.3,
    units: int = 256,
    steps: int = 300,
    batch_size: int = 256,
    learning_rate: float = 0.01,
    restarts: int = 5,
    seed: int = 0,
) -> Clusters:
    """Train networks of one hidden layer to classify features (N, D) without labels; keep the one of the lowest loss.

    Args:
        features: (N, ...), floating point; flattened, centered and divided by their mean norm for training.
        num_clusters: number of classes, 2 or above.
        near: number of near samples, see :func:`find_neighborhood`.
        far: share of far samples.
        entropy_weight: weight of the entropy, see :func:`min_max_loss`.
        units: rectified linear units of the hidden layer.
        steps: steps of Adam.
        batch_size: anchors per step.
        learning_rate: at the first step; falls to 0 linearly.
        restarts: number of starts, 1 or above.
        seed: of weights and anchors.

    Raises:
        ValueError: an argument is out of its range, as :func:`find_neighborhood`, or a loss is not finite.

    Example:
        >>> features = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 20])
        >>> found = cluster(features, 2, far=0.4, steps=50, restarts=1)
        >>> len(set(found.labels[:50].tolist())), len(set(found.labels.tolist()))
        (1, 2)
    """
    counts = {"num_clusters": num_clusters, "units": units, "steps": steps, "batch_size": batch_size}
    for name, value in {**counts, "restarts": restarts}.items():
        low = 2 if name == "num_clusters" else 1
        if not (isinstance(value, int) and value >= low):
            raise ValueError(f"{name} must be an integer of {low} or above, got {value}")
    if not (0 <= entropy_weight < math.inf and 0 < learning_rate < math.inf):
        given = f"{entropy_weight} and {learning_rate}"
        raise ValueError(f"entropy_weight must be 0 or above and learning_rate above 0, both finite, got {given}")
    neighborhood = find_neighborhood(features, near, far)
    standardized, mean, norm = _standardize(features)
    flat = standardized.float()
    networks, losses, starts = [], [], []
    for start in range(restarts):
        generator = torch.Generator().manual_seed(seed_for(seed, f"start {start}"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            first, last = nn.Linear(flat.shape[1], units), nn.Linear(units, num_clusters)
        network = nn.Sequential(first, nn.ReLU(), last).to(flat.device)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            anchors = torch.randint(len(flat), (batch_size,), generator=generator).to(flat.device)
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = min_max_loss(network(flat).softmax(1), neighborhood, anchors, entropy_weight)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        networks.append(network.requires_grad_(False))
        probabilities = network(flat).softmax(1)
        chunks = torch.split(torch.arange(len(flat), device=flat.device), CHUNK)
        parts = [float(min_max_loss(probabilities, neighborhood, each, entropy_weight)) * len(each) for each in chunks]
        losses.append(sum(parts) / len(flat))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss is {losses[-1]} after {steps} steps: use a lower learning_rate")
        starts.append(probabilities.argmax(1))
        first.weight /= norm  # so that the network maps features that are not standardized
        first.bias.sub_((first.weight.double() @ mean).float())
    best = min(range(restarts), key=losses.__getitem__)
    return Clusters(starts[best], torch.stack(starts), networks[best], tuple(losses))


__getattr__, __dir__ = public_names(__name__, {"": "Clusters Neighborhood cluster find_neighborhood min_max_loss"})
