"""Names: found in a package, in installed plugins and in modules that the user names, and nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reference.runs import gan_config, new_run

from snngan.config import Config
from snngan.data import Dataset
from snngan.objectives import OBJECTIVES
from snngan.registry import Registry, UnknownNameError, import_module, load_plugins, unknown_name
from snngan.training.run_folder import open_run

OBJECTIVE = """
from snngan.objectives import OBJECTIVES, Objective

@OBJECTIVES.register({name!r})
class Mean(Objective):
    "Pulls the discriminator's outputs apart."
    def discriminator_loss(self, discriminator, real, fake):
        return discriminator(fake).mean() - discriminator(real).mean()
    def generator_loss(self, discriminator, real, fake):
        return -discriminator(fake).mean()
"""


@pytest.fixture(autouse=True)
def restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test its own folder, and forget the modules and objectives that it adds."""
    monkeypatch.chdir(tmp_path)
    OBJECTIVES.names()
    modules, entries = set(sys.modules), dict(OBJECTIVES._entries)
    yield
    OBJECTIVES._entries.clear()
    OBJECTIVES._entries.update(entries)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_entries_are_found_by_name_and_listed_in_order() -> None:
    shapes: Registry[int] = Registry("shape")
    assert shapes.names() == ()
    assert shapes.register("square")(4) == 4
    shapes.register("pentagon")(5)
    assert (shapes["square"], shapes["pentagon"]) == (4, 5)
    assert shapes.names() == ("pentagon", "square")
    assert Registry("other").names() == ()


def test_a_name_that_is_taken_twice_is_refused() -> None:
    shapes: Registry[int] = Registry("shape")
    shapes.register("square")(4)
    with pytest.raises(ValueError, match=r"^shape 'square' is registered twice: by 4 and 5$"):
        shapes.register("square")(5)
    assert shapes["square"] == 4


def test_an_unknown_name_gets_the_nearest_and_all() -> None:
    shapes: Registry[int] = Registry("shape")
    with pytest.raises(UnknownNameError, match=r"^unknown shape 'square' \(known: none\)$"):
        shapes["square"]
    for name in ("square", "pentagon", "disc"):
        shapes.register(name)(0)
    message = r"^unknown shape 'sqare'; did you mean 'square'\? \(known: disc, pentagon, square\)$"
    with pytest.raises(UnknownNameError, match=message):
        shapes["sqare"]
    with pytest.raises(UnknownNameError, match=r"^unknown shape 'xyz' \(known: disc, pentagon, square\)$"):
        shapes["xyz"]
    assert "did you mean 'Read'?" in str(unknown_name("color", "red", ["Read", "green"]))


@pytest.mark.parametrize("look_up", ["names", "item", "unknown"])
def test_a_package_is_imported_at_the_first_look_up(
    look_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a new entry is a new file, and nothing else."""
    package = tmp_path / f"shapes_{look_up}"
    package.mkdir()
    (package / "__init__.py").write_text("from snngan.registry import Registry\nSHAPES = Registry('shape', __name__)\n")
    for module, name, sides in (("flat", "square", 4), ("solid", "cube", 6)):
        (package / f"{module}.py").write_text(
            f"from {package.name} import SHAPES\nSHAPES.register({name!r})({sides})\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    shapes = __import__(package.name).SHAPES
    assert f"{package.name}.flat" not in sys.modules
    if look_up == "names":
        assert shapes.names() == ("cube", "square")
    elif look_up == "item":
        assert shapes["cube"] == 6
    else:
        with pytest.raises(ValueError, match="cube, square"):
            shapes["sphere"]
    assert (shapes["square"], shapes.names()) == (4, ("cube", "square"))


@pytest.mark.parametrize("name", ["my_losses", "my_losses.py", "inside/my_losses.py", "my_package.losses"])
def test_a_module_of_the_user_is_imported(tmp_path: Path, name: str) -> None:
    path = tmp_path / (name if name.endswith(".py") else name.replace(".", "/") + ".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(OBJECTIVE.format(name="mean"))
    search_path = list(sys.path)
    for _ in range(2):  # once is enough
        import_module(name)
    assert "mean" in OBJECTIVES.names()
    assert OBJECTIVES["mean"].__doc__ == "Pulls the discriminator's outputs apart."
    assert sys.path == search_path


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("missing", None, "ModuleNotFoundError: No module named 'missing'"),
        ("missing.py", None, "ModuleNotFoundError: No module named 'missing'"),
        ("json.py", "", "ImportError: there is another module json; rename the file"),
        ("broken", "1 / 0", "ZeroDivisionError: division by zero"),
        ("broken.py", "def", "SyntaxError"),
        ("twice.py", OBJECTIVE.format(name="gan"), "ValueError: objective 'gan' is registered twice"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(name: str, content: str | None, error: str) -> None:
    if content is not None:
        Path(name if name.endswith(".py") else f"{name}.py").write_text(content)
    with pytest.raises(ValueError, match=f"^--import {name}: it cannot be imported: {error}"):
        import_module(name)


def install_plugin(folder: Path, content: str) -> None:
    """Write a module and the metadata of an installed package whose entry point names it."""
    (folder / "my_plugin.py").write_text(content)
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[snngan.plugins]\nmean = my_plugin\n")


def test_an_installed_plugin_is_found_at_the_first_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, OBJECTIVE.format(name="mean"))
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins.cache_clear()
    others: Registry[int] = Registry("other", "json")
    assert "my_plugin" not in sys.modules
    assert others.names() == ()
    assert OBJECTIVES["mean"].__module__ == "my_plugin"


def test_a_broken_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, "1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins.cache_clear()
    with pytest.raises(ImportError, match="the plugin mean of my-package cannot be imported: division by zero"):
        Registry("other", "json").names()


def test_a_run_folder_imports_nothing(tmp_path: Path) -> None:
    """Its config may be anyone's; only the user names a module."""
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    run = new_run("run", gan_config(Dataset("random", images[:32], None, images[32:], None), objective="gan"))
    file, trace = run.path / "config.json", tmp_path / "trace"
    Path("mean.py").write_text(
        f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n" + OBJECTIVE.format(name="mean")
    )
    for name in ("mean", "mean.py", "mean:Mean"):
        content = json.loads(file.read_text())
        content["config"]["objective"] = name
        file.write_text(json.dumps(content))
        message = (
            rf"run/config\.json: unknown objective '{name}'.*; if it is in a module of yours, name .* --import MODULE"
        )
        with pytest.raises(ValueError, match=message):
            open_run(run.path, Config)
    assert not trace.exists()
    content["config"] |= {"objective": "mean", "objective_options": {}}
    file.write_text(json.dumps(content))
    import_module("mean")
    assert trace.exists()
    assert open_run(run.path, Config).config.objective == "mean"
