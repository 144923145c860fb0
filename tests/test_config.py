"""Options: their ranges and choices, how their texts read, and that every one of them can be explained."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snngan.config import Optimization, TrainConfig, check_options, field_type, option, parse_value, range_text
from snngan.models import ARCHITECTURES
from snngan.objectives import OBJECTIVES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    count: int = option(3, "how many", low=1, high=9)
    rate: float = option(0.5, "how fast", low=0)
    limit: float | None = option(None, "how far", high=2)
    pair: tuple[float, float] = option((0.1, 0.2), "from and to", low=0, high=1)
    mode: str = option("fast", "in what way", choices=("fast", "exact"))
    quick: bool = option(False, "whether to hurry")
    free: float = option(0.0, "anything")
    plain: int = 7

    def __post_init__(self) -> None:
        check_options(self)


def test_an_option_keeps_default_help_and_group() -> None:
    field = option(3, "how many", low=1, high=9, group="Data", metavar="N")
    assert field.default == 3
    assert dict(field.metadata) == {
        "help": "how many", "low": 1, "high": 9, "choices": None, "group": "Data", "metavar": "N",
    }  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {}, {"count": 1}, {"count": 9}, {"rate": 0.0}, {"rate": 1e300}, {"limit": None}, {"limit": -1e9},
        {"limit": 2}, {"pair": (0, 1)}, {"mode": "exact"}, {"quick": True}, {"free": -1e300}, {"plain": -5},
    ],
)  # fmt: skip
def test_closed_ranges_hold_their_ends(values: dict[str, Any]) -> None:
    sample = Sample(**values)
    assert all(getattr(sample, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, r"count must lie in \[1, 9\], not 0"),
        ({"rate": math.inf}, r"rate must lie in \[0, inf\), not inf"),
        ({"count": 10}, r"count must lie in \[1, 9\], not 10"),
        ({"rate": -0.001}, r"rate must lie in \[0, inf\), not -0.001"),
        ({"rate": math.nan}, r"rate must lie in \[0, inf\), not nan"),
        ({"limit": 2.5}, r"limit must lie in \(-inf, 2\], not 2.5"),
        ({"pair": (0.5, 1.5)}, r"pair must lie in \[0, 1\], not 1.5"),
        ({"pair": (-0.5, 0.5)}, r"pair must lie in \[0, 1\], not -0.5"),
        ({"free": math.nan}, r"free must lie in .*, not nan"),
        ({"mode": "fas"}, r"unknown value for mode 'fas'; did you mean 'fast'\? \(known: exact, fast\)"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        Sample(**values)


@given(st.integers(-20, 20))
def test_a_range_is_what_its_text_says(count: int) -> None:
    assert range_text(dataclasses.fields(Sample)[0].metadata) == "[1, 9]"
    if 1 <= count <= 9:
        Sample(count=count)
    else:
        with pytest.raises(ValueError, match=f"not {count}$"):
            Sample(count=count)


def test_ranges_as_text() -> None:
    limits = [(0, 1), (1, None), (None, 2), (None, None), (1e-6, 2**62)]
    texts = ["[0, 1]", "[1, inf)", "(-inf, 2]", "(-inf, inf)", "[1e-06, 4.61169e+18]"]
    assert [range_text({"low": low, "high": high}) for low, high in limits] == texts


def test_field_types() -> None:
    kinds = {name: field_type(Sample, name) for name in ("count", "rate", "limit", "pair", "mode", "quick")}
    assert kinds == {"count": int, "rate": float, "limit": float, "pair": tuple, "mode": str, "quick": bool}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4), ("count", " 4 ", 4), ("rate", "1e-3", 0.001), ("rate", "2", 2.0), ("limit", "-1", -1.0),
        ("pair", "0.5,0.999", (0.5, 0.999)), ("pair", "0, 1", (0.0, 1.0)), ("mode", "exact", "exact"),
        ("quick", "true", True), ("quick", "No", False), ("quick", "1", True), ("quick", "0", False),
    ],
)  # fmt: skip
def test_texts_read_as_their_type(name: str, text: str, value: Any) -> None:
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
        ("pair", "0.5", "two numbers with a comma between"),
        ("pair", "0.1,0.2,0.3", "two numbers with a comma between"),
        ("pair", "a,b", "two numbers with a comma between"),
    ],
)
def test_texts_that_do_not_read(name: str, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} takes {expected}, not {text!r}\Z"):
        parse_value(Sample, name, text)


@given(st.integers(), st.floats(allow_nan=False))
def test_numbers_come_back_from_their_text(count: int, rate: float) -> None:
    assert parse_value(Sample, "count", str(count)) == count
    assert parse_value(Sample, "rate", str(rate)) == rate


OWNERS: list[Any] = [
    TrainConfig,
    Optimization,
    *(OBJECTIVES[name] for name in OBJECTIVES.names()),
    *(ARCHITECTURES[name] for name in ARCHITECTURES.names()),
]


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_every_option_is_explained_and_its_default_allowed(owner: Any) -> None:
    instance = owner()  # checks the defaults
    for field in dataclasses.fields(owner):
        if not field.init:
            continue
        assert field.kw_only
        assert field.metadata["help"], field.name
        assert field_type(owner, field.name) in (int, float, str, bool, tuple), field.name
        if field.metadata["choices"]:
            assert getattr(instance, field.name) in field.metadata["choices"]


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_every_limit_is_enforced(owner: Any) -> None:
    for field in dataclasses.fields(owner):
        meta = field.metadata
        beyond = [meta[end] + step for end, step in (("low", -1), ("high", 1)) if meta and meta[end] is not None]
        for value in beyond if field.init else []:
            given = (value, value) if field_type(owner, field.name) is tuple else value
            if value == value - 1:  # too large a float to step beyond
                continue
            with pytest.raises(ValueError, match=rf"^{field.name} must lie in "):
                owner(**{field.name: given})
        if field.init and meta["choices"]:
            with pytest.raises(ValueError, match=f"^unknown value for {field.name} '-'"):
                owner(**{field.name: "-"})


def test_what_the_command_line_and_training_share_has_one_range() -> None:
    """A flag of ``snngan train`` that stands for an option of training takes just the values that training takes."""
    training = {field.name: field for field in dataclasses.fields(Optimization)}
    shared = [field for field in dataclasses.fields(TrainConfig) if field.name in training]
    assert shared
    for field in shared:
        other = training[field.name].metadata
        limits = (other["low"], other["high"], other["choices"])
        assert (field.metadata["low"], field.metadata["high"], field.metadata["choices"]) == limits, field.name
        assert field.default is None, "the objective's own choice holds where the user says nothing"
        assert field_type(TrainConfig, field.name) is field_type(Optimization, field.name)
