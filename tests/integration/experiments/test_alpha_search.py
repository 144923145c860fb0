"""The search over alpha: several workers, one of them killed, and the search continued."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from snngan.config import ClassifyConfig
from snngan.data import Dataset, to_unit_range
from snngan.data.datasets import load_dataset
from snngan.evaluation.classifier import load_ensemble
from snngan.experiments import ExperimentContext, run_experiment
from snngan.experiments.alpha_search import entangled_shares, split_validation
from snngan.training.run_folder import open_run

pytest.importorskip("optuna")


def finished(folder: Path) -> list[int]:
    """Return the numbers of the finished trials in the folder's storage."""
    with (
        suppress(sqlite3.OperationalError),
        sqlite3.connect(f"file:{folder / 'search.db'}?mode=ro", uri=True) as storage,
    ):
        return [row[0] for row in storage.execute("select number from trials where state = 'COMPLETE'")]
    return []  # the file or its tables are just being made


def workers(process: int) -> list[int]:
    """Return the workers of a process: its children that multiprocessing has spawned."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(each) for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_a_killed_worker_costs_no_finished_trial(tmp_path: Path) -> None:
    folder, found = tmp_path / "out", []

    def kill_after_two() -> None:
        deadline = time.monotonic() + 120
        while len(finished(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        found.extend(workers(os.getpid()))
        for worker in found:
            os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_after_two)
    killer.start()
    lines: list[str] = []
    with pytest.raises(ValueError, match="of 6 trials are finished; run the same command to continue"):
        run_search(folder, "trials=6", "workers=2", "steps=40", notify=lines.append)
    killer.join()
    assert len(found) == 2
    assert sum("ended with status -9; its finished trials are kept" in line for line in lines) == 2
    before = finished(folder)
    rows = run_search(folder, "trials=6", "steps=40")["trials"]
    assert len(rows) == 6
    assert set(before) <= set(finished(folder)) == {row["number"] for row in rows}


def run_search(folder: Path, *settings: str, notify: Callable[[str], None] = str) -> dict[str, Any]:
    """Return the numbers of a search of a few steps on 8x8 digits."""
    context = ExperimentContext(folder, str(folder.parent / "data"), torch.device("cpu"), notify)
    return run_experiment("alpha-search", "smoke", context, "the command", settings).numbers


def test_a_trial_reports_validation_and_test_accuracy(tmp_path: Path) -> None:
    numbers = run_search(tmp_path / "out", "trials=2", "steps=60")
    whole = load_dataset("digits")
    search = split_validation(whole)
    best = max(numbers["trials"], key=lambda row: row["validation_accuracy"])
    assert numbers["best"] == best
    for row in numbers["trials"]:
        run = open_run(tmp_path / "out" / "runs" / f"trial-{row['number']:04d}", ClassifyConfig)
        assert run.config.alpha == row["alpha"] == pytest.approx(0.3 * row["u"] ** 3)
        assert run.config.learning_rate == row["learning_rate"]
        assert run.config.data_digest == search.labeled_digest()
        (network,) = load_ensemble(run, torch.device("cpu"))[0].networks()
        for dataset, name in ((search, "validation_accuracy"), (whole, "test_accuracy")):
            assert dataset.test_labels is not None
            with torch.no_grad():
                guesses = network.eval()(to_unit_range(dataset.test_images)).argmax(1)
            assert row[name] == pytest.approx(float((guesses == dataset.test_labels).double().mean()))


def test_a_search_continues_with_more_trials_and_refuses_other_options(tmp_path: Path) -> None:
    first = run_search(tmp_path / "out", "trials=2")["trials"]
    more = run_search(tmp_path / "out", "trials=4")["trials"]
    assert more[:2] == first
    assert len({row["u"] for row in more}) == 4
    assert run_search(tmp_path / "again", "trials=4")["trials"][:2] == first
    with pytest.raises(ValueError, match="holds a different search"):
        run_search(tmp_path / "out", "trials=2", "largest_alpha=9")


def test_a_trial_that_diverges_has_the_accuracy_of_guessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "snngan.training.ensemble.SequentialEnsemble.backward", lambda *_: (torch.full((1,), torch.nan),) * 2
    )
    rows = run_search(tmp_path / "out", "trials=2")["trials"]
    assert [(row["validation_accuracy"], row["test_accuracy"]) for row in rows] == [(0.1, 0.1)] * 2


@pytest.mark.parametrize("storage", ["foo", "sqlite:////nonexistent/x.db"])
def test_a_storage_that_cannot_be_opened(tmp_path: Path, storage: str) -> None:
    with pytest.raises(ValueError, match=r"the storage .* cannot be opened: "):
        run_search(tmp_path / "out", f"storage={storage}")


def test_the_search_does_not_see_test_images() -> None:
    images = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    whole = Dataset("few", images[:40], torch.arange(40), images[40:], torch.arange(10))
    search = split_validation(whole)
    assert (len(search.train_images), len(search.test_images)) == (36, 4)
    both = torch.cat([search.train_images, search.test_images]).flatten().tolist()
    assert sorted(both) == list(range(40))
    assert search.train_labels is not None
    assert search.train_labels.tolist() == search.train_images.flatten().tolist()


def test_shares_of_entangling_trials() -> None:
    tried = [(1, 0.9), (1, 0.1), (1, 0.2), (1, 0.3), (-1, 0.8), (1, 0.4), (-1, 0.5), (-1, 0.6)]
    rows = [{"alpha": alpha, "validation_accuracy": accuracy} for alpha, accuracy in tried]
    assert entangled_shares(rows) == {"entangled_of_last_quarter": 1.0, "entangled_of_best_quarter": 0.5}


def test_without_optuna_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"alpha-search needs optuna: pip install 'snngan\[search\]'"):
        run_search(tmp_path / "out")
