"""Registries of named objects: built in, from an installed plugin, or from a module that the user names.

Data sets, architectures, classifiers, objectives, metrics, attacks and experiments are all found here. A package of
yours adds some by an entry point of the group ``snngan.plugins``, whose value is the module that registers them; a
module that is not installed is named by ``--import MODULE``. Nothing else is ever imported: a run folder cannot cause
an import.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

T = TypeVar("T")
PLUGIN_GROUP = "snngan.plugins"
"""The group of entry points by which installed packages add things."""


class UnknownNameError(ValueError):
    """A name that nothing was registered under; the message lists the known names, nearest first."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for an unknown ``name``: what was given, the nearest known name, and all known names."""
    return ValueError(_describe_unknown(kind, name, known))


def _describe_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    lower = {each.lower(): each for each in names}
    nearest = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)]
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"


class Registry(Generic[T]):
    """A table of named entries of one ``kind``, filled by the modules of one ``package`` and by plugins.

    The modules are imported at the first look-up, so an entry needs no line anywhere but in its own file.

    Example:
        >>> shapes: Registry[int] = Registry("shape")
        >>> shapes.register("square")(4)
        4
        >>> shapes["square"], "square" in shapes.names()
        (4, True)
    """

    def __init__(self, kind: str, package: str | None = None, entry_type: type | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entry_type = entry_type
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its argument under ``name``; raises ``ValueError`` if the name is taken."""

        def enter(entry: T) -> T:
            if self._entry_type is not None and not isinstance(entry, self._entry_type):
                raise ValueError(f"{self.kind} {name!r} must be a {self._entry_type.__name__}, got {entry!r}")
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice: by {self._entries[name]} and {entry}")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            raise UnknownNameError(_describe_unknown(self.kind, name, self._entries))
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Return every known name, sorted."""
        self._load()
        return tuple(sorted(self._entries))

    def _load(self) -> None:
        if self._package is None:
            return
        name, self._package = self._package, None
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{name}.{module.name}")
        load_plugins()


@functools.cache
def load_plugins() -> None:
    """Import the plugins that are installed, once.

    Raises:
        ImportError: one of them cannot be imported; the message names its package.
    """
    import importlib.metadata  # slow, and help does not need it

    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise ImportError(f"the plugin {entry.name} of {package} cannot be imported: {error}") from error


def import_module(name: str, option: str = "--import") -> ModuleType:
    """Import a module that the user names: importable from here or the current folder, or the path of a .py file.

    Raises:
        ValueError: it cannot be imported; the message names the ``option``.
    """
    file = Path(name) if name.endswith(".py") else None
    sys.path.insert(0, str(file.resolve().parent if file else Path.cwd()))
    try:
        module = importlib.import_module(file.stem if file else name)
        if file and not file.samefile(module.__file__ or ""):
            raise ImportError(f"there is another module {file.stem}; rename the file")
        return module
    except Exception as error:
        raise ValueError(f"{option} {name}: it cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
