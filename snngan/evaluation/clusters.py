"""How well clusters agree with labels, whatever numbers the clusters have."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def match_clusters(labels: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Return ``clusters`` (N,) renumbered so that as many as possible equal their label.

    Args:
        labels: (N,) integers from 0 to ``count - 1``.
        clusters: likewise.
        count: largest number of labels and of clusters.

    Source:
        Kuhn 1955, the Hungarian method.

    Example:
        >>> match_clusters(torch.tensor([0, 0, 1, 2]), torch.tensor([2, 2, 0, 0]), 3).tolist()
        [0, 0, 1, 1]
    """
    from scipy.optimize import linear_sum_assignment

    label, cluster = linear_sum_assignment(confusion_matrix(labels, clusters, count).cpu().numpy(), maximize=True)
    new = torch.empty(count, dtype=torch.int64)
    new[torch.from_numpy(cluster)] = torch.from_numpy(label)
    return new.to(clusters.device)[clusters]


def confusion_matrix(labels: Tensor, guesses: Tensor, count: int) -> Tensor:
    """Return (count, count) how many samples of each label (rows) got each guess (columns); both arguments (N,)."""
    return torch.bincount(labels * count + guesses, minlength=count * count).view(count, count)


def cluster_accuracy(labels: Tensor, clusters: Tensor, count: int) -> float:
    """Return the share of samples whose label is the number of their cluster after :func:`match_clusters`."""
    return float((match_clusters(labels, clusters, count) == labels).double().mean())


def k_means(features: Tensor, count: int, starts: int = 10, seed: int = 0) -> Tensor:
    """Return the cluster (N,) of each feature vector (N, D): scikit-learn's k-means, the best of ``starts`` runs."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=starts, random_state=seed).fit_predict(features.numpy())
    return torch.from_numpy(found).long()


def spectral_clusters(features: Tensor, count: int, neighbors: int = 10, seed: int = 0) -> Tensor:
    """Return the cluster (N,) of each feature vector (N, D): scikit-learn's spectral clustering of a neighbor graph."""
    from sklearn.cluster import SpectralClustering

    search = SpectralClustering(
        count, affinity="nearest_neighbors", n_neighbors=min(neighbors, len(features) - 1), random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of a graph in several pieces, which clusters make
        return torch.from_numpy(search.fit_predict(features.numpy())).long()
