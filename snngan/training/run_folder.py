"""A run's folder: its config, metrics, TensorBoard events, sample grids and checkpoints."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from snngan.checkpoint import checkpoint_paths, save_checkpoint, step_of
from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data.grids import draw_images, save_png
from snngan.files import (
    SaveError,
    read_json,
    read_lines,
    remove_temporary_files,
    sync,
    temporary_path,
    write_atomically,
)
from snngan.registry import UnknownNameError
from snngan.training.environment import describe_changes, environment
from snngan.training.resolve import check_names
from snngan.training.tensorboard import EventFile, write_projection

C = TypeVar("C", bound=Config)
D = TypeVar("D", bound=Config)
CONFIGS: dict[str, type[Config]] = {TrainConfig.kind: TrainConfig, ClassifyConfig.kind: ClassifyConfig}


def next_run_dir(config: Config, parent: Path = Path("runs")) -> Path:
    """Return ``parent``/NNNN-DATASET-TITLE with the next free number."""
    numbers = [int(found[1]) for path in parent.glob("*") if (found := re.match(r"([0-9]{4,9})-", path.name))]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", config.dataset.rpartition("/")[2]).strip("-.")[-40:] or "data"
    return parent / f"{max(numbers, default=0) + 1:04d}-{name}-{config.title}"


class RunFolder(Generic[C]):
    """One run's folder: ``config.json``, ``metrics.jsonl``, ``samples/``, ``checkpoints/`` and TensorBoard events."""

    def __init__(self, path: Path, config: C) -> None:
        self.path = path
        self.config: C = config
        self._resumed_at: int | None = None

    def __repr__(self) -> str:
        steps = [step_of(path) for path in checkpoint_paths(self.checkpoints)]
        reached = f"step {steps[-1]} of {self.config.steps}" if steps else "no checkpoint"
        return f"RunFolder({str(self.path)!r}, {self.config.title} on {self.config.dataset}, {reached})"

    @classmethod
    def create(cls, path: Path | None, config: C, device: torch.device) -> RunFolder[C]:
        """Make the folder ``path``, or the next one in ``runs``, with ``config.json`` in it, atomically.

        Raises:
            ValueError: it exists, or cannot be made.
            SaveError: ``config.json`` could not be written.
        """
        if path is not None:
            check_new(path)
        while True:
            chosen = path or next_run_dir(config)
            temporary = temporary_path(chosen)
            content = {"kind": config.kind, "config": config.to_json(), "environment": environment(device)}
            try:
                temporary.mkdir(parents=True)
                with explain_write_errors(chosen / "config.json"):
                    with open(temporary / "config.json", "w", encoding="utf-8") as file:
                        file.write(json.dumps(content, indent=2) + "\n")
                    sync(temporary / "config.json")
                sync(temporary)
                os.rename(temporary, chosen)  # fails if another run has taken the folder meanwhile
                sync(chosen.parent)
                return cls(chosen, config)
            except OSError as error:
                if path is None and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue  # the next one, then
                check_new(chosen)
                raise ValueError(f"the run folder {chosen} cannot be made: {error.strerror}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def set_steps(self, steps: int) -> None:
        """Let the run continue to ``steps``; :meth:`rewind` writes that into ``config.json``."""
        self.config = dataclasses.replace(self.config, steps=steps)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the lock ends with the process.

        Raises:
            ValueError: another process holds the lock, or the folder cannot be written to.
        """
        import fcntl

        try:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be trained in: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{self.path} is being trained by another process; wait for it, or stop it") from error
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            os.close(handle)

    def describe_changes(self) -> list[str]:
        """Return lines about changed versions or threads, which may change the last bits of numbers."""
        started_in = read_json(self.path / "config.json").get("environment")
        return describe_changes(started_in if isinstance(started_in, dict) else {})

    @property
    def quoted(self) -> str:
        """The folder's path, quoted for a shell."""
        return shlex.quote(f"./{self.path}" if str(self.path).startswith("-") else str(self.path))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def rewind(self, step: int, restarted_on: torch.device | None = None) -> None:
        """Remove what was logged after ``step``, so that a resumed run logs it once, and write the config.

        Checkpoints of later steps, which were damaged, are set aside. Files that a killed process left half written
        are removed.

        Args:
            step: the last step to keep; -1: the run starts again.
            restarted_on: the device of a run that starts again, whose environment is written, too.

        Raises:
            SaveError: the folder cannot be written to.
        """
        changed = {"config": self.config.to_json()}
        if restarted_on is not None:
            changed["environment"] = environment(restarted_on)
        with explain_write_errors(self.path):
            remove_temporary_files(self.path)
            for folder in ("samples", "projector"):
                for path in (self.path / folder).glob("step-*"):
                    if _number_in_name(path) > step:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in checkpoint_paths(self.checkpoints):
                if step_of(path) > step:
                    path.rename(f"{path}.damaged")
        file = self.path / "config.json"
        write_atomically(file, (json.dumps(read_json(file) | changed, indent=2) + "\n").encode())
        file = self.path / "metrics.jsonl"
        if file.exists():
            kept = [values for values in read_lines(file) if _step_of_line(values) <= step]
            write_atomically(file, "".join(json.dumps(values) + "\n" for values in kept).encode())
        self._resumed_at = step

    def last_logged(self) -> float:
        """Return the last logged step, or -1."""
        steps = (_step_of_line(values) for values in read_lines(self.path / "metrics.jsonl"))
        return max((step for step in steps if step < math.inf), default=-1)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, after everything that was logged before it is on the disk.

        Raises:
            SaveError: it could not be written; earlier checkpoints are unchanged.
        """
        with explain_write_errors(self.path):
            self.checkpoints.mkdir(exist_ok=True)
            sync(self.path)  # fails if the folder was removed
            for path in (self.path / "metrics.jsonl", self._events.path):
                if path.exists():
                    sync(path)
        save_checkpoint(self.checkpoints, step, state)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Append ``scalars`` to ``metrics.jsonl`` (an infinite temperature as null) and to TensorBoard."""
        with explain_write_errors(self.path / "metrics.jsonl") as path, open(path, "a", encoding="utf-8") as file:
            values = {tag: value if math.isfinite(value) else None for tag, value in sorted(scalars.items())}
            file.write(json.dumps({"step": step, **values}) + "\n")
        with explain_write_errors(self._events.path):
            self._events.add_scalars(step, scalars)

    def log_config(self) -> None:
        """Show the options in TensorBoard, as text and as hyperparameters."""
        with explain_write_errors(self._events.path):
            self._events.add_config(self.config.flat_values())

    @cached_property
    def _events(self) -> EventFile:
        return EventFile(self.path, self._resumed_at)

    def log_samples(self, step: int, fake: Tensor, real: Tensor, columns: int | None = None) -> Path:
        """Write grids of ``fake`` and, at step 0 to TensorBoard, of ``real`` images (N, C, H, W) in [-1, 1]."""
        pictures = {"samples/fixed_noise": draw_images(fake, columns=columns, background=real)}
        if step == 0:
            pictures["samples/real"] = draw_images(real, columns=columns)
        with explain_write_errors(self.samples / f"step-{step:08d}.png") as path:
            self.samples.mkdir(exist_ok=True)  # not the run's folder, which may have been removed
            save_png(pictures["samples/fixed_noise"], path)
        with explain_write_errors(self._events.path):
            self._events.add_pictures(step, pictures)
        return path

    def log_projection(self, step: int, embeddings: Tensor, images: Tensor, names: list[str]) -> None:
        """Show ``embeddings`` (N, D) with their ``images`` (N, C, H, W) in [-1, 1] and ``names`` in the projector."""
        with explain_write_errors(self.path / "projector") as folder:
            folder.mkdir(exist_ok=True)
        write_projection(self.path, step, embeddings, images, names)


def check_new(path: Path) -> None:
    """Raise ``ValueError`` if there is something at ``path``, or no folder can be made there."""
    if (path / "config.json").exists():
        raise ValueError(
            f"{path} exists already: choose another --run-dir, or continue it by: "
            f"snngan resume {shlex.quote(str(path))}"
        )
    if path.exists():
        raise ValueError(f"{path} exists already and is not a run folder: choose another --run-dir")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise ValueError(f"the run folder {path} cannot be made: {nearest} is a file")


def open_run(path: Path, kind: type[D]) -> RunFolder[D]:
    """Return the run in the folder ``path``, of a config of one ``kind``; ``Config`` stands for any.

    Raises:
        ValueError: the folder does not exist, its ``config.json`` is missing or wrong, or it is of another kind.
    """
    if not path.is_dir():
        raise ValueError(f"no run folder {path}: give the folder that snngan train named, such as runs/0001-...")
    file = path / "config.json"
    if not file.exists():
        inside = next((each.parent for each in sorted(path.glob("*/config.json"))), None)
        hint = "" if inside is None else f"; give one of the runs in it, such as {inside}"
        raise ValueError(f"{path} is not a run folder: it has no config.json{hint}")
    content = read_json(file)
    if isinstance(content, dict) and "plan" in content:
        raise ValueError(f"{path} is a run of snngan 0.1, which this version cannot read: train it again")
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError(f"{file} is not a run's configuration: it has no config")
    found = CONFIGS.get(str(content.get("kind")), TrainConfig)
    if not issubclass(found, kind):
        raise ValueError(f"{path} is the run of a {found.kind}; this command needs the run of a {kind.kind}")
    try:
        config = found.from_json(content["config"])
        check_names(config)
    except UnknownNameError as error:
        raise ValueError(f"{file}: {error}; if it is in a module of yours, name that by --import MODULE") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a run's configuration: {error}") from error
    return RunFolder(path, config)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[Path]:
    """Turn an ``OSError`` into the ``SaveError`` that names ``path``."""
    try:
        yield path
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error


def _number_in_name(path: Path) -> float:
    """Return the step in the name of a grid or a projection, -inf where there is none."""
    found = re.fullmatch(r"step-([0-9]+)(\.png)?", path.name)
    return -math.inf if found is None else int(found[1])


def _step_of_line(values: Mapping[str, Any]) -> float:
    step = values.get("step")
    return step if type(step) is int else math.inf
