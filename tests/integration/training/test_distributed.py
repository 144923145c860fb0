"""A run on two processes equals the run on one; a process that dies ends it, and nothing that was saved is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.ranks import CASES, CPU, digits, make_config, train_alone, train_to_end
from reference.runs import state_of
from reference.states import differences
from torch import Tensor

from snngan.api import make_trainer
from snngan.checkpoint import checkpoint_paths
from snngan.cli import main
from snngan.config import Config
from snngan.data import Dataset
from snngan.losses.backends import MAX_DENSE_SAMPLES
from snngan.training.gan import GanTrainer
from snngan.training.run_folder import open_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = Path(__file__).parents[2] / "reference" / "ranks.py"
STEPS, SHORT = 120, 6
LONG = ["snnl-projected"]
INTERCHANGED = [
    "snnl-projected",
    "conditional gan",
    "features",
    "wgan-gp, batch",
    "classifier",
    "vectorized",
    "batch norm",
]
TOLERANCE = 1e-4
"""Relative, of losses in the first steps; sums are rounded in another order."""
LATER = 0.02
"""Relative, of the mean loss of the last 50 steps: adversarial training magnifies rounding."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits()


def saved_state(path: Path) -> dict[str, Any]:
    return state_of(open_run(path, Config))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """Return a folder of runs that two ranks trained or continued, all in one job."""
    folder = tmp_path_factory.mktemp("two")
    for name in INTERCHANGED:
        train_alone(folder / "second-two", name, dataset, 3)
    train_alone(folder / "checkpoint", "gan", dataset, 2)
    jobs = [
        ("long", STEPS, LONG, ""), ("short", SHORT, [name for name in CASES if name not in LONG], ""),
        ("first-two", 3, INTERCHANGED, ""), ("second-two", 6, INTERCHANGED, ""),
        ("data", 3, ["gan"], "data"), ("checkpoint", 4, ["gan"], "checkpoint"),
    ]  # fmt: skip
    words = [*TORCHRUN, str(SCRIPT), json.dumps([(str(folder / name), *rest) for name, *rest in jobs])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def batch_statistics(state: Any, path: str = "") -> dict[str, Tensor]:
    """Return the batch statistics in a checkpoint by where they are."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: each for key, part in items for name, each in batch_statistics(part, f"{path}/{key}").items()}
    return {path: state} if "running_" in path else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_process_with_the_same_global_batch(
    two: Path, name: str, tmp_path: Path, dataset: Dataset
) -> None:
    """They also equal each other: ranks.py compares their states."""
    where, steps = (two / "long", STEPS) if name in LONG else (two / "short", SHORT)
    alone = torch.tensor(train_alone(tmp_path, name, dataset, steps))
    together = torch.tensor(torch.load(where / f"{name}.losses"))
    assert alone.shape == together.shape == (steps, alone.shape[1])
    torch.testing.assert_close(together[:20], alone[:20], rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(together[-50:].mean(0), alone[-50:].mean(0), rtol=LATER, atol=LATER)
    runs = where / name, tmp_path / name
    for run in runs:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, steps]  # one rank wrote, once
    torch.testing.assert_close(*(batch_statistics(saved_state(run)) for run in runs), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_equal_one(tmp_path: Path) -> None:
    losses = []
    for number, start in enumerate(([sys.executable], TORCHRUN)):
        words = ["-m", "snngan", "train", "--dataset", "digits", "--objective", "snnl-projected", "--arch", "dcgan"]
        words += [
            "--set",
            "width=4",
            "--batch-size",
            "16",
            "--steps",
            "20",
            "--log-every",
            "20",
            "--metrics-every",
            "0",
        ]
        run = tmp_path / str(number)
        subprocess.run([*start, *words, "--device", "cuda", "--run-dir", str(run)], check=True, timeout=300)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        losses.append({tag: value for tag, value in last.items() if tag.startswith("loss/")})
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_the_cases_cover_batch_norm_and_losses_in_tiles(dataset: Dataset) -> None:
    for name in ("wgan-gp, batch", "hinge, batch"):
        trainer = GanTrainer(make_config(name, dataset, 1), dataset, CPU)
        assert any(isinstance(each, torch.nn.BatchNorm1d) for each in trainer.discriminator.modules())
    assert 2 * make_config("large batch", dataset, 1).batch_size > MAX_DENSE_SAMPLES


def outputs(path: Path, dataset: Dataset) -> Tensor:
    """Return samples of the EMA generator, or the classifiers' logits, from the newest checkpoint."""
    run, noise = open_run(path, Config), torch.Generator().manual_seed(0)
    trainer = make_trainer(run.config, dataset, CPU, state_of(run))
    if isinstance(trainer, GanTrainer):
        labels = torch.arange(8) if trainer.config.conditional else None
        return trainer.sample(torch.randn(8, trainer.latent_dim, generator=noise), labels)
    return trainer.ensemble.logits(2 * torch.rand(8, *run.config.image_shape, generator=noise) - 1)


@pytest.mark.slow
def test_checkpoints_are_interchangeable(two: Path, tmp_path: Path, dataset: Dataset) -> None:
    """6 steps on one process; 3 on two and 3 on one; 3 on one and 3 on two."""
    for name in INTERCHANGED:
        train_alone(tmp_path, name, dataset, 6)
        run = open_run(two / "first-two" / name, Config)
        run.set_steps(6)
        train_to_end(make_trainer(run.config, dataset, CPU, state_of(run)), run)
        whole = tmp_path / name
        for other in (run.path, two / "second-two" / name):
            state = saved_state(other)
            assert state["step"] == 6
            for part in ("batches", "torch_rng"):
                assert differences(state[part], saved_state(whole)[part]) == []
            torch.testing.assert_close(outputs(other, dataset), outputs(whole, dataset), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_ranks_with_other_data_or_checkpoints_are_refused(two: Path) -> None:
    assert "differ from those the run was started with" in (two / "data" / "error").read_text()
    assert not checkpoint_paths(two / "data" / "gan" / "checkpoints")
    assert "do not see the same checkpoints" in (two / "checkpoint" / "error").read_text()
    assert saved_state(two / "checkpoint" / "gan")["step"] == 2


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_which_resumes_until_a_rank_gets_sigterm(tmp_path: Path) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors"
    words = "train --dataset digits --objective gan --set width=4 --batch-size 16 --steps 100000 --checkpoint-every 5"
    with started(f"{words} --metrics-every 0 --run-dir {run} --device cpu", errors) as job:
        wait_until(lambda: len(checkpoint_paths(run / "checkpoints")) >= 2, errors)
        os.kill(rank_of(1, job), signal.SIGKILL)
        assert job.wait(timeout=120) != 0
    assert f"another process ended; continue by: snngan resume {run}" in " ".join(errors.read_text().split())
    step = saved_state(run)["step"]
    with started(f"resume {run} --device cpu", errors) as job:
        wait_until(lambda: saved_state(run)["step"] > step, errors)
        os.kill(rank_of(1, job), signal.SIGTERM)
        job.wait(timeout=120)
    (line,) = re.findall("SIGTERM: saved at step ([0-9]+)", errors.read_text())
    assert saved_state(run)["step"] == int(line)
    assert errors.read_text().count("resuming") == 1  # only the first rank prints


@pytest.mark.slow
def test_an_error_is_printed_once(tmp_path: Path) -> None:
    words = "train --dataset digits --device cpu --batch-size 15 --metrics-every 0"
    done = subprocess.run([*TORCHRUN, "-m", "snngan", *words.split()], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert "a batch of 15 cannot be shared equally by 2 processes" in line
    assert not list(tmp_path.iterdir())


def test_torchrun_may_not_start_other_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        main(["data", "list"])
    assert "torchrun may start only train, classify train and resume" in capsys.readouterr().err


@contextmanager
def started(words: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on two ranks, whose output is written to a file."""
    with output.open("w") as sink:
        command = [*TORCHRUN, "-m", "snngan", *words.split()]
        job = subprocess.Popen(command, stderr=sink, stdout=sink, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            yield job
        finally:
            job.terminate()
            try:
                job.wait(timeout=60)
            except subprocess.TimeoutExpired:
                job.kill()


def wait_until(happened: Callable[[], bool], output: Path) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.1)


def rank_of(number: int, job: subprocess.Popen[bytes]) -> int:
    """Return the number of the process that is this rank of a job."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if f"RANK={number}".encode() in variables and parent == str(job.pid):
            return int(path.parent.name)
    raise AssertionError(f"there is no rank {number}")
