"""One small registry: datasets, architectures, objectives and commands' choices are all found by name here."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that nothing was registered under; the message lists the known names, nearest first."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown ``name``: what came, the nearest known name, and all known names."""
    names = sorted(known)
    lower = {each.lower(): each for each in names}
    nearest = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)]
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return UnknownNameError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})")


class Registry(Generic[T]):
    """A name -> entry table for one ``kind`` of thing, filled by the modules of one ``package``.

    The modules are imported on the first look-up, so an entry needs no line anywhere but in its own file.

    Example:
        >>> shapes: Registry[int] = Registry("shape")
        >>> shapes.register("square")(4)
        4
        >>> shapes["square"], shapes.names()
        (4, ('square',))
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its argument under ``name``; a name taken twice is a programming error."""

        def enter(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Return every known name, sorted."""
        self._load()
        return tuple(sorted(self._entries))

    def _load(self) -> None:
        if self._package is None:
            return
        package_name, self._package = self._package, None
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{package_name}.{module.name}")
