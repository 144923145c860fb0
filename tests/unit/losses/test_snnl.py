"""The loss itself: values compared with the loops, closed forms, invariances, precisions and invalid arguments."""

from __future__ import annotations

import functools
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.batches import INTEGERS, NAMES, make_batch
from reference.snnl_loops import distances_loop, mean_distance_loop, mean_loss_loop, snnl_loop
from torch import Tensor
from torch.testing import assert_close

from snngan import OptimalTemperature, RelativeTemperature, SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from snngan.losses.pairwise import DISTANCES, build_pairwise_batch
from snngan.losses.temperature import TemperatureLike
from snngan.losses.triplet import triplet_loss

pytestmark = pytest.mark.usefixtures("backend")
FACTORS = [10.0**exponent for exponent in range(-3, 7)]
"""Temperatures, as multiples of the batch's mean distance."""


@functools.cache
def oracle(name: str, distance: str) -> tuple[float, list[tuple[float, float]]]:
    """Return the mean distance of a named batch, and (T, loss by the loops) for each of ``FACTORS``."""
    features, labels = make_batch(name)
    distances = distances_loop(features, distance)
    mean = mean_distance_loop(distances)
    values = []
    for factor in FACTORS:
        losses = list(snnl_loop(distances, labels, factor * mean).values())
        values.append((factor * mean, float(torch.stack(losses).mean()) if losses else 0.0))
    return mean, values


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_loss_agrees_with_the_loops(name: str, distance: Any) -> None:
    features, labels = make_batch(name)
    mean, values = oracle(name, distance)
    for temperature, expected in values:
        value = soft_nearest_neighbor_loss(features, labels, temperature, distance)
        assert value.shape == ()
        assert value.dtype == torch.float32
        # The Gram matrix rounds each distance by about 1e-16 of the squared norms, which are 1 for the cosine.
        rounding = 1e-15 * (mean if distance == "sqeuclidean" else 1.0) / temperature
        # Sums and logarithms round to float32, distances do not.
        tolerance = 1e-5 * expected + 4e-8 * mean / temperature + 1e-6 + rounding
        assert abs(value.item() - expected) <= tolerance, f"T = {temperature / mean:g} times the mean distance"

        value = soft_nearest_neighbor_loss(features.double(), labels, temperature, distance)
        assert value.dtype == torch.float64
        # torch's softplus(z) is z above 20, an error of 2e-9.
        assert abs(value.item() - expected) <= 3e-9 + 1e-12 * expected + rounding


@pytest.mark.parametrize("temperature", [0.5, 3.0, 100.0])
def test_four_corners_of_a_rectangle(temperature: float) -> None:
    """From every corner the other one of the class is at squared distance 1, the others at 4 and 5."""
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
    expected = math.log1p(math.exp((1 - 4) / temperature) + math.exp((1 - 5) / temperature))
    value = soft_nearest_neighbor_loss(features, torch.tensor([0, 0, 1, 1]), temperature, reduction="none")
    assert_close(value, torch.full((4,), expected), rtol=1e-5, atol=1e-7)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_infinite_temperature_counts_neighbors(classes: list[int]) -> None:
    labels = torch.tensor(classes)
    features = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    sizes = [classes.count(label) for label in classes]
    terms = [math.log((len(classes) - 1) / (size - 1)) for size in sizes if size > 1]
    expected = torch.tensor(sum(terms) / max(1, len(terms)))
    for temperature in (math.inf, RelativeTemperature(math.inf)):
        assert_close(soft_nearest_neighbor_loss(features, labels, temperature), expected, rtol=1e-6, atol=1e-7)


class TestInvariance:
    """Transformations that must not change the loss; in float64, so that only the loss itself rounds."""

    RULES: tuple[TemperatureLike, ...] = (RelativeTemperature(0.1), OptimalTemperature())

    @staticmethod
    def batch(seed: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return torch.randn(10, 4, generator=rng, dtype=torch.float64), torch.randint(0, 3, (10,), generator=rng)

    def same(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], *rules: TemperatureLike) -> None:
        for rule in rules:
            values = [soft_nearest_neighbor_loss(features, labels, rule) for features, labels in (first, second)]
            assert_close(*values, rtol=1e-9, atol=1e-11)

    @given(st.integers(0, 1000), st.permutations(range(10)), st.permutations(range(3)))
    def test_order_and_names_of_the_classes(self, seed: int, order: list[int], names: list[int]) -> None:
        features, labels = self.batch(seed)
        shuffled = features[order], torch.tensor(names)[labels[order]]
        self.same((features, labels), shuffled, 0.7, *self.RULES)
        losses = soft_nearest_neighbor_loss(features, labels, 0.7, reduction="none")
        assert_close(soft_nearest_neighbor_loss(*shuffled, 0.7, reduction="none"), losses[order])

    @given(st.integers(0, 1000), st.floats(-1e3, 1e3))
    def test_translation_and_rotation(self, seed: int, shift: float) -> None:
        features, labels = self.batch(seed)
        rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).double())
        self.same((features, labels), (features @ rotation + shift * torch.arange(4), labels), 0.7, *self.RULES)

    @given(st.integers(0, 1000), st.floats(1e-3, 1e3))
    def test_scale_of_features_and_temperature(self, seed: int, scale: float) -> None:
        features, labels = self.batch(seed)
        self.same((features, labels), (features * scale, labels), *self.RULES)
        values = [soft_nearest_neighbor_loss(features * s, labels, 0.7 * s**2) for s in (1.0, scale)]
        assert_close(*values, rtol=1e-9, atol=1e-11)

    @given(st.integers(0, 1000), st.floats(1e-3, 1e3))
    def test_cosine_ignores_lengths(self, seed: int, scale: float) -> None:
        features, labels = self.batch(seed)
        lengths = torch.rand(10, 1, generator=torch.Generator().manual_seed(seed)).double() + 0.1
        values = [soft_nearest_neighbor_loss(p, labels, 0.2, "cosine") for p in (features, features * lengths * scale)]
        assert_close(*values, rtol=1e-9, atol=1e-11)

    def test_trailing_dimensions_are_flattened(self) -> None:
        images = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(6) % 2
        for distance in DISTANCES:
            values = [soft_nearest_neighbor_loss(x, labels, 9.0, distance) for x in (images, images.flatten(1))]  # type: ignore[arg-type]
            assert_close(*values, rtol=0, atol=0)


def test_reductions_leave_out_samples_alone_in_their_class() -> None:
    features, labels = make_batch("singletons")
    anchors = torch.tensor([(labels == label).sum() > 1 for label in labels])
    losses = snnl_loop(distances_loop(features), labels, 2.0)
    expected = torch.tensor([float(losses.get(i, torch.tensor(0.0))) for i in range(len(labels))])
    values = {r: soft_nearest_neighbor_loss(features, labels, 2.0, reduction=r) for r in ("none", "sum", "mean")}  # type: ignore[arg-type]
    assert_close(values["none"], expected)
    assert (values["none"][~anchors] == 0).all()
    assert (values["none"][anchors] > 0).all()
    assert_close(values["sum"], expected.sum())
    assert_close(values["mean"], expected.sum() / anchors.sum())
    assert_close(values["mean"], mean_loss_loop(features, labels, 2.0).float())


def test_the_module_counts_anchors() -> None:
    criterion = SoftNearestNeighborLoss(2.0)
    for name in NAMES:
        features, labels = make_batch(name)
        assert_close(criterion(features, labels), soft_nearest_neighbor_loss(features, labels, 2.0), rtol=0, atol=0)
        num_anchors = len(snnl_loop(distances_loop(features[:, :1]), labels, 1.0))
        assert (int(criterion.num_anchors), int(criterion.num_left_out)) == (num_anchors, len(labels) - num_anchors)
    assert "sqeuclidean" in repr(criterion)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    "rule",
    [1.0, math.inf, "optimal", "learned", RelativeTemperature(0.1, 1.0)],
    ids=["1", "inf", "opt", "learn", "mix"],
)
@pytest.mark.parametrize("shape", [(0, 3), (0, 1, 2, 2), (1, 3), (2, 3), (5, 3)])
def test_a_batch_without_anchors_has_no_loss_and_no_gradient(
    shape: tuple[int, ...], rule: TemperatureLike, distance: Any
) -> None:
    criterion = SoftNearestNeighborLoss(rule, distance)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = criterion(features, torch.arange(shape[0]))
    value.backward()
    assert value.item() == 0
    assert value.shape == ()
    assert features.grad is not None
    assert features.grad.shape == shape
    assert not features.grad.any()
    assert (int(criterion.num_anchors), int(criterion.num_left_out)) == (0, shape[0])


def loose_classes() -> tuple[Tensor, Tensor]:
    """Return features (12, 30) of three classes whose optimal T is finite, and their labels."""
    labels = torch.arange(12) % 3
    means = torch.randn(3, 30, generator=torch.Generator().manual_seed(1))
    return 0.5 * means[labels] + torch.randn(12, 30, generator=torch.Generator().manual_seed(0)), labels


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rule", [20.0, "optimal", RelativeTemperature(0.1)], ids=["20", "optimal", "relative"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_features_and_autocast_give_the_loss_of_float32(
    dtype: torch.dtype, rule: TemperatureLike, distance: Any
) -> None:
    features, labels = loose_classes()
    narrow = features.to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    expected = soft_nearest_neighbor_loss(wide, labels, rule, distance)
    expected.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = soft_nearest_neighbor_loss(narrow, labels, rule, distance)
        value.backward()
    assert value.dtype == torch.float32
    assert_close(value, expected, rtol=0, atol=0)
    assert wide.grad.any()
    assert_close(narrow.grad, wide.grad.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dims", [1, 30])
def test_nan_stays_nan(dims: int) -> None:
    features, labels = torch.arange(4.0)[:, None].repeat(1, dims), torch.arange(4) % 2
    features[0, 0] = math.nan
    for rule in (1.0, "optimal", "learned", RelativeTemperature(0.1)):
        assert soft_nearest_neighbor_loss(features, labels, rule).isnan()


X, Y = torch.zeros(4, 2), torch.arange(4) % 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4), Y), r"features must be floating point of two dimensions .* or more, got float32 \(4,\)"),
        ((X.numpy(), Y), r"features must be a tensor \(N, ...\), got ndarray"),
        ((X, ["a"] * 4), r"labels must be integers \(4,\), got list: .*"),
        ((X.long(), Y), r"features must be floating point of two dimensions \(N, D\) or more, got int64 \(4, 2\)"),
        ((X, Y[:3]), r"labels must be integers \(4,\), one per sample, got int64 \(3,\)"),
        ((X, Y[:, None]), r"labels must be integers \(4,\), one per sample, got int64 \(4, 1\)"),
        ((X, Y.float()), r"labels must be integers \(4,\), one per sample, got float32 \(4,\)"),
        ((X, Y, 0.0), "temperature must be above 0, got 0.0"),
        ((X, Y, -1), "temperature must be above 0, got -1"),
        ((X, Y, math.nan), "temperature must be above 0, got nan"),
        ((X, Y, "optimum"), "temperature must be a number .* got 'optimum'"),
        ((X, Y, None), "temperature must be a number .* got None"),
        ((X, Y, 1.0, "l1"), "distance must be one of sqeuclidean, cosine, got 'l1'"),
        ((X, Y, 1.0, "cosine", "avg"), "reduction must be one of mean, sum, none, got 'avg'"),
        ((X, Y, 1.0, "cosine", "sum", "fast"), "backend must be one of .*, got 'fast'"),
    ],
)
def test_invalid_argument_is_refused_in_one_line(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}\Z"):  # "." matches no line break
        soft_nearest_neighbor_loss(*arguments)
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        SoftNearestNeighborLoss(*arguments[2:])(*arguments[:2])


@pytest.mark.parametrize("dtype", [list, *INTEGERS])
def test_labels_may_be_integers_of_any_type(dtype: Any) -> None:
    features, labels = torch.randn(24, 6), torch.arange(24) % 2
    given = labels.tolist() if dtype is list else labels.to(dtype)
    for loss in (partial(soft_nearest_neighbor_loss, temperature="optimal"), triplet_loss):
        assert_close(loss(features, given), loss(features, labels))


def test_a_zero_vector_has_cosine_distance_1_to_all() -> None:
    features = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1], [1, 1]], requires_grad=True)
    cosines = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    distances = build_pairwise_batch(features, torch.tensor([0, 1, 0, 1, 1]), "cosine").distances
    different = ~torch.eye(5, dtype=torch.bool)
    assert torch.allclose(distances[different], (1 - cosines.detach().double())[different])
    soft_nearest_neighbor_loss(features, torch.tensor([0, 1, 0, 1, 1]), 0.1, "cosine").backward()
    assert features.grad is not None and float(features.grad.abs().max()) < 100
