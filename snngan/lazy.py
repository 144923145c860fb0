"""Public names of packages that load on first use (PEP 562), so that importing ``snngan`` does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def public_names(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package.

    ``names`` maps each of its modules to the public names that it defines, separated by spaces. The key "" stands for
    the package's own ``__init__.py``, and "." for modules that are public themselves.
    """
    homes = {name: module for module, each in names.items() for name in each.split()}

    def load(name: str) -> Any:
        home = homes.get(name)
        if not home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if home == ".":
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{home}"), name)

    return load, lambda: sorted(homes)
