"""The run folder: what a run writes besides its checkpoints, and how it is opened again."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from snngan.config import ClassifyPlan, Plan
from snngan.data.grids import draw_images, save_png
from snngan.files import SaveError, remove_temporary_files, sync, temporary_path, write_atomically
from snngan.training.checkpoint import checkpoint_paths, clear_after, save_checkpoint, step_of
from snngan.training.classifier_plan import classify_plan_from_json
from snngan.training.environment import changes_since, environment
from snngan.training.plan import build_architecture, plan_from_json
from snngan.training.tensorboard import EventFile, write_projection
from snngan.untrusted import read_json, read_lines

P = TypeVar("P", Plan, ClassifyPlan)


def next_run_dir(plan: Plan | ClassifyPlan, parent: Path = Path("runs")) -> Path:
    """Return ``parent``/NNNN-DATASET-TITLE with the next free number."""
    numbers = [int(found[1]) for path in parent.glob("*") if (found := re.match(r"([0-9]{4,9})-", path.name))]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", plan.dataset.rpartition("/")[2]).strip("-.")[-40:] or "data"
    return parent / f"{max(numbers, default=0) + 1:04d}-{name}-{plan.title}"


class Folder(ABC, Generic[P]):
    """One run's folder: ``config.json``, ``metrics.jsonl``, ``checkpoints/`` and TensorBoard events."""

    kind: ClassVar[str]
    """What is trained, as it stands in ``config.json`` and in messages."""

    def __init__(self, path: Path, plan: P) -> None:
        self.path = path
        self.plan: P = plan
        self._resumed_at: int | None = None

    def __repr__(self) -> str:
        steps = [step_of(path) for path in checkpoint_paths(self.checkpoints)]
        reached = f"step {steps[-1]} of {self.plan.steps}" if steps else "no checkpoint"
        return f"{type(self).__name__}({str(self.path)!r}, {self.plan.title} on {self.plan.dataset}, {reached})"

    @staticmethod
    @abstractmethod
    def read_plan(values: Mapping[str, Any]) -> P:
        """Return the plan of this kind that was written as ``values``; raises ``ValueError``."""

    @classmethod
    def create(cls, path: Path, plan: P, device: torch.device) -> Self:
        """Make the folder, which must not exist, with ``config.json`` in it: both at once, whatever happens meanwhile.

        Raises:
            ValueError: it exists, or cannot be made.
            SaveError: ``config.json`` could not be written.
        """
        cls.check_new(path)
        content = {"kind": cls.kind, "plan": asdict(plan), "environment": environment(device)}
        beside = temporary_path(path)
        try:
            beside.mkdir(parents=True)
            with writing(path / "config.json"):
                with open(beside / "config.json", "w", encoding="utf-8") as file:
                    file.write(json.dumps(content, indent=2) + "\n")
                sync(beside / "config.json")
                sync(beside)
            os.rename(beside, path)  # fails where a folder with something in it has come meanwhile
            sync(path.parent)
        except OSError as error:
            cls.check_new(path)
            raise ValueError(f"the run folder {path} cannot be made: {error.strerror}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return cls(path, plan)

    @staticmethod
    def check_new(path: Path) -> None:
        """Raise ``ValueError`` if there is something at ``path``, or no folder can be made there."""
        if (path / "config.json").exists():
            raise ValueError(
                f"{path} exists already: choose another --run-dir, or go on with it by: "
                f"snngan resume {shlex.quote(str(path))}"
            )
        if path.exists():
            raise ValueError(f"{path} exists already, and is no run's folder: choose another --run-dir")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise ValueError(f"the run folder {path} cannot be made: {nearest} is a file")

    @classmethod
    def create_next(cls, plan: P, device: torch.device) -> Self:
        """Make the folder :func:`next_run_dir` names; runs that start at the same moment get one each.

        Raises:
            ValueError: it cannot be made.
        """
        tried = None
        while True:
            path = next_run_dir(plan)
            try:
                return cls.create(path, plan, device)
            except ValueError:
                if path == tried or not path.is_dir():
                    raise
            tried = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the run in the folder ``path``.

        Raises:
            ValueError: there is no such folder, or its ``config.json`` is missing or not a run's.
        """
        return cls._of(path, *_configuration(path))

    @classmethod
    def _of(cls, path: Path, kind: str, plan: Mapping[str, Any]) -> Self:
        if kind != cls.kind:
            raise ValueError(f"{path} is the run of a {kind}; this takes a {cls.kind}'s")
        try:
            return cls(path, cls.read_plan(plan))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path / 'config.json'} is not a run's configuration: {error}") from error

    def set_steps(self, steps: int) -> None:
        """Let the run go on to ``steps``; :meth:`rewind`, called once it can, writes that down."""
        self.plan = self.plan.with_steps(steps)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder at the same time; the lock ends with the process.

        Raises:
            ValueError: one does so already, or the folder cannot be written to.
        """
        import fcntl

        lock = self.path / ".lock"
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be trained in: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{self.path} is being trained by another process; wait for it, or stop it") from error
            except OSError:
                pass  # a file system without locks
            if not lock.exists() or not os.path.samestat(os.fstat(handle), lock.stat()):
                raise ValueError(f"{self.path} was removed by another process; start again")
            yield
        finally:
            os.close(handle)

    def check_links(self) -> None:
        """Raise ``ValueError`` where a link would lead what is written out of the folder, which may be anyone's.

        And where there is a pipe or a device, whose writer may wait for ever.
        """
        for path in self.path.rglob("*"):  # not through links
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path} is no ordinary file; remove it")
            real = os.path.realpath(path)
            if path.is_symlink() and not Path(real).is_relative_to(os.path.realpath(self.path)):
                raise ValueError(f"{path} is a link out of the run's folder, to {real}; move that to where the link is")

    def changed_since_begun(self) -> list[str]:
        """Return lines on what has changed since the run was begun that the last bits of its numbers depend on."""
        begun = read_json(self.path / "config.json").get("environment")
        return changes_since(begun if isinstance(begun, dict) else {})

    @property
    def quoted(self) -> str:
        """The folder's path as a shell takes it, and commands after that."""
        return shlex.quote(f"./{self.path}" if str(self.path).startswith("-") else str(self.path))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def rewind(self, step: int) -> None:
        """Forget what was logged after ``step``, so that a resumed run logs it once, and write down its plan.

        Checkpoints of later steps, which were damaged, are set aside. What a killed process left half written goes.

        Raises:
            SaveError: the folder cannot be written to.
        """
        self._rewind(step, {"plan": asdict(self.plan)})

    def begin_again(self, device: torch.device) -> None:
        """Forget everything that was logged and saved, as :meth:`rewind` does, and where it was begun."""
        self._rewind(-1, {"plan": asdict(self.plan), "environment": environment(device)})

    def _rewind(self, step: int, changed: dict[str, Any]) -> None:
        with writing(self.path):
            remove_temporary_files(self.path)
            for folder in ("samples", "projector"):
                for path in (self.path / folder).glob("step-*"):
                    if _number_of(path) > step:
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        file = self.path / "config.json"
        write_atomically(file, (json.dumps(read_json(file) | changed, indent=2) + "\n").encode())
        file = self.path / "metrics.jsonl"
        if file.exists():
            kept = [values for values in read_lines(file) if _step_of(values) <= step]
            write_atomically(file, "".join(json.dumps(values) + "\n" for values in kept).encode())
        clear_after(self.checkpoints, step)
        self._resumed_at = step

    def last_logged(self) -> float:
        """Return the step of the last reading, -1 where there is none."""
        steps = (_step_of(values) for values in read_lines(self.path / "metrics.jsonl"))
        return max((step for step in steps if step < math.inf), default=-1)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; what was logged until then is on the disk first, so that it never lags behind.

        Raises:
            SaveError: it could not be written; those before it are as they were.
        """
        with writing(self.path):
            self.checkpoints.mkdir(exist_ok=True)
            sync(self.path)  # nothing is saved into a folder that was taken away
            for path in (self.path / "metrics.jsonl", self._events.path):
                if path.exists():
                    sync(path)
        save_checkpoint(self.checkpoints, step, state)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Append ``scalars`` to ``metrics.jsonl`` (an infinite temperature as null) and to TensorBoard."""
        with writing(self.path / "metrics.jsonl") as path, open(path, "a", encoding="utf-8") as file:
            values = {tag: value if math.isfinite(value) else None for tag, value in sorted(scalars.items())}
            file.write(json.dumps({"step": step, **values}) + "\n")
        with writing(self._events.path):
            self._events.add_scalars(step, scalars)

    @cached_property
    def _events(self) -> EventFile:
        return EventFile(self.path, self._resumed_at)


class GanRun(Folder[Plan]):
    """The run of a generator: it has ``samples/`` too."""

    kind = "generator"

    @staticmethod
    def read_plan(values: Mapping[str, Any]) -> Plan:
        return plan_from_json(values)

    @property
    def latent_dim(self) -> int:
        """Length of the generator's input vector."""
        return build_architecture(self.plan).latent_dim

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def log_samples(self, step: int, fake: Tensor, real: Tensor) -> Path:
        """Write the pictures of ``fake`` and, beside them in TensorBoard, of ``real`` (N, C, H, W) in [-1, 1]."""
        pictures = {"samples/fixed_noise": draw_images(fake, background=real)}
        if step == 0:
            pictures["samples/real"] = draw_images(real)
        with writing(self.samples / f"step-{step:08d}.png") as path:
            self.samples.mkdir(exist_ok=True)  # and not the run's folder: it may have been taken away
            save_png(pictures["samples/fixed_noise"], path)
        with writing(self._events.path):
            self._events.add_pictures(step, pictures)
        return path

    def log_projection(self, step: int, points: Tensor, images: Tensor, names: list[str]) -> None:
        """Show ``points`` (N, D) with their ``images`` (N, C, H, W) in [-1, 1] and ``names`` in the projector."""
        with writing(self.path / "projector") as folder:
            folder.mkdir(exist_ok=True)
        write_projection(self.path, step, points, images, names)


class ClassifierRun(Folder[ClassifyPlan]):
    """The run of a classifier, or of several of one kind."""

    kind = "classifier"

    @staticmethod
    def read_plan(values: Mapping[str, Any]) -> ClassifyPlan:
        return classify_plan_from_json(values)


def open_run(path: Path) -> GanRun | ClassifierRun:
    """Return the run in the folder ``path``, whatever its kind.

    Raises:
        ValueError: as :meth:`Folder.open`.
    """
    kind, plan = _configuration(path)
    return (ClassifierRun if kind == ClassifierRun.kind else GanRun)._of(path, kind, plan)


def _configuration(path: Path) -> tuple[str, Any]:
    """Return kind and plan of the run in the folder ``path``, the plan unread."""
    if not path.is_dir():
        raise ValueError(f"no run folder {path}: give the folder that snngan train named, such as runs/0001-...")
    file = path / "config.json"
    if not file.exists():
        inside = next((each.parent for each in sorted(path.glob("*/config.json"))), None)
        hint = "" if inside is None else f"; give one of the runs in it, such as {inside}"
        raise ValueError(f"{path} is no run folder: it has no config.json{hint}")
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("plan"), dict):
        raise ValueError(f"{file} is not a run's configuration: it has no plan")
    return str(content.get("kind", GanRun.kind)), content["plan"]


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Turn an ``OSError`` into the ``SaveError`` that names ``path``."""
    try:
        yield path
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error


def _number_of(path: Path) -> float:
    """Return the step in the name of a grid or a projection, -inf where there is none."""
    found = re.fullmatch(r"step-([0-9]+)(\.png)?", path.name)
    return -math.inf if found is None else int(found[1])


def _step_of(values: Mapping[str, Any]) -> float:
    step = values.get("step")
    return step if type(step) is int else math.inf
