"""Untrusted run folders and current folders: none of their code runs, none of their links is followed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reliability.command_lines import GAN, create_files, outcome
from reliability.fuzz_targets import TARGETS
from torch import nn

import snngan
from snngan.cli import main
from snngan.experiments import ExperimentContext, run_experiment


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrusted")
    create_files(folder)
    return folder


@pytest.fixture
def here(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a run of a generator, a run of a classifier, and a few images."""
    folder = tmp_path / "here"
    shutil.copytree(original, folder, symlinks=True, ignore=shutil.ignore_patterns("pipe*"))
    monkeypatch.chdir(folder)
    return folder


def output_of(command: str | list[str], folder: Path, status: int = 0) -> str:
    """Return the output of a command that must write only below ``folder``."""
    found, text = outcome(command.split() if isinstance(command, str) else command, folder)
    assert found == status, text
    assert "Traceback" not in text
    return text


def change(file: Path, **config: Any) -> None:
    content = json.loads(file.read_text())
    content["config"] |= config
    file.write_text(json.dumps(content))


def test_board_runs_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path, "tensorboard").mkdir()
    Path(tmp_path, "tensorboard", "__init__.py").write_text("")
    for name in ("tensorboard/main.py", "numpy.py"):
        Path(tmp_path, name).write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: called.append(arguments))
    with pytest.raises(SystemExit):
        main(["board", "."])
    done = subprocess.run([*called[0], "--version"], capture_output=True, text=True, check=True)
    assert done.stdout[0].isdigit()
    assert not Path("ran").exists()


@pytest.mark.parametrize("label", [10**6, 2**62, 2**63 - 1])
def test_labels_far_above_the_number_of_images_are_refused(here: Path, label: int) -> None:
    with np.load("few.npz") as file:
        arrays = dict(file)
    arrays["train_labels"][0] = label
    np.savez("labels.npz", **arrays)
    text = output_of("evaluate --features classifier:npz:labels.npz --device cpu", here, 2)
    assert "labels that number the classes from 0 on" in text


@pytest.mark.parametrize(
    ("run", "command", "config"),
    [
        ("classifier", "classify evaluate classifier", {"num_classes": 10**12}),
        ("classifier", "resume classifier --steps 9", {"num_classes": 10**12}),
        ("classifier", "resume classifier --steps 9", {"image_shape": [3, 8, 8]}),
        ("run", "resume run --steps 9", {"arch_options": {"width": 16384, "latent_dim": 65536}}),
        ("run", "sample run --out new.png", {"arch_options": {"width": 16384, "latent_dim": 65536}}),
        ("run", "evaluate run --features pixels", {"image_shape": [3, 4096, 4096]}),
    ],
)
def test_networks_of_a_changed_config_are_not_allocated(
    here: Path, monkeypatch: pytest.MonkeyPatch, run: str, command: str, config: dict[str, Any]
) -> None:
    change(here / run / "config.json", **config)
    normal = nn.Linear.reset_parameters

    def small(self: nn.Linear) -> None:
        assert self.weight.is_meta or self.weight.numel() < 10**7
        normal(self)

    monkeypatch.setattr(nn.Linear, "reset_parameters", small)
    text = output_of([*command.split(), "--device", "cpu"], here, 2)
    assert any(words in text for words in ("fit", "differ from those")), text
    assert "out of memory" not in text


def test_an_experiment_does_not_remove_another_run_without_checkpoints(here: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / "runs" / "chance-capped-seed0"
    context = ExperimentContext(tmp_path / "out", str(tmp_path / "data"), torch.device("cpu"), lambda line: None)
    shutil.copytree(here / "run", place)
    shutil.rmtree(place / "checkpoints")
    (place / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds a different run than this experiment's"):
        run_experiment("pixel-generator", "smoke", context, "", ("dataset=digits",))
    assert (place / "notes.txt").read_text() == "mine"


def test_closed_output_ends_no_run(here: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(snngan.__file__).parents[1])}
    command = f"{sys.executable} -m snngan {GAN} --run-dir closed >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=here, env=environment).returncode == 0
    assert list(Path("closed", "checkpoints").glob("step-*.safetensors"))


@pytest.mark.parametrize(
    "command",
    ["train --dataset npz:~missing-user/x.npz --dry-run", "train --data-dir ~missing-user/x --dataset mnist --dry-run",
     "evaluate ~missing-user/x.npz --reference digits --features pixels"],
)  # fmt: skip
def test_the_home_of_an_unknown_user_is_refused(here: Path, command: str) -> None:
    assert "~missing-user" in output_of(command, here, 2)


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz_targets_accept_their_seeds_and_refuse_mutations(tmp_path: Path, name: str) -> None:
    """If the seeds were refused, no mutation would pass the first check."""
    target = TARGETS[name](tmp_path)
    assert all(target(seed) for seed in target.seeds())
    for seed in target.seeds()[:2]:
        for cut in range(0, len(seed), len(seed) // 5 + 1):
            target(seed[:cut] + bytes(3) + seed[cut + 3 :])
