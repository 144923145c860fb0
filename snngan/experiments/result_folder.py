"""Run an experiment and write its result folder: plots, ``numbers.json`` and ``result.md``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from snngan.config import parse_settings
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.files import check_absent, read_json, write_atomically
from snngan.training.environment import environment

FORMER_NAMES = {
    "adversary": ("adversarial_training",), "code": ("code_size",), "every": ("log_every", "metrics_every"),
    "judge": ("evaluation_attack",), "length": ("step_length",), "over_layers": ("layer_reduction",),
    "points": ("num_train_images", "num_codes"), "rate": ("step_size",),
}  # fmt: skip
"""Options of version 0.1 and their present names; an experiment has at most one of these."""


def make_experiment(name: str, preset: str, settings: Sequence[str] = ()) -> Experiment:
    """Return the experiment ``name`` with the options of ``preset``, changed by ``settings`` such as ``dataset=mnist``.

    Raises:
        ValueError: an unknown experiment or option, or a value of the wrong type or out of range.
    """
    kind = EXPERIMENTS[name]
    options = [field.name for field in dataclasses.fields(kind)]
    current = {old: new for old, names in FORMER_NAMES.items() if old not in options for new in names if new in options}
    words = [setting.partition("=") for setting in settings]
    changed = parse_settings(
        [f"{current.get(option, option)}{equals}{value}" for option, equals, value in words],
        dict.fromkeys(options, kind),
        f"setting of {name}",
        f"{name} has {', '.join(options)}",
    )
    return kind(**{**kind.presets.get(preset, {}), **changed})


def describe_options(experiment: Experiment) -> list[str]:
    """Return a line for each option of an experiment: name, value and meaning."""
    return [
        f"  {field.name}={getattr(experiment, field.name)!r}  {field.metadata['help']}"
        for field in dataclasses.fields(experiment)
    ]


def run_experiment(
    name: str,
    preset: str,
    context: ExperimentContext,
    command: str,
    settings: Sequence[str] = (),
    *,
    force: bool = False,
) -> ExperimentResult:
    """Run an experiment and write ``numbers.json`` and ``result.md`` into its folder.

    Raises:
        ValueError: as :func:`make_experiment`; data that are missing; or, without ``force``, a folder that holds
            anything but results of this experiment.
    """
    experiment, folder = make_experiment(name, preset, settings), context.folder
    options = dataclasses.asdict(experiment)
    if folder.exists() and not (folder.is_dir() and _is_reusable(context, name, options)):
        check_absent(folder, force=force)
    result = experiment.run(context)
    own = environment(context.device)
    trained = [read_json(path).get("environment") for path in sorted(folder.glob("runs/*/config.json"))]
    environments = [each for number, each in enumerate(trained) if each not in trained[:number]] or [own]
    content = {
        "experiment": name,
        "source": experiment.source,
        "preset": preset,
        "command": command,
        "settings": options,
        "environment": own,
        "runs": environments,
        "numbers": result.numbers,
    }
    write_atomically(folder / "numbers.json", (json.dumps(content, indent=1) + "\n").encode())
    where = dict.fromkeys(
        f"snngan {each['snngan']} at {each['commit'] or 'no commit'}, torch {each['torch']}, {each['device']}"
        for each in environments
    )
    lines = [
        f"# {name}",
        "",
        f"{experiment.summary} ({experiment.source}).",
        "",
        f"    {command}",
        "",
        f"{', and '.join(where)}; " + ", ".join(f"{key} {value}" for key, value in options.items()),
        "",
        *result.text,
        "",
        *(f"![{path.stem}]({path.name})" for path in result.plots),
    ]
    write_atomically(folder / "result.md", ("\n".join(lines) + "\n").encode())
    return result


def _is_reusable(context: ExperimentContext, name: str, options: dict[str, Any]) -> bool:
    """Return whether a folder is empty or holds this experiment; runs and kept tensors in it are checked on use."""
    paths, file = list(context.folder.iterdir()), context.folder / "numbers.json"
    found = read_json(file) if file.exists() else {}
    has_parts = any(path.is_dir() for path in paths) or found.get("settings") == json.loads(json.dumps(options))
    return not paths or (found.get("experiment", name) == name and has_parts)
