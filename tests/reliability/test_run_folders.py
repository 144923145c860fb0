"""Full disks, missing files, signals and links in a run's folder: a resumed run ends as an unbroken one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
from reference.states import differences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import snngan
from snngan.checkpoint import checkpoint_paths, load_newest
from snngan.cli import main
from snngan.data.datasets import load_dataset
from snngan.training.gan import GanTrainer

STEPS = 12
TINY = (
    "--dataset npz:{} --arch mlp --set width=16 --set latent_dim=8 --batch-size 32 --device cpu --objective gan"
    f" --steps {STEPS} --log-every 1 --sample-every 2 --checkpoint-every 3"
)
"""A run of a tenth of a second with checkpoints of 100 KB; options may be given again, and the last one counts."""
RUN = Path("run")
NEWEST = RUN / "checkpoints" / "step-00000006.safetensors"
"""Newest checkpoint in step 8; the one before is that of step 3."""
NOBODY = 65534

Files = dict[Path, bytes | str | None]


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if not line.startswith("step ")]


Cli = Callable[..., Printed]


@pytest.fixture(scope="module")
def few() -> Iterator[Path]:
    """Return a file of a few digits that every user can read."""
    with tempfile.TemporaryDirectory() as folder:
        digits, path = load_dataset("digits"), Path(folder) / "few.npz"
        np.savez(path, train_images=digits.train_images[:200].numpy(), test_images=digits.test_images[:24].numpy())
        os.chmod(folder, 0o755)
        yield path


@pytest.fixture(scope="module")
def tiny(few: Path) -> str:
    return TINY.format(few)


@pytest.fixture(scope="module")
def unbroken(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the finished run; not to be changed."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    assert call(f"train {tiny} --run-dir {path}") == 0
    return path


def call(command: str) -> int:
    """Run a command and return its exit status."""
    with pytest.raises(SystemExit) as left:
        main(shlex.split(command))
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs a command which must end with ``status``."""

    def run(command: str, status: int = 0) -> Printed:
        capsys.readouterr()
        code = call(command)
        said = Printed(*capsys.readouterr())
        assert code == status, said
        assert "Traceback" not in said.out + said.err
        return said

    return run


def files(folder: Path = Path()) -> Files:
    """Return what is in a folder, links unfollowed."""
    found: Files = {}
    for path in folder.rglob("*"):
        found[path] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def refused(cli: Cli, command: str, message: str, notes: int = 0) -> None:
    """Assert that a command ends with one line of error, after ``notes``, and changes nothing."""
    before = files()
    said = cli(command, 2)
    assert len(said.errors) == notes + 1, said
    assert re.fullmatch(f"Error: {message}", said.errors[-1]), said
    assert files() == before


def scalars(source: EventAccumulator | Path) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of every TensorBoard scalar of a run or its reader, by tag."""
    events = EventAccumulator(str(source), size_guidance={"scalars": 0}) if isinstance(source, Path) else source
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_unbroken(run: Path, unbroken: Path, **since: int) -> None:
    """Assert that a run's end, and what it has left, is the unbroken one's.

    Args:
        run: any.
        unbroken: what it must equal.
        since: the first step of which ``metrics``, ``samples`` and ``scalars`` are there; default: all.
    """
    ends = [load_newest(each / "checkpoints", pytest.fail) for each in (run, unbroken)]
    assert ends[0]["step"] == STEPS
    assert differences(*ends) == []
    lines = [(each / "metrics.jsonl").read_text().splitlines() for each in (run, unbroken)]
    assert lines[0] == lines[1][since.get("metrics", 0) :]  # one line for each step
    pictures = {path.name: path.read_bytes() for path in (unbroken / "samples").iterdir()}
    pictures = {name: each for name, each in pictures.items() if int(name[5:13]) >= since.get("samples", 0)}
    assert {path.name: path.read_bytes() for path in (run / "samples").iterdir()} == pictures
    expected = {
        tag: [(step, value) for step, value in values if step >= since.get("scalars", 0)]
        for tag, values in scalars(unbroken).items()
    }
    assert len(expected) > 5
    assert scalars(run) == expected
    assert not list(run.absolute().parent.rglob("*.part"))


def in_steps(patch: pytest.MonkeyPatch, **happens: Callable[[], object]) -> None:
    """Let each function be called once, in the step of its keyword, such as ``at8``."""
    normal = GanTrainer.step

    def step(self: GanTrainer, number: int) -> Any:
        happens.pop(f"at{number}", lambda: None)()
        return normal(self, number)

    patch.setattr(GanTrainer, "step", step)


def cut_off() -> NoReturn:
    """End the run where it is: nothing more is saved."""
    raise KeyboardInterrupt


def truncate(path: Path, fewer: int) -> None:
    os.truncate(path, path.stat().st_size - fewer)


def event_file() -> Path:
    return max(RUN.glob("events.out.tfevents.*"))


def broken_off(cli: Cli, tiny: str, *happens: Callable[[], object], at: int = 8, run: Path = RUN) -> None:
    """Train until step ``at``, let something happen, and be interrupted: steps 3 and 6 are saved, 7 is logged."""

    def all_of_them() -> None:
        for each in happens:
            each()
        cut_off()

    with pytest.MonkeyPatch.context() as patch:
        in_steps(patch, **{f"at{at}": all_of_them})
        assert cli(f"train {tiny} --run-dir {run}", 130).errors[-1].startswith("Error: interrupted")


# Full disks, and folders that cannot be written to


class Disk:
    """A small file system in memory, mounted at ``disk``, in which the test runs."""

    def __init__(self) -> None:
        self.place = Path("disk").absolute()
        self.place.mkdir()
        self.set("-t", "tmpfs", "tmpfs")

    def set(self, *words: str) -> None:
        if shutil.which("mount") is None:
            pytest.skip("there is no mount")
        done = subprocess.run(["mount", *words, str(self.place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk()
    os.chdir(made.place)
    yield made
    os.chdir(tmp_path)
    subprocess.run(["umount", str(made.place)], check=True)


@pytest.mark.parametrize("size", [16, 190, 350, 500])
def test_a_run_on_a_full_disk_resumes_once_there_is_room(
    cli: Cli, tiny: str, unbroken: Path, disk: Disk, size: int
) -> None:
    disk.set("-o", f"remount,size={size}k")
    said = cli(f"train {tiny} --run-dir run", 2)
    full = r"Error: run/\S+ could not be written: No space left on device"
    saved = checkpoint_paths(RUN / "checkpoints")
    hint = "; make room or correct that, then continue by: snngan resume run"
    assert len(said.errors) == 1 and re.fullmatch(full + hint, said.errors[0]), said
    step = load_newest(RUN / "checkpoints", pytest.fail)["step"] if saved else 0
    again = cli("resume run", 2)  # there still is no room
    assert len(again.errors) == 1 and re.match(full, again.errors[0]), again
    assert not saved or load_newest(RUN / "checkpoints", pytest.fail)["step"] >= step
    disk.set("-o", "remount,size=10m")
    assert f"trained {STEPS} steps" in cli("resume run").out
    assert_unbroken(RUN, unbroken)


@pytest.fixture
def nobody(unbroken: Path, few: Path) -> Iterator[Path]:
    """Continue in an open folder as a user without root permissions; all modules are imported by now."""
    before = Path.cwd()
    folder = Path(tempfile.mkdtemp()).resolve()
    shutil.copytree(unbroken, folder / "unbroken")
    folder.chmod(0o777)
    os.chdir(folder)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        if not os.access(few, os.R_OK, effective_ids=True) or not os.access(folder, os.W_OK, effective_ids=True):
            pytest.skip("the folder for temporary files is closed to others")
        yield folder
    finally:
        if root:
            os.seteuid(0)
        os.chdir(before)
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def write_protect(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def let_write(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_folder_without_write_permission_is_refused_and_not_changed(cli: Cli, tiny: str, nobody: Path) -> None:
    broken_off(cli, tiny)
    cli(f"train {tiny} --steps 1 --run-dir others/first")
    write_protect(RUN)
    write_protect(Path("others"))
    refused(cli, f"train {tiny} --run-dir others/new", "the run folder others/new cannot be made: Permission denied")
    refused(cli, "resume run", "run cannot be trained in: Permission denied")
    (RUN / ".lock").chmod(0o644)
    refused(cli, "resume run", r"run/config\.json could not be written: Permission denied.*")
    let_write(RUN)
    cli("resume run")
    assert_unbroken(RUN, Path("unbroken"))


def test_a_folder_that_loses_write_permission_while_training_keeps_its_checkpoints(
    cli: Cli, tiny: str, nobody: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_steps(patch, at8=partial(write_protect, RUN))
        said = cli(f"train {tiny} --run-dir run", 2)
    hint = "Permission denied; make room or correct that, then continue by: snngan resume run"
    assert len(said.errors) == 1 and re.fullmatch(rf"Error: run/\S+ could not be written: {hint}", said.errors[0])
    let_write(RUN)
    cli("resume run")
    assert_unbroken(RUN, Path("unbroken"))


# Files removed while a run trains


def remove_events() -> None:
    event_file().unlink()


remove_metrics = (RUN / "metrics.jsonl").unlink
remove_config = partial((RUN / "config.json").rename, "config.json")
remove_lock = (RUN / ".lock").unlink
truncate_newest = partial(truncate, NEWEST, 1000)
remove_checkpoints = partial(shutil.rmtree, RUN / "checkpoints")
remove_samples = partial(shutil.rmtree, RUN / "samples")


def damage_all() -> None:
    for path in checkpoint_paths(RUN / "checkpoints"):
        truncate(path, 1)


FAULTS: dict[str, tuple[Callable[[], object], dict[str, int]]] = {
    "metrics removed": (remove_metrics, {"metrics": 8}),
    "event file removed": (remove_events, {"scalars": 8}),
    "samples removed": (remove_samples, {"samples": 8}),
    "configuration removed": (remove_config, {}),
    "lock removed": (remove_lock, {}),
    "newest checkpoint truncated": (truncate_newest, {}),
    "newest checkpoint removed": (NEWEST.unlink, {}),
    "checkpoints removed": (remove_checkpoints, {}),
}
"""What happens in step 8, and the first step of what is kept afterwards."""
FATAL: dict[str, tuple[Callable[[], object], str, int]] = {
    "configuration removed": (remove_config, "run is not a run folder: it has no config.json", 0),
    "checkpoints removed": (remove_checkpoints, "no checkpoint in run/checkpoints: .*", 0),
    "checkpoints damaged": (
        damage_all,
        "no checkpoint in run/checkpoints is sound: all 2 are damaged; remove it, .*",
        2,
    ),
    "run folder removed": (partial(shutil.rmtree, RUN), "no run folder run: give the folder that .*", 0),
}
"""What happens in step 8 before a kill, the error of ``resume``, and the number of lines before it."""


@pytest.mark.parametrize("fault", FAULTS)
def test_training_continues_without_a_file_that_was_removed_and_can_be_stopped(
    cli: Cli, tiny: str, unbroken: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    happens, since = FAULTS[fault]
    in_steps(monkeypatch, at8=happens, at10=partial(signal.raise_signal, signal.SIGTERM))
    said = cli(f"train {tiny} --run-dir run", 143)
    assert said.out.splitlines()[-1] == "SIGTERM: saved at step 10; continue by: snngan resume run"
    if fault == "configuration removed":
        refused(cli, "resume run", FATAL[fault][1])
        Path("config.json").rename(RUN / "config.json")
    said = cli("resume run")
    assert said.errors == []
    assert f"resuming run at step 10 of {STEPS}" in said.out
    assert_unbroken(RUN, unbroken, **since)


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - FATAL.keys()))
def test_a_run_killed_after_a_file_was_removed_resumes_from_the_newest_sound_checkpoint(
    cli: Cli, tiny: str, unbroken: Path, fault: str
) -> None:
    happens, since = FAULTS[fault]
    broken_off(cli, tiny, happens)
    damaged = {f"{NEWEST.name}.damaged": NEWEST.read_bytes()} if "truncated" in fault else {}
    said = cli("resume run")
    assert len(said.errors) == len(damaged)
    assert all("falling back to the checkpoint before it" in line for line in said.errors)
    assert f"resuming run at step {3 if 'newest' in fault else 6} of {STEPS}" in said.out
    assert {path.name: path.read_bytes() for path in RUN.rglob("*.damaged")} == damaged
    assert_unbroken(RUN, unbroken, **{kind: step - (kind != "samples") for kind, step in since.items()})


@pytest.mark.parametrize("fault", FATAL)
def test_a_run_killed_after_too_much_was_removed_is_refused_and_not_changed(cli: Cli, tiny: str, fault: str) -> None:
    happens, message, notes = FATAL[fault]
    broken_off(cli, tiny, happens)
    refused(cli, "resume run", message, notes)


LONG = "--log-every 20 --sample-every 20 --checkpoint-every 4"
NEXT = {
    "metrics": "",
    "a checkpoint": LONG,
    "a projection": f"{LONG} --objective snnl-projected",
}
"""Options with which the run writes this next."""


@pytest.mark.parametrize("options", NEXT.values(), ids=NEXT)
def test_a_run_folder_that_was_removed_is_not_created_again(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    in_steps(monkeypatch, at8=partial(shutil.rmtree, RUN))
    said = cli(f"train {tiny} {options} --run-dir run", 2)
    assert len(said.errors) == 1
    assert re.fullmatch(r"Error: run(/\S+)? could not be written: No such file or directory.*", said.errors[0])
    assert not Path("run").exists()


# Clocks


@pytest.mark.parametrize("then", [lambda now: now - 3600, lambda now: 4e9], ids=["hour", "2096"])
def test_a_clock_that_is_set_back_or_forward_duplicates_no_scalar(
    cli: Cli, tiny: str, unbroken: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[float], float]
) -> None:
    broken_off(cli, tiny)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: then(now))
    with pytest.MonkeyPatch.context() as patch:
        in_steps(patch, at11=cut_off)
        cli("resume run", 130)
    monkeypatch.setattr(time, "time", lambda: then(now))  # a clock that stands still
    cli("resume run")
    assert_unbroken(RUN, unbroken)
    for values in scalars(RUN).values():
        assert len({step for step, _ in values}) == len(values)


# Two processes

SCRIPT = """
import os, sys, time
from snngan.cli import main
from snngan.training.gan import GanTrainer

normal, waiting = GanTrainer.step, int(os.environ.get("WAIT_AT", 0))

def step(self, number):
    if number == waiting:
        open("waiting", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    return normal(self, number)

GanTrainer.step = step
for command in sys.argv[1:]:
    try:
        main(command.split())
    except SystemExit as left:
        status = left.code
sys.exit(status)
"""
"""Runs commands and exits with the status of the last; waits in step WAIT_AT for a file ``go``."""


@contextmanager
def process(*commands: str, wait_at: int = 0, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run commands in a separate process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WAIT_AT": str(wait_at)}
    environment["PYTHONPATH"] = str(Path(snngan.__file__).parents[1])
    words = [sys.executable, "-W", "error", "-c", SCRIPT, *commands]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen(words, text=True, env=environment, **options) as started:
        try:
            yield started
        finally:
            started.kill()


def wait_for(path: str, started: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not Path(path).exists():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline, "it is too slow"
        time.sleep(0.01)


# TensorBoard


@contextmanager
def reader(run: Path) -> Iterator[EventAccumulator]:
    """Read a run's events over and over in the background; an exception there is raised here."""
    events, ended = EventAccumulator(str(run), size_guidance={"scalars": 0}), threading.Event()

    def read() -> None:
        while not ended.is_set():
            scalars(events)
            time.sleep(0.002)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            yield events
        finally:
            ended.set()
        reading.result()


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_killed_while_tensorboard_reads(
    cli: Cli, tiny: str, unbroken: Path
) -> None:
    with process(f"train {tiny} --run-dir run", wait_at=8) as first:
        wait_for("run", first)
        with reader(RUN) as events:
            wait_for("waiting", first)
            for command in ("resume run", "resume run --steps 20"):
                refused(cli, command, "run is being trained by another process; wait for it, or stop it")
            first.kill()
            first.wait()
            with pytest.MonkeyPatch.context() as patch:
                in_steps(patch, at11=cut_off)
                assert f"resuming run at step 6 of {STEPS}" in cli("resume run", 130).out
            cli("resume run")
    assert scalars(events) == scalars(unbroken)
    assert_unbroken(RUN, unbroken)


@pytest.mark.parametrize("fewer", [3, 40])
def test_a_truncated_line_or_event_hides_nothing_after_it(cli: Cli, tiny: str, unbroken: Path, fewer: int) -> None:
    broken_off(cli, tiny)
    truncate(event_file(), fewer)
    truncate(RUN / "metrics.jsonl", fewer)
    with reader(RUN) as events:
        deadline = time.monotonic() + 60
        while not events.Tags()["scalars"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        cli("resume run")
    assert scalars(events) == scalars(unbroken)
    assert_unbroken(RUN, unbroken)


# Terminals


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """Give SIGHUP its default effect, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
def test_a_closed_terminal_ends_the_run_after_saving(
    cli: Cli, tiny: str, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGHUP)
    in_steps(monkeypatch, at8=partial(signal.raise_signal, signal.SIGHUP))
    said = cli(f"train {tiny} --run-dir run", 129)
    assert said.out.splitlines()[-1] == "SIGHUP: saved at step 8; continue by: snngan resume run"
    assert signal.getsignal(signal.SIGHUP) == before
    cli("resume run")
    assert_unbroken(RUN, unbroken)


def test_under_nohup_a_run_continues(cli: Cli, tiny: str, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        in_steps(monkeypatch, at8=partial(signal.raise_signal, signal.SIGHUP))
        cli(f"train {tiny} --run-dir run")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_unbroken(RUN, unbroken)


TERMINAL = f"import os, sys; os.close(os.open(sys.argv.pop(), os.O_RDWR)); {SCRIPT.strip()}"
"""The same, with the last argument as its terminal."""


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.slow
def test_a_run_whose_terminal_is_gone_still_saves(cli: Cli, tiny: str, unbroken: Path) -> None:
    master, slave = os.openpty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "SCRIPT", TERMINAL)
        command = process(
            f"train {tiny} --run-dir run", os.ttyname(slave), wait_at=8, start_new_session=True,
            stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        with command as first:
            os.close(slave)
            wait_for("waiting", first)
            os.close(master)  # the terminal is closed, which sends SIGHUP
            Path("go").touch()
            assert first.wait(60) == 129
    assert load_newest(RUN / "checkpoints", pytest.fail)["step"] == 8
    cli("resume run")
    assert_unbroken(RUN, unbroken)


@pytest.mark.slow
def test_a_closed_standard_error_ends_no_run(cli: Cli, tiny: str, unbroken: Path) -> None:
    broken_off(cli, tiny, truncate_newest)  # which resume prints a note about
    ours, theirs = os.pipe()
    os.close(ours)
    with process("resume run", f"train {tiny} --run-dir new", stderr=theirs) as done:
        os.close(theirs)
        out, _ = done.communicate(timeout=60)
    assert done.returncode == 0, out
    assert_unbroken(RUN, unbroken)
    assert_unbroken(Path("new"), unbroken)


# Links


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "samples", "config.json"])
def test_a_link_within_the_folder_is_followed(cli: Cli, tiny: str, unbroken: Path, name: str) -> None:
    broken_off(cli, tiny)
    (RUN / name).rename(RUN / "inside")
    (RUN / name).symlink_to("inside")
    cli("resume run")
    assert_unbroken(RUN, unbroken)


def test_a_link_to_the_run_folder_is_followed(cli: Cli, tiny: str, unbroken: Path) -> None:
    broken_off(cli, tiny, run=Path("elsewhere"))
    RUN.symlink_to("elsewhere")
    cli("resume run")
    assert RUN.is_symlink()
    assert_unbroken(RUN, unbroken)


# Before the first checkpoint


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_killed_before_its_first_checkpoint_starts_again(cli: Cli, tiny: str, unbroken: Path, at: int) -> None:
    broken_off(cli, tiny, at=at)
    assert not (RUN / "checkpoints").exists()
    assert f"resuming run at step 0 of {STEPS}" in cli("resume run").out
    assert_unbroken(RUN, unbroken)
