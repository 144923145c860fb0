"""Trials of runs that are killed with SIGKILL at random moments, resumed, and compared with unbroken runs bit by bit.

Commands run in children forked from one process with all modules imported, so that a trial takes a second or two. A
child dies at a random time or at a random write: before a file is synced, renamed or removed, or with half of its
content written.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which an optimizer imports
from reference.files import Watched
from reference.states import differences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import snngan.cli.training
import snngan.evaluation.training_metrics  # noqa: F401
from snngan.checkpoint import checkpoint_paths, load_newest
from snngan.cli import main
from snngan.data.datasets import load_dataset

INTERVAL = 6
"""Steps between checkpoints."""
STEPS = 40
COMMON = f"--steps {STEPS} --batch-size 16 --checkpoint-every {INTERVAL} --log-every 4 --device cpu"
NETWORKS = "--arch mlp --set width=16 --set latent_dim=8 --sample-every 10"
KINDS = {
    "snnl-projected": f"train {COMMON} {NETWORKS} --objective snnl-projected",
    "snnl-pixel": f"train {COMMON} {NETWORKS} --objective snnl-pixel --set temperature=learned:1 --metrics-every 10",
    "conditional": f"train {COMMON} {NETWORKS} --objective gan --conditional",
    "features": f"train {COMMON} {NETWORKS} --objective snnl-features --set batch_size=20 --metrics-every 10",
    "wgan-gp": f"train {COMMON} {NETWORKS} --objective wgan-gp --set discriminator_steps=2",
    "classifier": f"classify train {COMMON} --arch cnn-small --set width=4 --seeds 0:2 --ensemble vectorized",
    "classifier-sgd": f"classify train {COMMON} --arch feedforward --optimizer sgd --temperature learned:1",
}


def data_in(folder: Path) -> Path:
    """Write a few labeled digits and return their file."""
    digits = load_dataset("digits", keep=False)
    halves = {"train": digits.train_images[:120], "test": digits.test_images[:24]}
    labels = {"train": digits.train_labels, "test": digits.test_labels}
    path = folder / "few.npz"
    arrays = {f"{half}_images": images.numpy() for half, images in halves.items()}
    arrays |= {f"{half}_labels": own[: len(halves[half])].numpy() for half, own in labels.items() if own is not None}
    np.savez(path, **arrays)
    return path


def start(command: str, said: Path, dies_at: int | None = None) -> int:
    """Run a command in a child process and return its number; the child kills itself at the write ``dies_at``."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1), os.dup2(handle, 2)
        with writes_counted(said.with_suffix(".writes"), dies_at):
            main(command.split())
    except SystemExit as left:
        status = int(left.code or 0)
    finally:
        os._exit(status)


@contextlib.contextmanager
def writes_counted(record: Path, dies_at: int | None) -> Iterator[None]:
    """Count operations that change the disk, write the count to ``record``, and die at number ``dies_at``."""
    count, opened = 0, builtins.open

    def count_write(die: Callable[[], Any] = lambda: None) -> None:
        nonlocal count
        count += 1
        if count == dies_at:
            die()
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def before(*arguments: Any, **options: Any) -> Any:
            count_write()
            return call(*arguments, **options)

        return before

    def half_then_all(file: Any, content: Any) -> Any:
        count_write(lambda: (file.write(content[: len(content) // 2]), file.flush()))
        return file.write(content)

    def watched(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        found = opened(file, mode, *rest, **options)
        return Watched(found, half_then_all) if set(mode) & set("wax+") else found

    calls = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "mkdir")}
    builtins.open = io.open = watched  # type: ignore[assignment]
    for name, call in calls.items():
        setattr(os, name, counted(call))
    try:
        yield
    finally:
        for name, call in calls.items():
            setattr(os, name, call)
        builtins.open = io.open = opened
        record.write_text(str(count))


def wait(child: int, run: Path, seconds: float | None) -> int:
    """Return the exit status of a child; with ``seconds``, kill it that long after its run folder was created."""
    deadline, limit = None, time.monotonic() + 120
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic()
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline is None and seconds is not None and (run / "config.json").exists():
            deadline = now + seconds
        if now > (deadline or limit):
            assert deadline, f"{run}: it does not end"
            os.kill(child, signal.SIGKILL)
        time.sleep(0.0005)


class Unbroken:
    """A run without a kill, with the time and the number of writes that it takes."""

    def __init__(self, kind: str, folder: Path, data: Path) -> None:
        self.command = f"{KINDS[kind]} --dataset npz:{data} --data-dir {folder}/data"
        self.run = folder / f"unbroken-{kind}"
        said = folder / f"unbroken-{kind}.txt"
        child = start(f"{self.command} --run-dir {self.run}", said)
        while not (self.run / "config.json").exists():
            time.sleep(0.001)
        began = time.monotonic()
        assert wait(child, self.run, None) == 0, said.read_text()
        self.seconds = time.monotonic() - began
        self.writes = int(said.with_suffix(".writes").read_text())

    def differences_from(self, run: Path) -> list[str]:
        """Return the differences of another finished run."""
        notes: list[str] = []
        states = [load_newest(each / "checkpoints", notes.append) for each in (self.run, run)]
        found = notes + differences(*states)
        names = [sorted(str(path.relative_to(each)) for path in each.rglob("*") if path.is_file()
                        and "tfevents" not in path.name) for each in (self.run, run)]  # fmt: skip
        # Killed once the last checkpoint was saved, a run may have one more of the old ones.
        found += [f"only one has {name}" for name in {*names[0]} ^ {*names[1]} if "checkpoints" not in name]
        found += [f"{name} is missing" for name in {*names[0]} - {*names[1]}]
        for name in {*names[0]} & {*names[1]} - {"config.json"}:
            if (self.run / name).read_bytes() != (run / name).read_bytes() and not name.endswith(".safetensors"):
                found.append(f"{name} differs")
        if scalars(self.run) != scalars(run):
            found.append("TensorBoard's scalars differ")
        return found


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of every TensorBoard scalar of a run, by tag."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def sound_step(run: Path) -> int:
    """Return the step of the newest sound checkpoint, 0 if there is none."""
    if not checkpoint_paths(run / "checkpoints"):
        return 0
    step: int = load_newest(run / "checkpoints")["step"]
    return step


def last_step(run: Path) -> int:
    """Return the last step in the run's metrics."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def trial(unbroken: Unbroken, run: Path, chance: random.Random, tally: Counter[str]) -> list[str]:
    """Kill a run one to three times, resume it to its end, and return what is wrong with the result."""
    said, wrong, reached = run.with_suffix(".txt"), [], 0
    command = f"{unbroken.command} --run-dir {run}"
    for _ in range(chance.choice((1, 1, 2, 3))):
        at_write = chance.random() < 0.5
        dies_at = chance.randint(1, unbroken.writes) if at_write else None
        status = wait(
            start(command, said, dies_at), run, None if at_write else chance.uniform(0, 1.05 * unbroken.seconds)
        )
        if not run.exists():
            tally["killed before there was a run"] += 1
            continue
        command = f"resume {run}"
        if status == 0:
            tally["ended before it was killed"] += 1
            break
        if status != -signal.SIGKILL:
            return [f"ended with {status}: {said.read_text()[-500:]}"]
        tally["kills at a write" if at_write else "kills at a time"] += 1
        parts = [path.name for path in run.rglob(".*.part")]
        tally["of them while a checkpoint was written"] += any(".safetensors" in name for name in parts)
        sound, logged = sound_step(run), last_step(run)
        due = (logged - 1) // INTERVAL * INTERVAL  # what was logged after it was saved
        if sound < max(due, reached):
            wrong.append(f"the newest checkpoint is of step {sound}, with {logged} logged and {reached} there before")
        reached = sound
        tally["of them before the first checkpoint"] += not sound
    status = wait(start(command, said), run, None)
    if status:
        return [*wrong, f"resume ended with {status}: {said.read_text()[-500:]}"]
    return wrong + unbroken.differences_from(run)


def trials(count: int, seed: int, folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Any]:
    """Return the result of ``count`` trials, spread over some kinds of runs."""
    torch.set_num_threads(1)
    data, chance, tally = data_in(folder), random.Random(seed), Counter[str]()
    unbroken = {kind: Unbroken(kind, folder, data) for kind in kinds}
    wrong: list[str] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        before = tally["kills at a time"] + tally["kills at a write"]
        while tally["kills at a time"] + tally["kills at a write"] == before and not wrong:  # each is killed once
            run = folder / f"{number:04d}-{kind}"
            found = trial(unbroken[kind], run, chance, tally)
            wrong += [f"{run.name}: {line}" for line in found]
            if not found:
                shutil.rmtree(run, ignore_errors=True)
        tally["trials"] += 1
        tally[f"trials of {kind}"] += 1
        if wrong:
            break
        if number % 20 == 19:
            print(f"{number + 1} of {count}")
    return {"seed": seed, "interval": INTERVAL, "steps": STEPS, **tally, "wrong": wrong}
