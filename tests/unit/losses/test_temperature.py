"""The rules that choose T: formulas, state, and the texts and numbers that name them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.batches import make_batch
from reference.snnl_loops import losses_at
from torch import Tensor, nn
from torch.testing import assert_close

from snngan import (
    AnnealedTemperature,
    FixedTemperature,
    LearnedTemperature,
    OptimalTemperature,
    RelativeTemperature,
    SoftNearestNeighborLoss,
    soft_nearest_neighbor_loss,
)
from snngan.losses.pairwise import PairwiseBatch, build_pairwise_batch
from snngan.losses.temperature import Temperature, TemperatureLike, as_temperature, parse_temperature

FEATURES = torch.tensor([[0.0], [1.0], [3.0], [4.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1])
BATCH = build_pairwise_batch(FEATURES, LABELS)
MEAN = (1 + 9 + 4.5**2 + 4 + 3.5**2 + 1.5**2) / 6
RULES = {
    "FixedTemperature(50)": FixedTemperature(50),
    "FixedTemperature(inf)": FixedTemperature(math.inf),
    "RelativeTemperature(0.1, 0.3)": RelativeTemperature(0.1, 0.3),
    "LearnedTemperature(0.1, step=0.1, current=nan)": LearnedTemperature(0.1),
    "AnnealedTemperature(1, final=0, period=100, power=0.55, relative=True, evaluations=0)": AnnealedTemperature(1.0),
    "OptimalTemperature()": OptimalTemperature(),
}
"""By what they show."""
EQUAL = build_pairwise_batch(torch.ones(4, 2), LABELS)


def inverse(*temperatures: float) -> Tensor:
    return 1 / torch.tensor(temperatures, dtype=torch.float64)


@pytest.mark.parametrize(("text", "rule"), RULES.items())
def test_every_rule_gives_finite_inverses_without_gradient(text: str, rule: Temperature) -> None:
    assert repr(rule) == text
    with_gradient = build_pairwise_batch(FEATURES.clone().requires_grad_(), LABELS)
    for batch in (BATCH, EQUAL, with_gradient, build_pairwise_batch(FEATURES, LABELS * 0)):
        found = copy.deepcopy(rule)(batch)
        assert found.dtype == torch.float64 and found.dim() == 1 and len(found) >= 1
        assert not found.requires_grad
        assert found.isfinite().all() and (found >= 0).all()


def test_relative() -> None:
    assert_close(BATCH.mean_distance, torch.tensor(MEAN, dtype=torch.float64))
    assert_close(RelativeTemperature(0.1)(BATCH), inverse(0.1 * MEAN), rtol=1e-14, atol=0)
    assert_close(RelativeTemperature(0.5, math.inf)(BATCH), inverse(0.5 * MEAN, math.inf), rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="at least one factor"):
        RelativeTemperature()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_several_factors_give_the_mean_of_their_losses(reduction: Any) -> None:
    features, labels = make_batch("singletons")
    factors = (0.03, 0.1, 1.0)
    losses = [
        soft_nearest_neighbor_loss(features, labels, RelativeTemperature(f), reduction=reduction) for f in factors
    ]
    mixed = soft_nearest_neighbor_loss(features, labels, RelativeTemperature(*factors), reduction=reduction)
    assert_close(mixed, torch.stack(losses).mean(0))


class TestAnnealed:
    def test_formula(self) -> None:
        rule = AnnealedTemperature(2.0, period=4.0, power=0.5)
        for evaluations in range(5):
            assert_close(rule(BATCH), inverse(2.0 / (1 + evaluations / 4) ** 0.5 * MEAN))
        absolute = AnnealedTemperature(2.0, final=1.5, period=4.0, power=0.5, relative=False)
        found = torch.cat([absolute(BATCH) for _ in range(10)])
        expected = [max(1.5, 2.0 / (1 + k / 4) ** 0.5) for k in range(10)]
        assert_close(found, inverse(*expected))
        assert expected[-1] == 1.5 < expected[1]

    def test_only_training_counts(self) -> None:
        rule = AnnealedTemperature(1.0).eval()
        assert_close(rule(BATCH), rule(BATCH), rtol=0, atol=0)
        assert int(rule.evaluations) == 0
        rule.train()
        assert rule(BATCH) < rule(BATCH)
        assert int(rule.evaluations) == 2


class TestLearned:
    def test_first_temperature(self) -> None:
        assert_close(LearnedTemperature(0.3)(BATCH), inverse(0.3 * MEAN))
        assert_close(LearnedTemperature(0.3).eval()(BATCH), inverse(0.3 * MEAN))

    @pytest.mark.parametrize("name", ["random", "sparse", "heavy_tailed", "outlier", "separable", "one_class"])
    @pytest.mark.parametrize("initial", [0.01, 0.1, 1.0, 30.0])
    def test_each_evaluation_is_one_step_of_descent(self, name: str, initial: float) -> None:
        features, labels = make_batch(name)
        batch = build_pairwise_batch(features.double(), labels)
        rule = LearnedTemperature(initial, step=0.05)
        before, after = rule(batch), rule(batch)
        around = before * torch.exp(torch.tensor([-1e-4, 1e-4], dtype=torch.float64))
        low, high = losses_at(batch.distances, labels, around)
        slope = (high - low) / 2e-4
        assert_close((after / before).log()[0], -0.05 * slope.clamp(-1, 1), rtol=1e-4, atol=1e-8)
        value = losses_at(batch.distances, labels, torch.cat([before, after]))
        assert value[1] < value[0] if abs(slope) > 1e-3 else value[1] <= value[0] + 1e-9

    @pytest.mark.parametrize("initial", [0.05, 1.0, 10.0])
    def test_repeated_steps_reach_a_minimum(self, initial: float) -> None:
        features, labels = make_batch("singletons")
        batch = build_pairwise_batch(features.double() + 2 * (labels == 0)[:, None], labels)
        rule = LearnedTemperature(initial)
        for _ in range(1500):
            reached = rule(batch)
        around = reached * torch.tensor([0.98, 1.0, 1.02], dtype=torch.float64)
        lower, reached_loss, higher = losses_at(batch.distances, labels, around)
        assert reached_loss < lower
        assert reached_loss < higher

    def test_it_stays_within_its_bounds(self) -> None:
        separate = build_pairwise_batch(*make_batch("separable"))
        rule = LearnedTemperature(1.0, step=1.0, low=0.5, high=2.0)
        found = torch.cat([rule(separate) for _ in range(50)]) * separate.mean_distance
        assert_close(found[-1].item(), 2.0) and (found >= 0.5).all()
        repelling = build_pairwise_batch(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 1, 0, 1]))
        rule = LearnedTemperature(1.0, step=1.0, low=0.5, high=2.0)
        found = torch.cat([rule(repelling) for _ in range(50)]) * repelling.mean_distance
        assert_close(found[-1].item(), 0.5)
        # The bounds are relative to the batch at hand.
        larger = build_pairwise_batch(torch.tensor([[0.0], [100.0], [1000.0], [1100.0]]), torch.tensor([0, 1, 0, 1]))
        assert 0.5 - 1e-9 <= rule(larger).item() * larger.mean_distance.item() <= 2.0 + 1e-9

    @pytest.mark.parametrize(
        "options", [{"initial": 0.0}, {"step": -1.0}, {"low": 0.0}, {"low": 2.0, "high": 1.0}, {"high": math.nan}]
    )
    def test_invalid_options_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be"):
            LearnedTemperature(**options)


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_relative_rules_follow_the_data(factor: float, size: float) -> None:
    larger = build_pairwise_batch(FEATURES * size, LABELS)
    for kind in (RelativeTemperature, AnnealedTemperature):
        assert_close(kind(factor)(larger) * size**2, kind(factor)(BATCH), rtol=1e-9, atol=0)


def absolute_of(rule: Temperature, batch: PairwiseBatch = BATCH) -> list[float]:
    return (1 / rule(batch)).tolist()


@pytest.mark.parametrize(
    ("text", "kind", "temperatures"),
    [
        ("0.1", RelativeTemperature, [0.1 * MEAN]),
        ("1e-2", RelativeTemperature, [0.01 * MEAN]),
        ("inf", RelativeTemperature, [math.inf]),
        ("0.05+0.2", RelativeTemperature, [0.05 * MEAN, 0.2 * MEAN]),
        ("absolute:50", FixedTemperature, [50.0]),
        ("annealed:2", AnnealedTemperature, [2 * MEAN]),
        ("annealed:2:10", AnnealedTemperature, [2 * MEAN]),
        ("annealed-absolute:3:10", AnnealedTemperature, [3.0]),
        ("learned:0.3", LearnedTemperature, [0.3 * MEAN]),
        ("learned", LearnedTemperature, [MEAN]),
        ("optimal", OptimalTemperature, None),
    ],
)
def test_texts(text: str, kind: type[Temperature], temperatures: list[float] | None) -> None:
    rule = parse_temperature(text)
    assert type(rule) is kind
    if temperatures is not None:
        assert absolute_of(rule) == pytest.approx(temperatures)


@pytest.mark.parametrize(
    ("text", "period", "first"),
    [("annealed:2", 100, 2 * MEAN), ("annealed:2:10", 10, 2 * MEAN), ("annealed-absolute:3:10", 10, 3.0)],
)
def test_period_of_a_text(text: str, period: float, first: float) -> None:
    rule = parse_temperature(text)
    temperatures = [absolute_of(rule)[0] for _ in range(11)]
    assert temperatures[10] == pytest.approx(first / (1 + 10 / period) ** 0.55)


@pytest.mark.parametrize(
    "text",
    ["", " ", "warm", "0", "-1", "nan", "0.1+", "0.1+0", "0.1,0.2", "absolute", "absolute:", "absolute:0",
     "absolute:1+2", "annealed:-1", "annealed:1:0", "annealed:1:2:3",
     "annealed:", "annealed:1:", "learned:x", "learned:1:2", "optimal:1", "Optimal",
     "1e-16", "0.1+1e-16", "absolute:1e-300", "learned:1e-20", "annealed:1e-20:5"]
)  # fmt: skip
def test_invalid_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^temperature must be .* absolute:T, .* or optimal, got .*\Z") as caught:
        parse_temperature(text)
    assert repr(text) in str(caught.value)


def test_as_temperature() -> None:
    rule = RelativeTemperature(0.1)
    assert as_temperature(rule) is rule
    assert absolute_of(as_temperature(3)) == [3.0]
    assert absolute_of(as_temperature(math.inf)) == [math.inf]
    assert type(as_temperature("learned")) is LearnedTemperature
    assert type(as_temperature("optimal")) is OptimalTemperature
    wrong: list[Any] = ["0.1", "optimum", 0, -1.0, math.nan, None, [1.0]]
    for value in wrong:
        with pytest.raises(ValueError, match=r"^temperature must be .* got .*\Z"):
            as_temperature(value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("kind", [FixedTemperature, RelativeTemperature, AnnealedTemperature, LearnedTemperature])
def test_temperatures_must_be_above_0(kind: Any, value: float) -> None:
    with pytest.raises(ValueError, match=rf"temperature must be above 0, got {value}"):
        kind(value)


@pytest.mark.parametrize("rule", ["learned", AnnealedTemperature(1.0)])
@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, lambda module: module.to(torch.float16)])
def test_neither_casts_nor_saving_change_the_state_of_a_temperature(
    cast: Callable[[nn.Module], nn.Module], rule: TemperatureLike
) -> None:
    features, labels = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    features += labels[:, None]
    plain, changed = (SoftNearestNeighborLoss(copy.deepcopy(as_temperature(rule))) for _ in range(2))
    values = []
    for step in range(6):
        if step in (2, 4):
            loaded = SoftNearestNeighborLoss(copy.deepcopy(as_temperature(rule)))
            loaded.load_state_dict(cast(changed).state_dict())
            changed = loaded
        values.append(float(plain(features, labels)))
        assert float(changed(features, labels)) == values[-1]
    assert len(set(values)) == 6  # it changes
    state = copy.deepcopy(changed.state_dict())
    assert changed.eval()(features, labels) == changed(features, labels)
    assert_close(changed.state_dict(), state, rtol=0, atol=0)
