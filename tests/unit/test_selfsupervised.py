"""The min-max objective against a triple loop, and classes found without labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from snngan.evaluation.clusters import cluster_accuracy
from snngan.selfsupervised import cluster, find_neighborhood, min_max_loss


def blobs(count: int = 4, each: int = 40, far: float = 20.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count * each) % count
    angle = 2 * math.pi * labels / count
    return far * torch.stack([angle.cos(), angle.sin()], 1) + torch.randn(len(labels), 2, generator=generator), labels


def by_loops(
    probabilities: Tensor, points: Tensor, near: int, num_far: int, anchors: list[int], weight: float
) -> float:
    """The definition, pair by pair."""
    close, apart = [], []
    for anchor in anchors:
        others = [other for other in range(len(points)) if other != anchor]
        others.sort(key=lambda other: float((points[other] - points[anchor]).norm()))
        for rank, other in enumerate(others):
            one, two = probabilities[anchor], probabilities[other]
            agreement = float(one @ two / (one.norm() * two.norm()))
            if rank < near:
                close.append((1 - agreement) ** 2)
            elif rank >= len(others) - num_far:
                apart.append(agreement**2)
    entropy = -sum(float(share) * math.log(float(share)) for share in probabilities.mean(0) if share > 0)
    return sum(close) / len(close) + sum(apart) / len(apart) - weight * entropy


@pytest.mark.parametrize(("near", "far"), [(1, 0.5), (5, 0.6), (4, 0.85), (10, 0.1)])
def test_the_loss_equals_that_of_loops(near: int, far: float) -> None:
    generator = torch.Generator().manual_seed(near)
    points = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    probabilities = (2 * torch.randn(40, 4, generator=generator, dtype=torch.float64)).softmax(1)
    found = find_neighborhood(points, near, far)
    assert found.num_far == round(far * 40)
    for anchors in (list(range(40)), [3, 3, 17]):
        value = min_max_loss(probabilities, found, torch.tensor(anchors), 0.7)
        assert float(value) == pytest.approx(by_loops(probabilities, points, near, found.num_far, anchors, 0.7))
    torch.testing.assert_close(
        min_max_loss(probabilities, found), min_max_loss(probabilities, found, torch.arange(40)), rtol=1e-9, atol=0
    )


def test_the_lowest_and_the_highest_loss() -> None:
    points, labels = blobs()
    near = find_neighborhood(points, 10, 0.5)
    sure = torch.eye(4)[labels]
    assert float(min_max_loss(sure, near, entropy_weight=0.3)) == pytest.approx(-0.3 * math.log(4), abs=1e-6)
    one_class = torch.eye(4)[labels * 0].requires_grad_()
    worst = min_max_loss(one_class, near, entropy_weight=0.3)
    assert float(worst.detach()) == pytest.approx(1, abs=1e-6)
    worst.backward()  # an empty class has no NaN gradient
    assert one_class.grad is not None
    assert bool(one_class.grad.isfinite().all())


def test_a_sample_is_not_its_own_neighbor_even_among_duplicates() -> None:
    points = torch.zeros(30, 2)
    points[20:] = 5.0
    found = find_neighborhood(points, 3, 0.3)
    own = torch.arange(30)
    assert not bool((found.near == own[:, None]).any())
    assert torch.equal(found.between[:, 0], own)
    assert bool(((found.near < 20) == (own[:, None] < 20)).all())


def test_the_result_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs()
    whole, found = find_neighborhood(points), cluster(points, 4, steps=20, restarts=1)
    monkeypatch.setattr("snngan.selfsupervised.CHUNK", 7)
    parts, again = find_neighborhood(points), cluster(points, 4, steps=20, restarts=1)
    assert torch.equal(whole.near, parts.near)
    assert torch.equal(whole.between.sort(1).values, parts.between.sort(1).values)
    assert again.losses == pytest.approx(found.losses, abs=1e-5)


def test_separate_blobs_are_found_without_labels() -> None:
    points, labels = blobs()
    found = cluster(points, 4, far=0.6, steps=150, restarts=3)
    assert cluster_accuracy(labels, found.labels, 4) == 1
    assert found.starts.shape == (3, len(points))
    assert len(found.losses) == 3
    assert torch.equal(found.labels, found.starts[found.losses.index(min(found.losses))])
    assert torch.equal(found.network(points).argmax(1), found.labels)  # without standardization
    moved = cluster(points * 100 - 1e4, 4, far=0.6, steps=150, restarts=3)
    assert cluster_accuracy(labels, moved.labels, 4) == 1


def test_the_start_with_the_lowest_loss_is_kept_and_results_repeat() -> None:
    points, _ = blobs(8, 30, 6.0)
    found = cluster(points, 8, steps=25, restarts=4, seed=1)
    assert len({round(loss, 6) for loss in found.losses}) == 4
    near = find_neighborhood(points)
    values = [float(min_max_loss(torch.eye(8)[start], near)) for start in found.starts]
    assert max(values) > min(values)
    again = cluster(points, 8, steps=25, restarts=4, seed=1)
    assert torch.equal(again.starts, found.starts)
    assert again.losses == found.losses
    single = cluster(points, 8, steps=25, restarts=1, seed=1)
    assert torch.equal(single.labels, found.starts[0])
    assert cluster(points, 8, steps=25, restarts=1, seed=2).losses != single.losses


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 1e4), (1.0, -1e5), (1e30, 0.0), (1e-30, 0.0)])
def test_offset_and_scale_do_not_matter(scale: float, offset: float) -> None:
    points, labels = blobs()
    points = points * scale + offset
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    apart = exact.gather(1, find_neighborhood(points).near)
    torch.testing.assert_close(apart, exact.sort(1).values[:, 1:11], rtol=1e-6, atol=0)
    found = cluster(points, 4, far=0.6, steps=150, restarts=1)
    assert cluster_accuracy(labels, found.labels, 4) == 1


def test_entropy_weight_is_used() -> None:
    points, _ = blobs()
    light, heavy = (cluster(points, 4, steps=10, restarts=1, entropy_weight=weight) for weight in (0.1, 5.0))
    for found, weight in ((light, 0.1), (heavy, 5.0)):
        value = min_max_loss(found.network(points).softmax(1), find_neighborhood(points), entropy_weight=weight)
        assert found.losses[0] == pytest.approx(float(value), abs=1e-4)
    assert not torch.allclose(light.network(points), heavy.network(points), atol=1e-3)


def test_features_with_a_graph_no_grad_mode_and_the_global_random_state() -> None:
    points, _ = blobs()
    state = torch.get_rng_state()
    wanted = cluster(points, 4, steps=5, restarts=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert cluster(points.clone().requires_grad_() * 1, 4, steps=5, restarts=2).losses == wanted.losses
    with torch.no_grad():
        assert cluster(points, 4, steps=5, restarts=2).losses == wanted.losses
    assert not any(weight.requires_grad for weight in wanted.network.parameters())
    with pytest.raises(ValueError, match="probabilities must be of 160 samples, got 161"):
        min_max_loss(torch.ones(161, 4), find_neighborhood(points))


@pytest.mark.parametrize(
    ("points", "options", "words"),
    [
        (torch.zeros(20, 2), {"near": 0}, "near must be a positive integer"),
        (torch.zeros(20, 2), {"far": 1.0}, "far between 0 and 1"),
        (torch.zeros(20, 2), {"near": 3}, "20 samples cannot each have 3 near and 18 far others"),
        (torch.zeros(20, 2, dtype=torch.int64), {}, "must be \\(N, ...\\), floating point and finite"),
        (torch.full((20, 2), math.nan), {}, "must be \\(N, ...\\), floating point and finite"),
        (torch.zeros(20, 2), {"num_clusters": 1}, "num_clusters must be an integer of 2 or above"),
        (torch.zeros(20, 2), {"restarts": 0}, "restarts must be an integer of 1 or above, got 0"),
        (torch.zeros(20, 2), {"entropy_weight": -1.0}, "entropy_weight must be 0 or above .* got -1.0 and 0.01"),
        (torch.zeros(20, 2), {"learning_rate": 0.0}, "both finite"),
        (torch.rand(40, 2), {"learning_rate": 1e30, "near": 2, "steps": 3}, "the loss is nan after 3 steps"),
    ],
)
def test_arguments_out_of_range_are_refused(points: Tensor, options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cluster(points, **({"num_clusters": 4} | options))  # type: ignore[arg-type]


def test_equal_features_are_not_an_error() -> None:
    found = cluster(torch.ones(40, 3), 3, near=2, steps=3, restarts=1)
    assert math.isfinite(found.losses[0])
