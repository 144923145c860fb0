"""Every figure and table of the papers as one command, one file each; the rest of the package never imports them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from snngan.config import check_options
from snngan.lazy import public_names
from snngan.registry import Registry

if TYPE_CHECKING:
    import torch

PRESETS = ("smoke", "cpu", "paper")


@dataclass(frozen=True)
class ExperimentContext:
    """Where an experiment runs, and how it reports progress."""

    folder: Path
    """Receives the results; finished parts of an earlier call are reused, unfinished runs continued."""
    data_dir: str | None
    device: torch.device
    notify: Callable[[str], None]


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment measured, as numbers, text and plots."""

    numbers: dict[str, Any]
    """Written to ``numbers.json``."""
    text: list[str]
    """Lines of Markdown, written to ``result.md``."""
    plots: list[Path]


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """An experiment with its options, whose defaults are those of the preset ``smoke``.

    Raises:
        ValueError: an option has a value of the wrong type or out of its range.
    """

    source: ClassVar[str]
    """The figure or table that is reproduced."""
    summary: ClassVar[str]
    """What it shows, in one line."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Options that differ from the defaults, by preset: ``cpu`` (the committed results), ``paper`` (as published)."""

    def __post_init__(self) -> None:
        check_options(self)
        self.check()

    def check(self) -> None:  # noqa: B027
        """Raise ``ValueError`` for options whose values the declarations do not check."""

    @abstractmethod
    def run(self, context: ExperimentContext) -> ExperimentResult:
        """Train and measure whatever is not in the context's folder yet, and return the result."""


EXPERIMENTS: Registry[type[Experiment]] = Registry("experiment", "snngan.experiments")


__getattr__, __dir__ = public_names(
    __name__,
    {"": "EXPERIMENTS PRESETS Experiment ExperimentContext ExperimentResult", "result_folder": "run_experiment"},
)
