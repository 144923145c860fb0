"""Public names of packages that load on first use (PEP 562), so that importing ``snngan`` does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def public_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: its name.
        homes: maps each public name to the module that defines it, relative to the package: a submodule to itself, and
            a name that the package's ``__init__.py`` defines to the empty string.
    """

    def load(name: str) -> Any:
        home = homes.get(name)
        if not home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{home}")
        return module if home == name else getattr(module, name)

    return load, lambda: sorted(homes)
