"""The gradient of the loss, compared with the loops and with finite differences; it is never NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from reference.batches import NAMES, make_batch
from reference.snnl_loops import distances_loop, log_odds_loop, mean_distance_loop, snnl_loop
from torch import Tensor
from torch.testing import assert_close

from snngan import OptimalTemperature, RelativeTemperature, soft_nearest_neighbor_loss
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import DISTANCES, build_pairwise_batch, build_real_fake_batch
from snngan.losses.temperature import TemperatureLike

pytestmark = pytest.mark.usefixtures("backend")
FACTORS = [1e-3, 1e-2, 0.1, 1.0, 1e3, 1e6]
DTYPES = [torch.float32, torch.float64]


def gradient(features: Tensor, labels: Tensor, temperature: TemperatureLike, distance: Any = "sqeuclidean") -> Tensor:
    """Return the gradient of the mean loss by a copy of ``features``."""
    leaf = features.clone().requires_grad_()
    (slope,) = torch.autograd.grad(soft_nearest_neighbor_loss(leaf, labels, temperature, distance), leaf)
    return slope


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_agrees_with_the_loops(name: str, distance: Any, backend: str) -> None:
    features, labels = make_batch(name)
    leaf = features.double().requires_grad_()
    distances = distances_loop(leaf, distance)
    mean = mean_distance_loop(distances)
    for factor in FACTORS:
        losses = list(snnl_loop(distances, labels, factor * mean).values())
        expected = torch.zeros_like(leaf)
        if losses:
            (expected,) = torch.autograd.grad(torch.stack(losses).mean(), leaf, retain_graph=True)
        # The gradient sums weights * (x_i - x_j) / T, each rounded to float32 beside the size of the centered features;
        # unit vectors are not centered.
        radius = (features - features.mean(0)).norm(dim=1).max().item() if distance == "sqeuclidean" else 1.0
        length = features.norm(dim=1).min().item() if distance == "cosine" else 1.0
        # torch's softplus has slope 1 above 20, an error of 2e-9 in float64.
        for dtype, digits in ((torch.float32, 1e-7), (torch.float64, 1e-10)):
            found = gradient(features.to(dtype), labels, factor * mean, distance)
            assert found.dtype == dtype
            assert found.isfinite().all()
            tolerance = 20 * digits * expected.abs().max().item() + digits * radius / (factor * mean * length)
            if distance == "cosine":  # distances of unit vectors round by 1e-16, which 1/T magnifies
                tolerance += 1e-15 / (factor * mean) * expected.abs().max().item()
            if backend != "dense" and dtype == torch.float32:  # distances are in float32 too
                # The difference of two logarithms in the loops rounds too, which shows where the slopes vanish.
                loops = 1e-16 * radius / (factor * mean * length)
                tolerance = 1e-4 * expected.abs().max().item() + loops + 1e-30 if factor >= 0.01 else math.inf
            assert (found.double() - expected).abs().max().item() <= tolerance, f"{dtype}, T = {factor} x mean"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_finite_at_any_temperature(name: str, distance: Any, dtype: torch.dtype) -> None:
    features, labels = make_batch(name)
    rules: list[TemperatureLike] = [1e-20, 1e-6, 1.0, 1e9, math.inf, "optimal", "learned"]
    for rule in rules + [RelativeTemperature(factor) for factor in (1e-12, 1e-9, 1e-3, math.inf)]:
        assert gradient(features.to(dtype), labels, rule, distance).isfinite().all(), rule


def test_gradient_at_very_low_temperature() -> None:
    """At T near 0 each anchor has one term left, (d(nearest of its class) - d(nearest of another)) / T."""
    features, labels = torch.tensor([[0.0], [1.0], [1.5], [50.0]]), torch.tensor([0, 1, 0, 1])
    distances = [(0, 2, 1), (1, 3, 2), (2, 0, 1), (3, 1, 2)]  # anchor, nearest of its class, nearest of another
    leaf = features.double().requires_grad_()
    margins = [(leaf[a] - leaf[p]).square() - (leaf[a] - leaf[s]).square() for a, p, s in distances]
    (expected,) = torch.autograd.grad(torch.cat(margins).clamp_min(0).mean(), leaf)
    for temperature in (1e-4, 1e-8, 1e-12):
        found = gradient(features, labels, temperature)
        assert_close(found.double() * temperature, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ["random", "singletons", "separable", "duplicated"])
def test_fixed_temperature_passes_gradcheck(name: str, distance: Any, reduction: Any) -> None:
    features, labels = make_batch(name)
    leaf = features[:9].double().requires_grad_()
    mean = build_pairwise_batch(leaf, labels[:9], distance).mean_distance.item()
    for factor in (0.1, 2.0):
        check = torch.autograd.gradcheck(
            lambda x, t=factor * mean: soft_nearest_neighbor_loss(x, labels[:9], t, distance, reduction), leaf
        )
        assert check


def overlapping(distance: Any) -> tuple[Tensor, Tensor]:
    """Return features whose loss has its minimum at a finite T above 0, which gradcheck of that minimum requires."""
    labels = torch.arange(10) % 2
    features = torch.randn(10, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    features = features + 1.5 * labels[:, None]
    inverse = OptimalTemperature()(build_pairwise_batch(features, labels, distance))
    assert 0 < inverse.item() < 1e3
    assert soft_nearest_neighbor_loss(features, labels, "optimal", distance) > 0.1
    return features.requires_grad_(), labels


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_optimal_temperature_passes_gradcheck(distance: Any, reduction: Any) -> None:
    """The optimal T depends on the features, but adds nothing to the gradient (envelope theorem)."""
    features, labels = overlapping(distance)
    assert torch.autograd.gradcheck(
        lambda x: soft_nearest_neighbor_loss(x, labels, "optimal", distance, reduction), features
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_relative_temperature_has_no_gradient(distance: Any) -> None:
    features, labels = overlapping(distance)
    mean = build_pairwise_batch(features, labels, distance).mean_distance.item()
    for factor in (0.1, 1.0):
        found = gradient(features.detach(), labels, RelativeTemperature(factor), distance)
        assert_close(found, gradient(features.detach(), labels, factor * mean, distance), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("distance", DISTANCES)
def test_log_odds_agree_with_the_loops(distance: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(5, 3, generator=rng), torch.randn(7, 3, generator=rng) + 1
    labels = torch.tensor([0] * 5 + [1] * 7)
    weights = torch.randn(2, 12, generator=rng, dtype=torch.float64)
    results = []
    for dtype in DTYPES:
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in (real, fake)]
        batch = build_real_fake_batch(*leaves, distance)
        odds = log_odds(batch, torch.tensor([0.5, 3.0], dtype=torch.float64))
        slopes = torch.autograd.grad((odds * weights).sum(), leaves)
        results.append((odds.detach(), torch.cat(slopes).double()))
    leaf = torch.cat([real, fake]).double().requires_grad_()
    distances = distances_loop(leaf, distance)
    expected = torch.stack(
        [torch.stack(list(log_odds_loop(distances, labels, 1 / inverse).values())) for inverse in (0.5, 3.0)]
    )
    (slope,) = torch.autograd.grad((expected * weights).sum(), leaf)
    for (odds, found), tolerance in zip(results, (1e-5, 1e-11), strict=True):
        assert_close(odds, expected.detach(), rtol=tolerance, atol=tolerance)
        assert_close(found, slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dims", [3, 40])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_that_need_no_gradient_do_not_change_that_of_others(
    dtype: torch.dtype, distance: Any, dims: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(35, dims, generator=rng, dtype=dtype), torch.randn(7, dims, generator=rng, dtype=dtype) + 1
    inverses, slopes = torch.tensor([0.5, 3.0], dtype=torch.float64), []
    for wanted in (True, False):
        leaf = fake.clone().requires_grad_()
        odds = log_odds(build_real_fake_batch(real.clone().requires_grad_(wanted), leaf, distance), inverses)
        slopes += torch.autograd.grad(odds.square().sum(), leaf)
    assert slopes[0].any()
    assert_close(slopes[1], slopes[0])
    batch = build_pairwise_batch(torch.cat([real, fake]).requires_grad_(), torch.arange(42) % 3, distance)
    slopes = []
    for rows in (slice(0, 42), slice(9, 30), slice(42, 42)):
        odds = log_odds(replace(batch, needs_grad=rows), 1 / batch.mean_distance.reshape(1))
        (slope,) = torch.autograd.grad(odds.square().sum(), batch.features, retain_graph=True)
        slopes.append(slope)
        assert_close(slope[rows], slopes[0][rows])
        assert not slope[: rows.start].any() and not slope[rows.stop :].any()


Loss = Callable[[Tensor], Tensor]


def first(loss: Loss, features: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(loss(features), features, create_graph=True)
    return slope


def through_a_network(loss: Loss, features: Tensor) -> None:
    weight = torch.eye(features.shape[1], dtype=features.dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(features.detach() @ weight), weight, create_graph=True)
    torch.autograd.grad(slope.square().sum(), weight)


def by_the_incoming_gradient(loss: Loss, features: Tensor) -> None:
    factor = torch.ones((), dtype=features.dtype, requires_grad=True)
    torch.autograd.grad(first(lambda x: factor * loss(x), features).sum(), factor, allow_unused=True)


def by_forward_mode(loss: Loss, features: Tensor) -> None:
    with torch.autograd.forward_ad.dual_level():
        loss(torch.autograd.forward_ad.make_dual(features.detach(), torch.ones_like(features)))


SECOND_DERIVATIVES: dict[str, Callable[[Loss, Tensor], Any]] = {
    "backward": lambda loss, x: first(loss, x).square().sum().backward(),
    "backward into inputs": lambda loss, x: first(loss, x).square().sum().backward(inputs=[x]),
    "grad": lambda loss, x: torch.autograd.grad(first(loss, x).sum(), x, allow_unused=True),
    "through a network": through_a_network,
    "incoming gradient": by_the_incoming_gradient,
    "hessian": torch.autograd.functional.hessian,
    "vectorized hessian": partial(torch.autograd.functional.hessian, vectorize=True),
    "jvp": lambda loss, x: torch.autograd.functional.jvp(loss, x, torch.ones_like(x)),
    "forward mode": by_forward_mode,
    "func": lambda loss, x: torch.func.hessian(loss)(x),
}
REFUSED = r"no second derivatives|forward mode AD|functorch"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch imports it for forward mode
@pytest.mark.parametrize("way", SECOND_DERIVATIVES)
@pytest.mark.parametrize("rule", [1.0, "optimal", RelativeTemperature(0.1, 1.0)], ids=["1", "optimal", "relative"])
def test_second_derivatives_are_refused(rule: TemperatureLike, way: str) -> None:
    features, labels = make_batch("random")
    features, inverse = features.double().requires_grad_(), torch.ones(1, dtype=torch.float64)
    for loss in (
        lambda given: soft_nearest_neighbor_loss(given, labels, rule),
        lambda given: log_odds(build_pairwise_batch(given, labels), inverse).sum(),  # its incoming gradient is constant
    ):
        with pytest.raises((RuntimeError, NotImplementedError), match=REFUSED):
            SECOND_DERIVATIVES[way](loss, features)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e10, 1e19, 1e38])
@pytest.mark.parametrize(
    "rule", ["optimal", "learned", "absolute", RelativeTemperature(0.1), RelativeTemperature(1e-3, 1.0)]
)
def test_the_scale_of_the_features_does_not_matter(rule: TemperatureLike, scale: float) -> None:
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.rand(60, 4, generator=rng) * 2 - 1, torch.arange(60) % 4
    features[:, 0] = 0.7 * features[:, 0] + 0.1 * labels
    plain, scaled = (0.1, 0.1 * scale**2) if rule == "absolute" else (rule, rule)
    expected = soft_nearest_neighbor_loss(features.double(), labels, plain)
    assert_close(soft_nearest_neighbor_loss(features * scale, labels, scaled).double(), expected, rtol=1e-3, atol=1e-5)
    if scale >= 1e-30:  # below, the gradient, about 1 / scale, overflows float32
        slope = gradient(features.double(), labels, plain)
        found = gradient(features * scale, labels, scaled).double() * scale
        assert_close(found, slope, rtol=1e-2, atol=1e-3 * slope.abs().max().item())


@pytest.mark.parametrize("precision", ["medium", "bf16", "tf32"])
def test_less_precise_products_outside_change_nothing(precision: str) -> None:
    newer: Any = getattr(torch.backends.mkldnn, "matmul", None)  # from torch 2.9
    read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    if precision != "medium":
        if newer is None:
            pytest.skip("torch has no such switch")
        read, write = (lambda: newer.fp32_precision), partial(setattr, newer, "fp32_precision")
    features, labels = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    before, expected = read(), gradient(features, labels, 1.0)
    try:
        write(precision)
        assert torch.equal(gradient(features, labels, 1.0), expected)
        assert read() == precision
    finally:
        write(before)
