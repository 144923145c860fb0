"""Every figure and table of the papers as one command; the rest of the package never imports them."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from snngan.config import check_options, parse_settings
from snngan.files import check_absent, read_json, write_atomically
from snngan.lazy import public_names
from snngan.registry import Registry, unknown_name

if TYPE_CHECKING:
    import torch

PRESETS = ("smoke", "cpu", "paper")
FORMER_NAMES = {
    "adversary": ("adversarial_training",), "code": ("code_size",), "every": ("log_every", "metrics_every"),
    "judge": ("evaluation_attack",), "length": ("step_length",), "over_layers": ("layer_reduction",),
    "points": ("num_train_images", "num_codes"), "rate": ("step_size",),
}  # fmt: skip
"""Options of version 0.1 and their present names; an experiment has at most one of these."""


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


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """An experiment with its options; the first line of its docstring says what it shows.

    Subclasses become dataclasses with keyword arguments. Raises ``ValueError`` for an option of the wrong type or out
    of its range.
    """

    source: ClassVar[str]
    """The figure or table that is reproduced."""
    smoke: ClassVar[Mapping[str, Any]] = {}
    cpu: ClassVar[Mapping[str, Any]] = {}
    paper: ClassVar[Mapping[str, Any]] = {}
    """Options that differ from the defaults, by preset: of a test, of the committed results, and as published."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        check_options(self)
        self.check()

    def check(self) -> None:  # noqa: B027
        """Raise ``ValueError`` for options whose values the declarations do not check."""

    @abstractmethod
    def run(self, context: ExperimentContext) -> ExperimentResult:
        """Train and measure whatever is not in the context's folder yet, and return the result."""

    @classmethod
    def summary(cls) -> str:
        """Return what the experiment shows and where that was published, in one line."""
        return f"{(cls.__doc__ or '').partition(chr(10))[0].rstrip('.')} ({cls.source})"


EXPERIMENTS: Registry[type[Experiment]] = Registry("experiment", "snngan.experiments")


def make_experiment(name: str, preset: str, settings: Sequence[str] = ()) -> Experiment:
    """Return the experiment ``name`` with the options of ``preset``, changed by ``settings`` such as ``dataset=mnist``.

    Raises:
        ValueError: an unknown experiment, preset or option, or a value of the wrong type or out of range.
    """
    kind = EXPERIMENTS[name]
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    options = [field.name for field in dataclasses.fields(kind)]
    current = {old: new for old, names in FORMER_NAMES.items() if old not in options for new in names if new in options}
    words = [setting.partition("=") for setting in settings]
    changed = parse_settings(
        [f"{current.get(option, option)}{equals}{value}" for option, equals, value in words],
        dict.fromkeys(options, kind),
        f"setting of {name}",
        f"{name} has {', '.join(options)}",
    )
    return kind(**{**getattr(kind, preset), **changed})


def describe_options(experiment: Experiment) -> list[str]:
    """Return a line for each option of an experiment: name, value and meaning."""
    fields = dataclasses.fields(experiment)
    return [f"  {each.name}={getattr(experiment, each.name)!r}  {each.metadata['help']}" for each in fields]


def run_experiment(
    name: str, preset: str, context: ExperimentContext, command: str, settings: Sequence[str] = (), force: bool = False
) -> ExperimentResult:
    """Run an experiment and write ``numbers.json`` and ``result.md`` into its folder.

    Raises:
        ValueError: as :func:`make_experiment`; data that are missing; or, without ``force``, a folder that holds
            anything but results of this experiment.
    """
    from snngan.training.environment import environment

    experiment, folder = make_experiment(name, preset, settings), context.folder
    options = dataclasses.asdict(experiment)
    if folder.exists() and not (folder.is_dir() and _is_reusable(folder, name, options)):
        check_absent(folder, force=force)
    result = experiment.run(context)
    trained = [read_json(path)["environment"] for path in sorted(folder.glob("runs/*/config.json"))]
    environments = [each for number, each in enumerate(trained) if each not in trained[:number]]
    content: dict[str, Any] = {"experiment": name, "source": experiment.source, "preset": preset, "command": command}
    content |= {"settings": options, "environment": (own := environment(context.device))}
    content |= {"runs": environments or [own], "numbers": result.numbers}
    write_atomically(folder / "numbers.json", (json.dumps(content, indent=1) + "\n").encode())
    where = dict.fromkeys(
        f"snngan {each['snngan']} at {each['commit'] or 'no commit'}, torch {each['torch']}, {each['device']}"
        for each in environments or [own]
    )
    values = ", ".join(f"{key} {value}" for key, value in options.items())
    lines = [
        f"# {name}\n\n{experiment.summary()}.\n\n    {command}\n\n{', and '.join(where)}; {values}\n",
        *result.text,
    ]
    lines += ["", *(f"![{path.stem}]({path.name})" for path in result.plots)]
    write_atomically(folder / "result.md", ("\n".join(lines) + "\n").encode())
    return result


def _is_reusable(folder: Path, name: str, options: Mapping[str, Any]) -> bool:
    """Return whether a folder is empty or holds this experiment; runs and kept tensors in it are checked on use."""
    paths, file = list(folder.iterdir()), folder / "numbers.json"
    found = read_json(file) if file.exists() else {}
    has_parts = any(path.is_dir() for path in paths) or found.get("settings") == json.loads(json.dumps(options))
    return not paths or (found.get("experiment", name) == name and has_parts)


__getattr__, __dir__ = public_names(
    __name__, {"": "EXPERIMENTS PRESETS Experiment ExperimentContext ExperimentResult run_experiment"}
)
