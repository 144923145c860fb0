"""Every figure and table of the sources as one command; one file each, and the core never imports them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from snngan.config import option
from snngan.lazy import public_names
from snngan.registry import Registry

if TYPE_CHECKING:
    import torch

PRESETS = ("smoke", "cpu", "paper")


def count() -> Any:
    """Return a field of an experiment that is 1 or more, and that every preset says."""
    return option(MISSING, "", low=1)


@dataclass(frozen=True)
class Setting:
    """Where an experiment runs and what it is given."""

    folder: Path
    """Its own: figures, and whatever it wants to go on from when it is started again."""
    data_dir: str | None
    device: torch.device
    notify: Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """What an experiment found."""

    numbers: dict[str, Any]
    """For ``numbers.json``."""
    text: list[str]
    """Lines of Markdown for ``result.md``."""
    figures: list[Path] = field(default_factory=list)


class Experiment(Protocol):
    """A frozen dataclass whose fields say how large it is run."""

    source: ClassVar[str]
    """The figure or table."""
    summary: ClassVar[str]
    """What it shows, in one line."""
    presets: ClassVar[Mapping[str, Experiment]]
    """By name: ``smoke`` (seconds, for tests), ``cpu`` (the committed results), ``paper`` (its own settings)."""

    def run(self, setting: Setting) -> Finding:
        """Run it, or go on with what is in the setting's folder."""
        raise NotImplementedError


EXPERIMENTS: Registry[type[Experiment]] = Registry("experiment", "snngan.experiments")


__getattr__, __dir__ = public_names(
    __name__,
    {"EXPERIMENTS": "", "Experiment": "", "Finding": "", "PRESETS": "", "Setting": "", "run_experiment": "running"},
)
