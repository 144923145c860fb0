"""A run on two processes equals the run on one; a process that dies ends it, and nothing that was saved is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.ranks import CASES, CPU, digits, make_config, train_alone, train_to_end
from reference.runs import state_of
from reference.states import differences
from torch import Tensor

from snngan.api import make_trainer
from snngan.config import Config
from snngan.data import Dataset
from snngan.losses.backends import MAX_DENSE_SAMPLES
from snngan.training.checkpoint import checkpoint_paths
from snngan.training.gan import GanTrainer
from snngan.training.run_folder import open_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = Path(__file__).parents[2] / "reference" / "ranks.py"
STEPS, SHORT = 120, 12
TOLERANCE = 1e-4
"""Relative, of losses in the first steps; sums are rounded in another order."""
LATER = 0.02
"""Relative, of the mean loss of the last 50 steps: adversarial training magnifies rounding."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits()


def saved_state(path: Path) -> dict[str, Any]:
    return state_of(open_run(path, Config))


def train_on_two(folder: Path, steps: int, names: list[str], fault: str = "") -> str:
    """Train on two ranks, of which the second has a ``fault``, and return what they wrote to standard error."""
    done = subprocess.run(
        [*TORCHRUN, str(SCRIPT), str(folder), str(steps), *names],
        capture_output=True, text=True, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1", "FAULT": fault},
    )  # fmt: skip
    assert (done.returncode == 0) == (not fault), done.stderr[-3000:]
    return done.stderr


def batch_statistics(state: Any, path: str = "") -> dict[str, Tensor]:
    """Return the batch statistics in a checkpoint by where they are."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: each for key, part in items for name, each in batch_statistics(part, f"{path}/{key}").items()}
    return {path: state} if "running_" in path else {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "steps"),
    [(["snnl-projected"], STEPS), ([name for name in CASES if name != "snnl-projected"], SHORT)],
    ids=["long", "short"],
)
def test_two_ranks_equal_one_process_with_the_same_global_batch(
    names: list[str], steps: int, tmp_path: Path, dataset: Dataset
) -> None:
    """They also equal each other: ranks.py compares their states."""
    train_on_two(tmp_path / "two", steps, names)
    for name in names:
        alone = torch.tensor(train_alone(tmp_path / "one", name, dataset, steps))
        together = torch.tensor(torch.load(tmp_path / "two" / f"{name}.losses"))
        assert alone.shape == together.shape == (steps, alone.shape[1]), name
        first = [losses[:20] for losses in (together, alone)]
        torch.testing.assert_close(*first, rtol=TOLERANCE, atol=TOLERANCE, msg=f"{name}: losses differ")
        last = [losses[-50:].mean(0) for losses in (together, alone)]
        torch.testing.assert_close(*last, rtol=LATER, atol=LATER, msg=f"{name}: losses differ")
        for where in ("one", "two"):
            lines = (tmp_path / where / name / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [0, steps]  # one rank wrote, once
        statistics = [batch_statistics(saved_state(tmp_path / where / name)) for where in ("one", "two")]
        torch.testing.assert_close(*statistics, rtol=1e-2, atol=1e-3, msg=f"{name}: batch statistics differ")


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
        return trainer.sample(torch.randn(8, trainer.latent_dim, generator=noise))
    return trainer.ensemble.logits(2 * torch.rand(8, *run.config.image_shape, generator=noise) - 1)


@pytest.mark.slow
def test_checkpoints_are_interchangeable(tmp_path: Path, dataset: Dataset) -> None:
    """6 steps on one process; 3 on two and 3 on one; 3 on one and 3 on two."""
    names = ["snnl-projected", "wgan-gp, batch", "classifier", "vectorized", "batch norm"]
    for name in names:
        train_alone(tmp_path / "whole", name, dataset, 6)
        train_alone(tmp_path / "second-two", name, dataset, 3)
    train_on_two(tmp_path / "first-two", 3, names)
    train_on_two(tmp_path / "second-two", 6, names)
    for name in names:
        run = open_run(tmp_path / "first-two" / name, Config)
        run.set_steps(6)
        train_to_end(make_trainer(run.config, dataset, CPU, state_of(run)), run)
        whole = tmp_path / "whole" / name
        for other in (run.path, tmp_path / "second-two" / name):
            state = saved_state(other)
            assert state["step"] == 6
            for part in ("batches", "torch_rng"):
                assert differences(state[part], saved_state(whole)[part]) == []
            torch.testing.assert_close(outputs(other, dataset), outputs(whole, dataset), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_ranks_with_other_data_or_checkpoints_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    errors = train_on_two(tmp_path / "data", 3, ["gan"], fault="data")
    assert "differ from those the run was started with" in errors
    assert not checkpoint_paths(tmp_path / "data" / "gan" / "checkpoints")
    train_alone(tmp_path / "checkpoint", "gan", dataset, 2)
    errors = train_on_two(tmp_path / "checkpoint", 4, ["gan"], fault="checkpoint")
    assert "do not see the same checkpoints" in errors
    assert saved_state(tmp_path / "checkpoint" / "gan")["step"] == 2


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors"
    words = "train --dataset digits --objective gan --set width=4 --batch-size 16 --steps 100000 --checkpoint-every 5"
    job = start([*words.split(), "--metrics-every", "0", "--run-dir", str(run)], errors)
    try:
        wait_until(lambda: len(checkpoint_paths(run / "checkpoints")) >= 2, errors)
        os.kill(rank_of(1, job), signal.SIGKILL)
        assert job.wait(timeout=120) != 0
    finally:
        end(job)
    assert f"another process ended; continue by: snngan resume {run}" in " ".join(errors.read_text().split())
    step = saved_state(run)["step"]
    assert step >= 5
    command = [*TORCHRUN, "-m", "snngan", "resume", str(run), "--steps", str(step + 5)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("resuming") == 1  # only the first rank prints
    assert saved_state(run)["step"] == step + 5


@pytest.mark.slow
def test_sigterm_to_one_rank_saves_once_and_ends_all(tmp_path: Path) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors"
    words = "classify train --dataset digits --arch feedforward --set widths=8 --batch-size 16 --steps 100000"
    job = start([*words.split(), "--checkpoint-every", "100000", "--run-dir", str(run)], errors)
    try:
        wait_until(lambda: "steps/s" in errors.read_text(), errors)
        os.kill(rank_of(1, job), signal.SIGTERM)
        job.wait(timeout=120)
    finally:
        end(job)
    assert errors.read_text().count("SIGTERM: saved at step") == 1
    assert len(checkpoint_paths(run / "checkpoints")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train --dataset digits --device cpu --batch-size 15 --metrics-every 0",
            "a batch of 15 cannot be shared equally by 2 processes",
        ),
        ("resume nowhere", "nowhere"),
        ("data list", "torchrun may start only train, classify train and resume"),
    ],
)
def test_an_error_is_printed_once(words: str, message: str, tmp_path: Path) -> None:
    command = [*TORCHRUN, "-m", "snngan", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def start(words: list[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a command on two ranks of the CPU, whose output is written to a file."""
    with output.open("w") as sink:
        command = [*TORCHRUN, "-m", "snngan", *words, "--device", "cpu"]
        return subprocess.Popen(command, stderr=sink, stdout=sink, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_until(happened: Callable[[], bool], output: Path) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.1)


def end(job: subprocess.Popen[bytes]) -> None:
    """Let torchrun end its ranks and itself."""
    job.terminate()
    try:
        job.wait(timeout=60)
    except subprocess.TimeoutExpired:
        job.kill()


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
