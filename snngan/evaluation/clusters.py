"""Clusters of features, and how well they agree with labels whatever their numbers."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def match_clusters(labels: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Return ``clusters`` (N,) renumbered so that as many samples as possible have the number of their label.

    ``labels`` and ``clusters`` are (N,) integers from 0 to ``count - 1``.

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


def confusion_matrix(labels: Tensor, predicted: Tensor, count: int) -> Tensor:
    """Return the number of samples (count, count) by label (rows) and prediction (columns); both are (N,)."""
    return torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)


def cluster_accuracy(labels: Tensor, clusters: Tensor, count: int) -> float:
    """Return the accuracy of clusters (N,) as predictions of labels (N,), after :func:`match_clusters`."""
    return float((match_clusters(labels, clusters, count) == labels).double().mean())


def k_means(features: Tensor, count: int, num_starts: int = 10, seed: int = 0) -> Tensor:
    """Return the clusters (N,) of features (N, D) by scikit-learn's k-means, the best of ``num_starts``."""
    from sklearn.cluster import KMeans

    search = KMeans(count, n_init=num_starts, random_state=seed)
    return torch.from_numpy(search.fit_predict(features.numpy())).long()


def spectral_clusters(features: Tensor, count: int, num_neighbors: int = 10, seed: int = 0) -> Tensor:
    """Return the clusters (N,) of features (N, D) by scikit-learn's spectral clustering of the neighbor graph."""
    from sklearn.cluster import SpectralClustering

    search = SpectralClustering(
        count, affinity="nearest_neighbors", n_neighbors=min(num_neighbors, len(features) - 1), random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the graph of separate clusters is not connected
        return torch.from_numpy(search.fit_predict(features.numpy())).long()
