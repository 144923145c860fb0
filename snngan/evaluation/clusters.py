"""How well clusters agree with labels, whatever the clusters' numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def matched(labels: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Return ``clusters`` (N,) renumbered so that as many points as possible have the number of their label.

    Args:
        labels: (N,) integers from 0 to ``count - 1``.
        clusters: likewise.
        count: how many labels, and how many clusters, there are at most.

    Source:
        Kuhn 1955, the Hungarian method.

    Example:
        >>> matched(torch.tensor([0, 0, 1, 2]), torch.tensor([2, 2, 0, 0]), 3).tolist()
        [0, 0, 1, 1]
    """
    from scipy.optimize import linear_sum_assignment

    label, cluster = linear_sum_assignment(confusion(labels, clusters, count).cpu().numpy(), maximize=True)
    new = torch.empty(count, dtype=torch.int64)
    new[torch.from_numpy(cluster)] = torch.from_numpy(label)
    return new.to(clusters.device)[clusters]


def confusion(labels: Tensor, guesses: Tensor, count: int) -> Tensor:
    """Return how many points (count, count) of each label (rows) are given each number (columns); both (N,)."""
    return torch.bincount(labels * count + guesses, minlength=count * count).view(count, count)


def cluster_accuracy(labels: Tensor, clusters: Tensor, count: int) -> float:
    """Return the share of points whose label is the number of their cluster, once :func:`matched`."""
    return float((matched(labels, clusters, count) == labels).double().mean())


def k_means(points: Tensor, count: int, starts: int = 10, seed: int = 0) -> Tensor:
    """Return the cluster (N,) of each point (N, D): scikit-learn's k-means, the best of so many ``starts``."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=starts, random_state=seed).fit_predict(points.numpy())
    return torch.from_numpy(found).long()


def spectral(points: Tensor, count: int, near: int = 10, seed: int = 0) -> Tensor:
    """Return the cluster (N,) of each point (N, D): scikit-learn's spectral clustering of the graph of neighbors."""
    import warnings

    from sklearn.cluster import SpectralClustering

    search = SpectralClustering(
        count, affinity="nearest_neighbors", n_neighbors=min(near, len(points) - 1), random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a graph in several pieces is just what clusters make
        return torch.from_numpy(search.fit_predict(points.numpy())).long()
