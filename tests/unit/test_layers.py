"""The layout of the package: imports point down and form no cycle, and the outermost layer does not import torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import snngan

ROOT = Path(snngan.__file__).parent
LAYERS = [
    {"registry", "config", "distributed", "seeds", "version", "stats", "memory"},
    {"files", "tensors", "labels", "lazy", "checkpoint"},
    {"losses"},
    {"data", "models", "robustness"},
    {"metrics"},
    {"objectives", "selfsupervised"},
    {"training"},
    {"evaluation"},
    {"api"},
    {"experiments"},
    {"cli"},
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
OUTSIDE = {"__init__", "__main__"}
"""The public names, which are imported from all layers, and the entry point."""


def layer_of(path: Path) -> str:
    """Return the name right under ``snngan`` that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [path for path in sorted(ROOT.rglob("*.py")) if layer_of(path) not in OUTSIDE]


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a module of ``package`` imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{home}.{alias.name}") for alias in node.names)


def upward(source: str, package: str, rank: int) -> list[str]:
    """Return what a module of that package and rank imports from a layer above, as ``line: name``."""
    found = []
    for line, name in imported(ast.parse(source), package):
        top, _, rest = name.partition(".")
        layer = rest.partition(".")[0]
        if top == "snngan" and RANKS.get(layer, len(LAYERS)) > rank:  # names without a rank are public ones
            found.append(f"{line}: {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    layer = layer_of(path)
    assert layer in RANKS, f"snngan.{layer} is new: add it to LAYERS"
    package = ".".join(["snngan", *path.relative_to(ROOT).parent.parts])
    found = upward(path.read_text(encoding="utf-8"), package, RANKS[layer])
    assert not found, f"{path.relative_to(ROOT)} imports from a layer above its own: {found}"


@pytest.mark.parametrize(
    ("line", "is_upward"),
    [
        ("import snngan.training.gan", True),
        ("import torch, snngan.cli as cli", True),
        ("from snngan import load_generator", True),
        ("import snngan", True),
        ("from ..training import plan", True),
        ("from .. import cli", True),
        ("def late() -> None:\n    from snngan.evaluation import measure", True),
        ("import torch", False),
        ("from snngan.losses.snnl import entanglement", False),
        ("from . import layers", False),
        ("from ..registry import Registry", False),
        ("from snngan import registry", False),
        ("from snnganother import training", False),
    ],
)
def test_an_upward_import_is_seen(line: str, is_upward: bool) -> None:
    assert bool(upward(line, "snngan.models", RANKS["models"])) == is_upward


def module_of(path: Path) -> str:
    parts = ["snngan", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: Mapping[str, str], packages: Collection[str]) -> dict[str, set[str]]:
    """Return which of the modules in ``sources`` (text by dotted name) each of them imports, in whatever place."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        package = module if module in packages else module.rpartition(".")[0]
        graph[module] = set()
        for _, name in imported(ast.parse(source), package):
            target = name
            while target and target not in sources:  # the names in a module, up to the module itself
                target = target.rpartition(".")[0]
            graph[module] |= {target} - {""}
    return graph


def test_imports_form_no_cycle() -> None:
    """Imports inside functions and under ``TYPE_CHECKING`` count too."""
    paths = sorted(ROOT.rglob("*.py"))
    sources = {module_of(path): path.read_text(encoding="utf-8") for path in paths}
    packages = {module_of(path) for path in paths if path.name == "__init__.py"}
    assert len(sources) > 50
    TopologicalSorter(import_graph(sources, packages)).prepare()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import snngan.b", "from snngan.a import name"),
        ("from . import b", "from .a import name"),
        ("from snngan.b import name", "def late() -> None:\n    from snngan import a"),
        ("from snngan.b import name", "if TYPE_CHECKING:\n    from snngan.a import name"),
        ("from snngan.c import name", "from snngan.a import name"),
    ],
)
def test_an_import_cycle_is_found(first: str, second: str) -> None:
    sources = {"snngan": "", "snngan.a": first, "snngan.b": second, "snngan.c": "import snngan.b"}
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(sources, {"snngan"})).prepare()


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "print([name for name in ('torch', 'numpy', 'sklearn', 'tensorboard') if name in sys.modules])"


def test_importing_the_package_imports_no_torch() -> None:
    assert run(f"import sys, snngan; snngan.__version__; dir(snngan); {HEAVY}").split() == ["[]"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"]])
def test_help_and_version_import_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from snngan.cli import main
try:
    main({arguments!r})
except SystemExit as error:
    assert not error.code, error.code
{HEAVY}
"""
    assert run(code).splitlines()[-1] == "[]"


def test_every_public_name_resolves() -> None:
    assert snngan.__all__ == sorted(snngan.__all__)
    assert set(dir(snngan)) > {*snngan.__all__, "robustness", "losses", "training"}
    assert dir(snngan) == sorted(dir(snngan))
    for name in snngan.__all__:
        value = getattr(snngan, name)
        assert name == "__version__" or value.__name__ == name
        assert name == "__version__" or value.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        snngan.nothing  # noqa: B018


def test_packages_work_after_importing_snngan_and_list_their_public_names() -> None:
    code = """
import sys, snngan
for name in sorted(set(dir(snngan)) - set(snngan.__all__)):
    for module in [each for each in sys.modules if each.partition(".")[0] == "snngan"]:
        del sys.modules[module]
    import snngan
    print(name, *dir(getattr(snngan, name)))
import snngan.losses.backends.fused
assert "triton" not in sys.modules
"""
    lines = [line.split() for line in run(code).splitlines()]
    assert [name for name, *_ in lines] == sorted(set(dir(snngan)) - set(snngan.__all__))
    for name, *names in lines:
        package = getattr(snngan, name)
        assert names
        for each in names:
            assert not each.startswith("_")
            home = getattr(getattr(package, each), "__module__", None)
            assert home is None or home.startswith("snngan")  # and no import of another package
        with pytest.raises(AttributeError, match=f"module 'snngan.{name}' has no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_what_type_checkers_see_is_what_there_is() -> None:
    """The names imported for type checkers are the public ones, from where they are loaded."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name for block in blocks for _, name in imported(ast.Module(block.body, []), "snngan")}
    assert {name.rpartition(".")[2] for name in seen} == set(snngan.__all__) - {"__version__"}
    for name in seen:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(snngan, attribute)
