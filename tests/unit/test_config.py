"""Options: ranges, choices, defaults and texts; configs as values, texts and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snngan.config import (
    MAX_SEEDS,
    ClassifyConfig,
    TrainConfig,
    check_options,
    field_type,
    make_config,
    option,
    option_names,
    parse_seeds,
    parse_settings,
    parse_value,
    range_text,
    with_default,
)
from snngan.models import ARCHITECTURES, CLASSIFIERS
from snngan.objectives import OBJECTIVES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    count: int = option(3, "number of samples", low=1, high=9)
    rate: float = option(0.5, "learning rate", low=0)
    limit: float | None = option(None, "largest value", high=2)
    pair: tuple[float, float] = option((0.1, 0.2), "first and last value", low=0, high=1)
    sizes: tuple[int, ...] = option((1,), "sizes of the layers", low=1)
    mode: str = option("fast", "algorithm", choices=("fast", "exact"))
    quick: bool = option(False, "shorter run")
    free: float = option(0.0, "any number")
    gap: int = option(5, "number of steps", low=1, deferred=True)
    plain: int = 7

    def __post_init__(self) -> None:
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other(Sample):
    count: int = with_default(Sample, "count", 4)


@pytest.mark.parametrize(
    "values",
    [
        {}, {"count": 1}, {"count": 9}, {"rate": 0.0}, {"rate": 1e300}, {"limit": None}, {"limit": -1e9}, {"gap": None},
        {"limit": 2}, {"pair": (0, 1)}, {"mode": "exact"}, {"quick": True}, {"free": -1e300}, {"plain": -5},
        {"sizes": (1, 2, 3)},
    ],
)  # fmt: skip
def test_closed_ranges_contain_their_ends(values: dict[str, Any]) -> None:
    sample = Sample(**values)
    assert all(getattr(sample, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, r"count must be in \[1, 9\], got 0"),
        ({"count": 10}, r"count must be in \[1, 9\], got 10"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": None}, "count must be a whole number, got None"),
        ({"count": 1 << 64}, r"count must be in \[1, 9\] and below 2\^63"),
        ({"rate": "0.5"}, "rate must be a number, got '0.5'"),
        ({"rate": math.inf}, r"rate must be in \[0, inf\), got inf"),
        ({"rate": -0.001}, r"rate must be in \[0, inf\), got -0.001"),
        ({"rate": math.nan}, r"rate must be in \[0, inf\), got nan"),
        ({"limit": 2.5}, r"limit must be in \(-inf, 2\], got 2.5"),
        ({"pair": (0.5, 1.5)}, r"pair must be in \[0, 1\], got 1.5"),
        ({"pair": (-0.5, 0.5)}, r"pair must be in \[0, 1\], got -0.5"),
        ({"pair": (0.5,)}, r"pair must be two comma-separated numbers, got \(0.5,\)"),
        ({"pair": [0.5, 0.6]}, r"pair must be two comma-separated numbers, got \[0.5, 0.6\]"),
        ({"sizes": (1, 0)}, r"sizes must be in \[1, inf\), got 0"),
        ({"sizes": 3}, "sizes must be whole numbers with commas between, got 3"),
        ({"free": math.nan}, r"free must be in \(-inf, inf\), got nan"),
        ({"quick": 1}, "quick must be true or false, got 1"),
        ({"mode": 3}, "mode must be a text, got 3"),
        ({"mode": "fas"}, r"unknown value for mode 'fas'; did you mean 'fast'\? \(known: exact, fast\)"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        Sample(**values)


def test_ranges_as_text() -> None:
    limits = [(0, 1), (1, None), (None, 2), (None, None), (1e-6, 2**62)]
    texts = ["[0, 1]", "[1, inf)", "(-inf, 2]", "(-inf, inf)", "[1e-06, 4.61169e+18]"]
    assert [range_text({"low": low, "high": high}) for low, high in limits] == texts


def test_another_default_keeps_the_rest() -> None:
    assert (Sample().count, Other().count) == (3, 4)
    assert [dataclasses.fields(kind)[0].metadata["default"] for kind in (Sample, Other)] == [3, 4]
    with pytest.raises(ValueError, match=r"count must be in \[1, 9\], got 0"):
        Other(count=0)
    assert option_names(Other) == option_names(Sample)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4), ("count", " 4 ", 4), ("rate", "1e-3", 0.001), ("rate", "2", 2.0), ("limit", "-1", -1.0),
        ("pair", "0.5,0.999", (0.5, 0.999)), ("pair", "0, 1", (0.0, 1.0)), ("mode", "exact", "exact"),
        ("quick", "true", True), ("quick", "No", False), ("quick", "1", True), ("quick", "0", False),
        ("sizes", "3", (3,)), ("sizes", "3,4,5", (3, 4, 5)),
    ],
)  # fmt: skip
def test_texts_are_read_as_the_type_of_the_option(name: str, text: str, value: Any) -> None:
    found = parse_value(Sample, name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "4.5", "a whole number"),
        ("count", "", "a whole number"),
        ("rate", "fast", "a number"),
        ("limit", "1,5", "a number"),
        ("quick", "perhaps", "true or false"),
        ("pair", "0.5", "two comma-separated numbers"),
        ("pair", "0.1,0.2,0.3", "two comma-separated numbers"),
        ("pair", "a,b", "two comma-separated numbers"),
        ("sizes", "", "whole numbers with commas between"),
    ],
)
def test_texts_that_are_refused(name: str, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be {expected}, got {text!r}\Z"):
        parse_value(Sample, name, text)


@given(st.integers(), st.floats(allow_nan=False))
def test_numbers_survive_text(count: int, rate: float) -> None:
    assert parse_value(Sample, "count", str(count)) == count
    assert parse_value(Sample, "rate", str(rate)) == rate


def test_values_of_other_libraries_are_converted() -> None:
    values = {"count": np.int64(2), "rate": 1, "limit": np.float32(0.5), "pair": [0, np.float64(1)], "sizes": [3, 4]}
    config = make_config(Sample, values)
    assert (config.count, config.rate, config.limit, config.pair, config.sizes) == (2, 1.0, 0.5, (0.0, 1.0), (3, 4))
    assert [type(config.count), type(config.rate), type(config.limit)] == [int, float, float]
    assert make_config(TrainConfig, {"run_dir": Path("runs/a")}).run_dir == "runs/a"
    with pytest.raises(ValueError, match=r"^quick must be true or false, got 1"):
        make_config(Sample, {"quick": 1})
    with pytest.raises(ValueError, match=r"^unknown option 'cuont'; did you mean 'count'"):
        make_config(Sample, {"cuont": 1})


def test_settings() -> None:
    owner_of = {"count": Sample, "mode": Other}
    assert parse_settings(["count=2", "mode=a=b"], owner_of) == {"count": 2, "mode": "a=b"}
    with pytest.raises(ValueError, match=r"^--set must be NAME=VALUE, got 'count'; --list-settings lists the names"):
        parse_settings(["count"], owner_of)
    with pytest.raises(ValueError, match=r"^unknown option of --set 'moed'; did you mean 'mode'"):
        parse_settings(["moed=fast"], owner_of)
    with pytest.raises(ValueError, match=r"^count must be a whole number, got 'two'"):
        parse_settings(["count=two"], owner_of)


@pytest.mark.parametrize(
    ("text", "seeds"), [("7", (7,)), ("0:4", (0, 1, 2, 3)), ("0,3,5", (0, 3, 5)), ("2:3", (2,)), ("5,0", (5, 0))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == ClassifyConfig(seeds=text).seed_list == seeds


@pytest.mark.parametrize("text", ["", "x", "3:1", "4:4", "1,1", "-1", "1,-2", "0:", "1.5"])
def test_seeds_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds must be 0:4"):
        parse_seeds(text)


def test_too_many_seeds_are_refused() -> None:
    assert len(parse_seeds(f"0:{MAX_SEEDS}")) == MAX_SEEDS
    with pytest.raises(ValueError, match="must be at most 1000 seeds, got 300000000"):
        parse_seeds("0:300000000")
    with pytest.raises(ValueError, match="--seed 7 and --seeds 0:2: give one of them"):
        TrainConfig(seed=7, seeds="0:2").seed_list  # noqa: B018


def test_deferred_options_take_a_recommended_value_or_the_default() -> None:
    config = TrainConfig(batch_size=32).fill_defaults({"steps": 7, "batch_size": 99})
    assert (config.steps, config.batch_size, config.optimizer, config.log_every) == (7, 32, "adam", 100)
    config = ClassifyConfig().fill_defaults()
    assert (config.steps, config.arch, config.log_every) == (5000, "cnn", 500)


OWNERS: list[Any] = [
    TrainConfig,
    ClassifyConfig,
    *(OBJECTIVES[name].Options for name in OBJECTIVES.names()),
    *(ARCHITECTURES[name] for name in ARCHITECTURES.names()),
    *(CLASSIFIERS[name] for name in CLASSIFIERS.names()),
]
ON_OPTIONS = pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(owner, name, id=f"{owner.__module__.rpartition('.')[2]}.{owner.__qualname__}.{name}")
        for owner in OWNERS
        for name in option_names(owner)
    ],
)


@ON_OPTIONS
def test_every_option_is_described_and_its_limits_are_enforced(owner: Any, name: str) -> None:
    field = next(each for each in dataclasses.fields(owner) if each.name == name)
    meta: Mapping[str, Any] = field.metadata
    assert meta["help"]
    assert field.kw_only
    assert field_type(owner, name) in (int, float, str, bool, tuple)
    owner(**{name: meta["default"]})
    for end, step in (("low", -1), ("high", 1)):
        limit = meta[end]
        if limit is not None and limit + step != limit:  # not so large a float
            value = (limit + step, limit + step) if field_type(owner, name) is tuple else limit + step
            with pytest.raises(ValueError, match=rf"^{name} must be in "):
                owner(**{name: value})
    if meta["choices"]:
        with pytest.raises(ValueError, match=f"^unknown value for {name} '-'"):
            owner(**{name: "-"})
