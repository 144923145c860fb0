"""The search over alpha: several workers, one of them killed, and the search gone on with."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import snngan
from snngan.data import Dataset
from snngan.experiments.alpha_search import AlphaSearch, signs, split_for_search, study_of

pytest.importorskip("optuna")


def finished(folder: Path) -> list[int]:
    """Return the numbers of the finished trials in the folder's storage."""
    if not (folder / "search.db").exists():
        return []
    with sqlite3.connect(f"file:{folder / 'search.db'}?mode=ro", uri=True) as storage:
        try:
            return [row[0] for row in storage.execute("select number from trials where state = 'COMPLETE'")]
        except sqlite3.OperationalError:
            return []  # the tables are just being made


def children(process: int) -> list[int]:
    """Return the workers of a process: those of its children that run Python's own code for them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            words = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process and b"spawn_main" in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_worker_costs_no_finished_trial(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    settings = "--set trials=6 --set workers=2 --set steps=40"
    words = f"experiment run alpha-search {settings} --data-dir {tmp_path}/data --device cpu --out {folder}"
    command = [sys.executable, "-m", "snngan", *words.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        deadline = time.monotonic() + 120
        while len(finished(folder)) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    before = finished(folder)
    assert process.returncode == 2
    assert "ended with status -9; its finished trials are kept" in said
    assert "of 6 trials are finished, and no worker is left; the same command goes on" in said
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert again.returncode == 0, again.stderr
    assert set(before) <= set(finished(folder))
    content = json.loads((folder / "numbers.json").read_text())
    assert len(content["numbers"]["trials"]) == 6
    assert set(before) <= {row["number"] for row in content["numbers"]["trials"]}


def test_test_images_are_no_part_of_the_search() -> None:
    images = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    whole = Dataset("few", images[:40], torch.arange(40), images[40:], torch.arange(10))
    search = split_for_search(whole)
    assert (len(search.train_images), len(search.test_images)) == (36, 4)
    both = torch.cat([search.train_images, search.test_images]).flatten().tolist()
    assert sorted(both) == list(range(40))
    assert search.train_labels is not None
    assert search.train_labels.tolist() == search.train_images.flatten().tolist()


def test_which_sign_the_search_ends_with() -> None:
    tried = [(1, 0.9), (1, 0.1), (1, 0.2), (1, 0.3), (-1, 0.8), (1, 0.4), (-1, 0.5), (-1, 0.6)]
    rows = [{"alpha": alpha, "validation_accuracy": accuracy} for alpha, accuracy in tried]
    assert signs(rows) == {"entangled_of_last_quarter": 1.0, "entangled_of_best_quarter": 0.5}


def test_without_optuna_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    experiment = AlphaSearch.presets["smoke"]
    assert isinstance(experiment, AlphaSearch)
    with pytest.raises(ValueError, match=r"alpha-search needs optuna: pip install 'snngan\[search\]'"):
        study_of(experiment, tmp_path)
