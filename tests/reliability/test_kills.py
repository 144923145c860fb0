"""Some trials of ``scripts/kill``, and a check that the trials find two known faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import snngan

ROOT = Path(snngan.__file__).parents[1]
SCRIPT = """
import json, pathlib, sys
from reliability.kill_trials import trials
folder, breaks = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
found = {"": trials(5, 1, folder)}
for name, code in breaks.items():
    names = {}
    exec(code, names)
    place = folder / f"fault-{len(found)}"
    place.mkdir()
    found[name] = trials(20, 1, place, ["snnl-projected"])
    exec("restore()", names)
print(json.dumps(found))
"""
BREAKS = {
    "optimizers are not saved": """
from snngan.training.gan import GanTrainer
optimizers = GanTrainer._optimizers
GanTrainer._optimizers = lambda self: ((n, o) for n, o in optimizers(self) if n != "generator")
def restore():
    GanTrainer._optimizers = optimizers
""",
    "metrics are not truncated": """
import snngan.training.run_folder as run_folder
original = run_folder._step_of_line
run_folder._step_of_line = lambda values: 0
def restore():
    run_folder._step_of_line = original
""",
}
"""Faults of the package, and how each is taken back."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of trials of the package and of each fault, run in a separate process, which forks."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    words = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("kills")), json.dumps(BREAKS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.slow
def test_killed_runs_end_as_unbroken_ones(found: dict[str, Any]) -> None:
    assert found[""]["wrong"] == []
    assert found[""]["trials"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("breaks", BREAKS)
def test_the_trials_find_a_fault(found: dict[str, Any], breaks: str) -> None:
    assert found[breaks]["wrong"] != []
