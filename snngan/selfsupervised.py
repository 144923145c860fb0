"""Classes found without labels: neighbors are to agree, far points to disagree, and all classes to be used.

The objective is the one that the blog post "Min-Max Loss, Self Supervised Classification" gives; without its far points
it is close to SCAN's (Van Gansbeke et al. 2020, "Learning to Classify Images without Labels").
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
"""Anchors whose distances from all points are held at once."""


@dataclass(frozen=True)
class Neighborhood:
    """Of each of N points, which others are to agree with it, and which are neither near nor far."""

    near: Tensor
    """Numbers (N, k) of its nearest other points, the nearest first."""
    between: Tensor
    """Numbers (N, m) of the point itself and of those between its near and its far ones."""

    def __post_init__(self) -> None:
        assert len(self.near) == len(self.between) > self.near.shape[1] + self.between.shape[1], "no point is far"

    @property
    def num_far(self) -> int:
        """How many far points each has: all that are neither near nor between."""
        return len(self.near) - self.near.shape[1] - self.between.shape[1]


def neighborhood(points: Tensor, near: int = 10, far: float = 0.9) -> Neighborhood:
    """Return the ``near`` nearest points of each point, by Euclidean distance, and those that are not far from it.

    Distances are those of float64, wherever the points lie.

    Args:
        points: (N, ...), floating point.
        near: how many are near, 1 or above.
        far: share of all N points that are far from each, the farthest ones, above 0 and below 1.

    Returns:
        Numbers of points, ``N * (1 - far)`` for each; they are what takes memory.

    Raises:
        ValueError: an argument is out of its range, a coordinate is not finite, or there are too few points.
    """
    if not (isinstance(near, int) and near >= 1 and 0 < far < 1):
        raise ValueError(f"near must be a whole number above 0 and far between 0 and 1, not {near} and {far}")
    flat, count = _scaled(points)[0], len(points)
    num_far = round(far * count)
    if num_far < 1 or near > count - 1 - num_far:
        raise ValueError(f"{count} points cannot each have {near} near and {num_far} far ones of the others")
    order = []
    for first in range(0, count, CHUNK):
        distances = torch.cdist(flat[first : first + CHUNK], flat)
        own = torch.arange(len(distances), device=flat.device)
        distances[own, first + own] = -1  # before any other point at the same place
        order.append(distances.topk(count - num_far, largest=False).indices)
    ranked = torch.cat(order)
    return Neighborhood(
        near=ranked[:, 1 : near + 1].contiguous(), between=torch.cat([ranked[:, :1], ranked[:, near + 1 :]], 1)
    )


def min_max_loss(
    probabilities: Tensor, points: Neighborhood, anchors: Tensor | None = None, entropy_weight: float = 0.3
) -> Tensor:
    r"""Return how far neighbors disagree and far points agree, less the weighted entropy of the mean prediction.

    .. math::
        L = \operatorname{mean}_{near} (1 - s_{ij})^2 + \operatorname{mean}_{far} s_{ij}^2 - \lambda H(\bar p)

    where s is the cosine of two points' probabilities. The two means weigh alike, however many pairs are near or far.

    Args:
        probabilities: (N, K) of K classes, of all points.
        points: which are near and far.
        anchors: numbers (B,) of the points whose pairs are taken; all by default.
        entropy_weight: the factor of the entropy (nats), 0 or above; without it all points may share a class.

    Returns:
        (), at best ``-entropy_weight * log(K)``.

    Raises:
        ValueError: the probabilities are of another number of points.

    Source:
        The blog post named above: dot products of normalized predictions, their squared error, and the entropy.
    """
    if len(probabilities) != len(points.near):
        raise ValueError(f"probabilities of {len(probabilities)} points, and neighbors of {len(points.near)}")
    turned = F.normalize(probabilities, dim=1)
    near, between, own = points.near, points.between, turned
    if anchors is not None:
        near, between, own = near[anchors], between[anchors], turned[anchors]
    agreement = own @ turned.T
    close = agreement.gather(1, near)
    not_far = close.square().sum() + agreement.gather(1, between).square().sum()
    far = (agreement.square().sum() - not_far) / (len(own) * points.num_far)
    mean = probabilities.mean(0)
    entropy = -torch.special.xlogy(mean, mean.clamp_min(1e-30)).sum()
    loss: Tensor = (1 - close).square().mean() + far - entropy_weight * entropy
    return loss


def _scaled(points: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return points (N, D) in float64 about their mean and of mean length 1, that mean (D,) and that length.

    Centered first: of float32 points far from the origin the digits in which they differ would be lost.

    Raises:
        ValueError: they are not (N, ...), floating point and finite.
    """
    if points.dim() < 2 or not points.is_floating_point() or not bool(points.isfinite().all()):
        raise ValueError(f"points must be (N, ...) and finite, not {tuple(points.shape)} {points.dtype}")
    flat = points.detach().flatten(1).double()
    middle = flat.mean(0)
    flat = flat - middle
    largest = float(flat.abs().max()) or 1.0  # squares of what is left neither overflow nor vanish
    length = largest * float((flat / largest).norm(dim=1).mean())
    length = length or 1.0  # of points that all coincide
    return flat / length, middle, length


@dataclass(frozen=True)
class Clusters:
    """What :func:`cluster` found."""

    labels: Tensor
    """The class (N,) of each point, from the start of the lowest loss."""
    starts: Tensor
    """The classes (R, N) that each start gives."""
    network: nn.Module
    """Maps points (N, D), float32, to logits (N, K)."""
    losses: tuple[float, ...]
    """The loss over all points at the end of each start (R)."""


def cluster(
    points: Tensor,
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
    """Train a network of one hidden layer to give points (N, D) classes, of the starts the one of the lowest loss.

    No label is used, and none to choose among the starts.

    Args:
        points: (N, ...), floating point; flattened, centered and divided by their mean length beforehand.
        num_clusters: how many classes there are, 2 or above.
        near: as for :func:`neighborhood`.
        far: likewise.
        entropy_weight: as for :func:`min_max_loss`.
        units: of the hidden layer, rectified linear ones.
        steps: of Adam, whose rate falls to 0 in a line.
        batch_size: anchors of each step.
        learning_rate: of the first step.
        restarts: how many starts there are, 1 or above.
        seed: of weights and anchors.

    Returns:
        The classes and the network of the kept start, and what every start gave.

    Raises:
        ValueError: an argument is out of its range, as :func:`neighborhood`, or a loss is not finite.

    Source:
        The blog post named above, for the objective; network and optimizer are ours.

    Example:
        >>> points = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 20])
        >>> found = cluster(points, 2, far=0.4, steps=50, restarts=1)
        >>> len(set(found.labels[:50].tolist())), len(set(found.labels.tolist()))
        (1, 2)
    """
    counts = (num_clusters - 1, units, steps, batch_size, restarts)
    if not all(isinstance(each, int) and each >= 1 for each in counts):
        raise ValueError("num_clusters must be 2 or above; units, steps, batch_size and restarts 1 or above, and whole")
    if not (0 <= entropy_weight < math.inf and 0 < learning_rate < math.inf):
        raise ValueError(f"entropy_weight {entropy_weight} or learning_rate {learning_rate} is out of range")
    ordered = neighborhood(points, near, far)
    scaled, middle, length = _scaled(points)
    flat = scaled.float()
    networks, losses, starts = [], [], []
    for start in range(restarts):
        generator = torch.Generator().manual_seed(seed_for(seed, f"start {start}"))
        network = _fresh(flat.shape[1], units, num_clusters, generator).to(flat.device)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            anchors = torch.randint(len(flat), (batch_size,), generator=generator).to(flat.device)
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = min_max_loss(network(flat).softmax(1), ordered, anchors, entropy_weight)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        networks.append(network.requires_grad_(False))
        probabilities = network(flat).softmax(1).detach()
        losses.append(_loss_of_all(probabilities, ordered, entropy_weight))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss is {losses[-1]} after {steps} steps: use a lower learning_rate")
        starts.append(probabilities.argmax(1))
    lowest = min(range(restarts), key=losses.__getitem__)
    first = networks[lowest][0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():  # it takes points as they came
        first.weight /= length
        first.bias.sub_((first.weight.double() @ middle).float())
    return Clusters(starts[lowest], torch.stack(starts), networks[lowest], tuple(losses))


def _fresh(inputs: int, units: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, outputs))


def _loss_of_all(probabilities: Tensor, points: Neighborhood, entropy_weight: float) -> float:
    """Return :func:`min_max_loss` of all anchors, some at a time."""
    total = 0.0
    for anchors in torch.split(torch.arange(len(probabilities), device=probabilities.device), CHUNK):
        total += float(min_max_loss(probabilities, points, anchors, entropy_weight)) * len(anchors)
    return total / len(probabilities)


__getattr__, __dir__ = public_names(
    __name__, dict.fromkeys(("Clusters", "Neighborhood", "cluster", "min_max_loss", "neighborhood"), "")
)
