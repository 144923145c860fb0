"""Some trials of ``scripts/kill``, and a check that the trials find two known faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import snngan

ROOT = Path(snngan.__file__).parents[1]
TRIALS = """
import json, pathlib, sys
from reliability.kill_trials import trials
{breaks}
print(json.dumps(trials(int(sys.argv[1]), 1, pathlib.Path(sys.argv[2]))))
"""
BREAKS = {
    "optimizers are not saved": (
        "from snngan.training.gan import GanTrainer\n"
        "optimizers = GanTrainer._optimizers\n"
        "GanTrainer._optimizers = lambda self: ((n, o) for n, o in optimizers(self) if n != 'generator')"
    ),
    "metrics are not truncated": (
        "import snngan.training.run_folder as run_folder\nrun_folder._step_of_line = lambda values: 0"
    ),
}


def trials(count: int, folder: Path, breaks: str = "") -> dict[str, int | list[str]]:
    """Return the result of some trials, run in a separate process, which forks."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", TRIALS.format(breaks=breaks), str(count), str(folder)],
        capture_output=True, text=True, timeout=600, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int | list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_killed_runs_end_as_unbroken_ones(tmp_path: Path) -> None:
    found = trials(5, tmp_path)
    assert found["wrong"] == []
    assert found["trials"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("breaks", BREAKS)
def test_the_trials_find_a_fault(tmp_path: Path, breaks: str) -> None:
    assert trials(20, tmp_path, BREAKS[breaks])["wrong"] != []
