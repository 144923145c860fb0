"""What experiments share: trained GANs that survive a restart, intervals, and the folder of a result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from snngan.config import ClassifyConfig, TrainConfig, check_options
from snngan.data import Dataset
from snngan.data.datasets import data_folder, load_dataset
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.training_metrics import NUM_IMAGES, TrainingMetrics
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.files import check_absent, write_atomically
from snngan.stats import summarize
from snngan.training.checkpoint import checkpoint_paths, load_newest, load_tensors, save_tensors
from snngan.training.classifier import train_classifier
from snngan.training.classifier_plan import make_classify_plan
from snngan.training.environment import environment
from snngan.training.gan import train_gan
from snngan.training.plan import make_plan, read_settings
from snngan.training.players import Players
from snngan.training.run_folder import ClassifierRun, GanRun
from snngan.untrusted import read_json

F = TypeVar("F", GanRun, ClassifierRun)

Log = Mapping[str, tuple[list[int], list[float]]]
"""Steps and values of each tag of one run."""
FIGURES = {
    "FID": "metrics/fid",
    "score in features": "metrics/entanglement_features",
    "score in pixels": "entanglement/input_score",
    "precision": "metrics/precision",
    "recall": "metrics/recall",
    "real anchors": "entanglement/real_anchors",
    "synthetic anchors": "entanglement/fake_anchors",
}
"""What tables say of runs, and the tags."""


def sized(name: str, preset: str, settings: Sequence[str] = ()) -> Experiment:
    """Return the experiment ``name`` at the size of ``preset``, with ``settings`` such as ``dataset=mnist`` changed.

    Raises:
        ValueError: an unknown experiment or setting, or a value that does not read.
    """
    experiment: Any = EXPERIMENTS[name].presets[preset]
    kind = type(experiment)
    known = [each.name for each in dataclasses.fields(kind)]
    hint = f"{name} has {', '.join(known)}"
    changed = read_settings(settings, dict.fromkeys(known, kind), f"setting of {name}", hint)
    sized_so: Experiment = dataclasses.replace(experiment, **changed)
    check_options(sized_so)
    return sized_so


def run_experiment(
    name: str, preset: str, setting: Setting, command: str, settings: Sequence[str] = (), *, force: bool = False
) -> Finding:
    """Run an experiment and write ``numbers.json`` and ``result.md`` into its folder.

    Raises:
        ValueError: as :func:`sized`, data that are not here, or a folder with something else in it, without ``force``.
    """
    kind, experiment = EXPERIMENTS[name], sized(name, preset, settings)
    if not _is_own(setting.folder, name, dataclasses.asdict(experiment)):  # type: ignore[call-overload]
        check_absent(setting.folder, force=force)
    made = [path for path in (setting.folder, *setting.folder.parents) if not path.exists()]
    setting.folder.mkdir(parents=True, exist_ok=True)
    try:
        finding = experiment.run(setting)
    except ValueError:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()  # if nothing was written into it
        raise
    chosen = dataclasses.asdict(experiment)  # type: ignore[call-overload]
    head = {"experiment": name, "source": kind.source, "preset": preset, "command": command, "settings": chosen}
    own = environment(setting.device)
    trained_in = _environments(setting.folder) or [own]
    content = head | {"environment": own, "runs": trained_in, "numbers": finding.numbers}
    write_atomically(setting.folder / "numbers.json", (json.dumps(content, indent=1) + "\n").encode())
    where = dict.fromkeys(
        f"snngan {each.get('snngan')} at {each.get('commit') or 'no commit'}, torch {each.get('torch')}, "
        f"{each.get('device')}"
        for each in trained_in
    )
    lines = [
        f"# {name}", "", f"{kind.summary} ({kind.source}).", "", f"    {command}", "",
        f"{', and '.join(where)}; " + ", ".join(f"{key} {value}" for key, value in chosen.items()),
        "", *finding.text, "", *(f"![{path.stem}]({path.name})" for path in finding.figures),
    ]  # fmt: skip
    write_atomically(setting.folder / "result.md", ("\n".join(lines) + "\n").encode())
    return finding


def _is_own(folder: Path, name: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a folder holds nothing, or what the experiment ``name`` has left there.

    What an experiment goes on from, in folders of its own, it checks itself; a bare result is that of its settings.
    """
    if not os.path.lexists(folder):
        return True
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder.is_dir()
    found = read_json(folder / "numbers.json") if (folder / "numbers.json").exists() else {}
    goes_on = any(path.is_dir() for path in folder.iterdir())
    own = goes_on or found.get("settings") == json.loads(json.dumps(settings))
    return found.get("experiment", name) == name and own


def _environments(folder: Path) -> list[dict[str, Any]]:
    """Return where the runs in an experiment's folder were trained, each environment once."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("runs/*/config.json")):
        own = read_json(path).get("environment")
        if own and own not in found:
            found.append(own)
    return found


def with_features(name: str, setting: Setting) -> Dataset:
    """Return the data set ``name``, its small classifier trained: figures while training are in its features then."""
    dataset = load_dataset(name, data_dir=setting.data_dir, notify=setting.notify)
    load_or_train_features(dataset, data_folder(setting.data_dir) / "features", setting.device, setting.notify)
    return dataset


def trained(config: TrainConfig, dataset: Dataset, path: Path, setting: Setting, stages: Sequence[int] = ()) -> GanRun:
    """Return the finished run of ``config`` in ``path``: as it lies there, gone on with, or trained now.

    Samples (500, C, H, W) of each step of ``stages`` are left in its folder, see :func:`samples_at`.

    Raises:
        ValueError: the run that lies there is another.
        DivergedError: a loss or a weight is not finite.
    """
    with begun(GanRun, path, make_plan(config, dataset), setting) as (run, start):
        if start is not None and start["step"] >= run.plan.steps:
            return run
        folder = data_folder(run.plan.data_dir) / "features"
        watch = TrainingMetrics(run.plan, dataset, folder, setting.device)
        latents = torch.randn(500, 1024, generator=torch.Generator().manual_seed(1))

        def measure(step: int, players: Players) -> dict[str, float]:
            if step in stages:
                samples = players.sample(latents[:, : players.latent_dim].to(setting.device)).cpu()
                save_tensors(path / f"stage-{step:08d}.pt", samples)
            return watch(step, players)

        train_gan(run, dataset, setting.device, start=start, measure=measure)
        return run


def trained_classifier(config: ClassifyConfig, dataset: Dataset, path: Path, setting: Setting) -> ClassifierRun:
    """Return the finished classifier's run of ``config`` in ``path``, as :func:`trained` does.

    Raises:
        ValueError: the run that lies there is another.
        DivergedError: a loss or a weight is not finite.
    """
    with begun(ClassifierRun, path, make_classify_plan(config, dataset), setting) as (run, start):
        if start is None or start["step"] < run.plan.steps:
            train_classifier(run, dataset, setting.device, start=start)
        return run


@contextmanager
def begun(kind: type[F], path: Path, plan: Any, setting: Setting) -> Iterator[tuple[F, dict[str, Any] | None]]:
    """Yield the run of ``plan`` in ``path``, made now if there is none to go on with, and its newest checkpoint.

    Other trainings are kept out of its folder meanwhile.

    Raises:
        ValueError: what lies there is another run, no run, or one that is being trained.
    """
    if new := not path.exists():
        run = kind.create(path, plan, setting.device)
    else:
        run = kind.open(path)
        run.check_links()
        known = dataclasses.replace(run.plan, data_dir=plan.data_dir, checkpoint_every=plan.checkpoint_every)
        if known != plan:
            raise ValueError(f"{path} holds another run than this experiment's: give another --out, or remove it")
    with run.locked():
        start, holds = None, "players" if kind is GanRun else "members"
        if checkpoint_paths(run.checkpoints):
            start = load_newest(run.checkpoints, setting.notify, holds)
        elif not new:  # it was stopped before there was anything to go on with
            run.begin_again(setting.device)
        if start is None or start["step"] < plan.steps:
            since = f" from step {start['step']}" if start else ""
            setting.notify(f"{path.name}: {plan.steps} steps{since}")
            for line in run.changed_since_begun():
                setting.notify(f"{path.name}: {line}")
        yield run, start


def samples_at(run: GanRun, step: int) -> Tensor:
    """Return the samples (500, C, H, W) that :func:`trained` left of a stage; raises ``ValueError`` without them."""
    path = run.path / f"stage-{step:08d}.pt"
    if not path.exists():
        raise ValueError(f"{run.path} has no samples of step {step}: remove it, and it is trained anew")
    samples: Tensor = load_tensors(path)
    return samples


def shown(statistic: Mapping[str, Any], digits: int = 3) -> str:
    """Return a statistic of :func:`summary` as ``mean (low to high)``."""
    mean, interval = statistic["mean"], statistic["interval"]
    bounds = f" ({interval[0]:.{digits}g} to {interval[1]:.{digits}g})" if interval else ""
    return f"{mean:.{digits}g}{bounds}"


def last_figures(logs: Sequence[Log]) -> dict[str, Any]:
    """Return mean and interval over the logs of each of ``FIGURES`` at the last step, if all logs have it."""
    known = {title: tag for title, tag in FIGURES.items() if all(tag in log for log in logs)}
    return {title: summarize([log[tag][1][-1] for log in logs]) for title, tag in known.items()}


def table_of_figures(what: str, numbers: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Return the Markdown table of :func:`last_figures` by name, with ``more`` columns of the like."""
    columns = [each for each in (*FIGURES, *more) if any(found.get(each) for found in numbers.values())]
    lines = [
        "Mean over seeds at the last step (Student's 95 % interval). FID, precision, recall and the first score in the "
        f"features of a small classifier, held-out images against as many samples, at most {NUM_IMAGES}. Score: "
        "entanglement of real and synthetic, 1 is ideal; anchors: their loss in pixel space, chance 0.693.",
        "", f"| {what} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|",
    ]  # fmt: skip
    for name, found in numbers.items():
        cells = [shown(found[column]) if found.get(column) else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
