"""Clusters matched with labels, and the two baseline methods."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from snngan.evaluation.clusters import cluster_accuracy, confusion_matrix, k_means, match_clusters, spectral_clusters


@pytest.mark.parametrize("seed", range(5))
def test_no_renumbering_is_better(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels, clusters = torch.randint(4, (2, 50), generator=generator)
    best = max(float((torch.tensor(order)[clusters] == labels).double().mean()) for order in permutations(range(4)))
    assert cluster_accuracy(labels, clusters, 4) == pytest.approx(best)
    table = confusion_matrix(labels, match_clusters(labels, clusters, 4), 4)
    assert table.sum(1).tolist() == labels.bincount(minlength=4).tolist()  # rows are labels
    assert int(table.trace()) == round(best * 50)


def test_a_label_or_cluster_that_nobody_has() -> None:
    labels, clusters = torch.tensor([0, 0, 2, 2]), torch.tensor([3, 3, 0, 0])
    assert match_clusters(labels, clusters, 4).tolist() == [0, 0, 2, 2]


def test_both_methods_find_far_blobs() -> None:
    labels = torch.arange(90) % 3
    features = 30 * torch.eye(3)[labels] + torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    for method in (k_means, spectral_clusters):
        assert cluster_accuracy(labels, method(features, 3), 3) == 1
