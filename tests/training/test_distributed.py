"""A run on two processes is the run on one; a rank that dies ends it, and nothing that was saved is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.ranks import CASES, CPU, digits, new_run, train
from reference.states import differences

from snngan.data import Dataset
from snngan.losses.backends import MAX_DENSE_SAMPLES
from snngan.training.checkpoint import checkpoint_paths, load_newest
from snngan.training.ensemble import build_ensemble
from snngan.training.players import build_players
from snngan.training.run_folder import GanRun, open_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = Path(__file__).parents[1] / "reference" / "ranks.py"
STEPS, SHORT = 200, 12
TOLERANCE = 1e-4
"""Relative, of losses in the first steps; sums are rounded otherwise."""
LATER = 0.02
"""Of the mean loss of the last 50 of 200 steps: games magnify rounding."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits()


def on_two(folder: Path, steps: int, names: list[str], fault: str = "") -> str:
    """Train on two ranks, of which the second has a ``fault``, and return what they said on standard error."""
    done = subprocess.run(
        [*TORCHRUN, str(SCRIPT), str(folder), str(steps), *names],
        capture_output=True, text=True, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1", "FAULT": fault},
    )  # fmt: skip
    assert (done.returncode == 0) == (not fault), done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
def test_ranks_that_do_not_see_the_same_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    assert "are not the ones the run was started with" in on_two(tmp_path / "data", 3, ["gan"], fault="data")
    assert not checkpoint_paths(tmp_path / "data" / "gan" / "checkpoints")
    (tmp_path / "checkpoint").mkdir()
    train(new_run(tmp_path / "checkpoint", "gan", dataset, 2), dataset)
    said = on_two(tmp_path / "checkpoint", 4, ["gan"], fault="checkpoint")
    assert "do not see the same checkpoints" in said
    assert state_of(tmp_path / "checkpoint" / "gan")["step"] == 2


def state_of(path: Path) -> dict[str, Any]:
    run = open_run(path)
    return load_newest(run.checkpoints, pytest.fail, holds="players" if isinstance(run, GanRun) else "members")


def put_out(run: Any, state: dict[str, Any]) -> torch.Tensor:
    """Return samples of the averaged generator, or the classifiers' logits, by the networks of a checkpoint."""
    noise = torch.Generator().manual_seed(0)
    if isinstance(run, GanRun):
        players = build_players(run.plan, CPU)
        players.load_state_dict(state["players"])
        return players.sample(torch.randn(8, players.latent_dim, generator=noise))
    members = build_ensemble(run.plan, CPU)
    members.load_state_dict(state["members"])
    return members.logits(2 * torch.rand(8, *run.plan.image_shape, generator=noise) - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "steps"),
    [(["gan", "wgan-gp", "snnl-pixel", "snnl-projected"], STEPS), ([*list(CASES)[4:]], SHORT)],
    ids=["long", "short"],
)
def test_two_ranks_are_one_process_with_the_same_global_batch(
    names: list[str], steps: int, tmp_path: Path, dataset: Dataset
) -> None:
    """And each other: ranks.py compares what they hold."""
    on_two(tmp_path / "two", steps, names)
    (tmp_path / "one").mkdir()
    for name in names:
        alone = torch.tensor(train(new_run(tmp_path / "one", name, dataset, steps), dataset))
        together = torch.tensor(torch.load(tmp_path / "two" / f"{name}.losses"))
        assert alone.shape == together.shape == (steps, alone.shape[1]), name
        torch.testing.assert_close(
            together[:20], alone[:20], rtol=TOLERANCE, atol=TOLERANCE, msg=f"{name}: losses differ"
        )
        ends = [losses[-50:].mean(0) for losses in (together, alone)]
        torch.testing.assert_close(*ends, rtol=LATER, atol=LATER, msg=f"{name}: losses differ")
        lines = [
            [json.loads(line)["step"] for line in (tmp_path / where / name / "metrics.jsonl").read_text().splitlines()]
            for where in ("one", "two")
        ]
        assert lines[0] == lines[1] == [0, steps]  # one rank wrote, once
        statistics = [running(state_of(tmp_path / where / name)) for where in ("one", "two")]
        torch.testing.assert_close(*statistics, rtol=1e-2, atol=1e-3, msg=f"{name}: batch statistics differ")


def running(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Return the batch statistics in a checkpoint by where they are."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: each for key, part in items for name, each in running(part, f"{path}/{key}").items()}
    return {path: state} if "running_" in path else {}


def test_the_cases_hold_what_they_are_for(tmp_path: Path, dataset: Dataset) -> None:
    for name in ("wgan-gp, batch", "hinge, batch"):
        run = new_run(tmp_path, name, dataset, 1)
        discriminator = build_players(run.plan, CPU).discriminator
        assert any(isinstance(each, torch.nn.BatchNorm1d) for each in discriminator.modules())
    assert 2 * new_run(tmp_path, "many points", dataset, 1).plan.batch_size > MAX_DENSE_SAMPLES


@pytest.mark.slow
def test_checkpoints_are_interchangeable(tmp_path: Path, dataset: Dataset) -> None:
    """6 steps on one process; 3 on two and 3 on one; 3 on one and 3 on two."""
    names = ["snnl-projected", "wgan-gp, batch", "classifier", "in one", "batch-norm"]
    for where, steps in (("whole", 6), ("second-two", 3)):
        (tmp_path / where).mkdir()
        for name in names:
            train(new_run(tmp_path / where, name, dataset, steps), dataset)
    on_two(tmp_path / "first-two", 3, names)
    on_two(tmp_path / "second-two", 6, names)
    for name in names:
        run = open_run(tmp_path / "first-two" / name)
        run.set_steps(6)
        train(run, dataset, state_of(run.path))
        whole = state_of(tmp_path / "whole" / name)
        for other in (state_of(run.path), state_of(tmp_path / "second-two" / name)):
            assert other["step"] == 6
            assert differences(other["batches"], whole["batches"]) == []
            assert differences(other["torch_rng"], whole["torch_rng"]) == []
            torch.testing.assert_close(put_out(run, other), put_out(run, whole), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_it_can_be_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *TORCHRUN, "-m", "snngan", "train", "--dataset", "digits", "--objective", "gan", "--set", "width=4",
        "--batch-size", "16", "--steps", "100000", "--checkpoint-every", "5", "--run-dir", str(run), "--device", "cpu",
    ]  # fmt: skip
    errors = tmp_path / "errors"
    with errors.open("w") as sink:
        job = subprocess.Popen(command, stderr=sink, stdout=sink, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        until(lambda: len(checkpoint_paths(run / "checkpoints")) >= 2, errors)
        os.kill(rank_of(1, job), signal.SIGKILL)
        assert job.wait(timeout=120) != 0
    finally:
        end(job)
    said = errors.read_text()
    assert f"another rank is gone; go on with: snngan resume {run}" in said
    step = state_of(run)["step"]
    assert step >= 5
    again = [*TORCHRUN, "-m", "snngan", "resume", str(run), "--steps", str(step + 5)]
    done = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("resuming") == 1  # only the first rank speaks
    assert state_of(run)["step"] == step + 5


@pytest.mark.slow
def test_sigterm_saves_once_and_leaves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *TORCHRUN, "-m", "snngan", "classify", "train", "--dataset", "digits", "--arch", "feedforward",
        "--set", "widths=8", "--batch-size", "16", "--steps", "100000", "--checkpoint-every", "100000",
        "--run-dir", str(run), "--device", "cpu",
    ]  # fmt: skip
    errors = tmp_path / "errors"
    with errors.open("w") as sink:
        job = subprocess.Popen(command, stderr=sink, stdout=sink, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        until(lambda: "steps/s" in errors.read_text(), errors)
        os.kill(rank_of(1, job), signal.SIGTERM)  # one rank alone: all agree to stop
        job.wait(timeout=120)
    finally:
        end(job)
    assert errors.read_text().count("SIGTERM: saved at step") == 1
    assert len(checkpoint_paths(run / "checkpoints")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "--dataset", "digits", "--device", "cpu", "--batch-size", "15"],
            "a batch of 15 cannot be shared equally by 2 processes",
        ),
        (["train", "--dataset", "nowhere"], "unknown dataset 'nowhere'"),
        (["classify", "train", "--batch-size", "one"], "--batch-size"),
        (["train", "--device", "cuda:1"], "cuda:1"),
        (["resume", "nowhere"], "nowhere"),
        (["data", "list"], "torchrun may start only train, classify train and resume"),
    ],
)
def test_what_is_wrong_is_said_once(words: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*TORCHRUN, "-m", "snngan", *words], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def until(happened: Any, errors: Path) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, errors.read_text()
        time.sleep(0.1)


def end(job: subprocess.Popen[bytes]) -> None:
    """Let torchrun end its ranks and itself."""
    job.terminate()
    try:
        job.wait(timeout=60)
    except subprocess.TimeoutExpired:
        job.kill()


def rank_of(number: int, job: subprocess.Popen[bytes]) -> int:
    """Return the process that is this rank of a job."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if f"RANK={number}".encode() in variables and parent == str(job.pid):
            return int(path.parent.name)
    raise AssertionError(f"there is no rank {number}")
