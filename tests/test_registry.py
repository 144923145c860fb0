"""The registry: what is found under a name, and what is said of a name that is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from snngan.registry import Registry, UnknownNameError, unknown_name


def test_entries_are_found_by_name_and_listed_in_order() -> None:
    shapes: Registry[int] = Registry("shape")
    assert shapes.names() == ()

    assert shapes.register("square")(4) == 4
    shapes.register("pentagon")(5)
    assert (shapes["square"], shapes["pentagon"]) == (4, 5)
    assert shapes.names() == ("pentagon", "square")


def test_register_decorates() -> None:
    makers: Registry[type] = Registry("maker")

    @makers.register("plain")
    class Plain:
        pass

    assert makers["plain"] is Plain


def test_registries_share_nothing() -> None:
    first: Registry[int] = Registry("first")
    second: Registry[int] = Registry("second")
    first.register("one")(1)
    assert second.names() == ()


def test_a_name_taken_twice_is_our_mistake() -> None:
    shapes: Registry[int] = Registry("shape")
    shapes.register("square")(4)
    with pytest.raises(AssertionError, match="shape 'square' is registered twice"):
        shapes.register("square")(5)
    assert shapes["square"] == 4


def test_an_unknown_name_gets_the_nearest_and_all() -> None:
    shapes: Registry[int] = Registry("shape")
    for name in ("square", "pentagon", "disc"):
        shapes.register(name)(0)
    with pytest.raises(
        UnknownNameError,
        match=r"^unknown shape 'sqare'; did you mean 'square'\? \(known: disc, pentagon, square\)$",
    ):
        shapes["sqare"]
    with pytest.raises(ValueError, match=r"^unknown shape 'xyz' \(known: disc, pentagon, square\)$"):
        shapes["xyz"]


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(ValueError, match=r"^unknown shape 'square' \(known: none\)$"):
        Registry("shape")["square"]
    assert str(unknown_name("color", "red", ["read", "green"])) == (
        "unknown color 'red'; did you mean 'read'? (known: green, read)"
    )


@pytest.mark.parametrize("look_up", ["names", "item", "unknown"])
def test_a_package_is_imported_on_the_first_look_up_alone(
    look_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a new entry is a new file, and nothing else."""
    package = tmp_path / f"shapes_{look_up}"
    package.mkdir()
    (package / "__init__.py").write_text("from snngan.registry import Registry\nSHAPES = Registry('shape', __name__)\n")
    (package / "flat.py").write_text(f"from {package.name} import SHAPES\nSHAPES.register('square')(4)\n")
    (package / "solid.py").write_text(f"from {package.name} import SHAPES\nSHAPES.register('cube')(6)\n")
    monkeypatch.syspath_prepend(tmp_path)
    shapes = __import__(package.name).SHAPES
    try:
        assert f"{package.name}.flat" not in sys.modules
        if look_up == "names":
            assert shapes.names() == ("cube", "square")
        elif look_up == "item":
            assert shapes["cube"] == 6
        else:
            with pytest.raises(ValueError, match="cube, square"):
                shapes["sphere"]
        assert f"{package.name}.flat" in sys.modules
        assert (shapes["square"], shapes.names()) == (4, ("cube", "square"))
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
            del sys.modules[name]
