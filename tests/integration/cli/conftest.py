"""Run commands in this process, in a temporary folder, on networks and data that take a tenth of a second."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from snngan.cli import main
from snngan.data.datasets import load_dataset

TINY = (
    "--dataset npz:{} --arch mlp --set width=16 --set latent_dim=8 --batch-size 32 --device cpu"
    " --log-every 2 --sample-every 4 --checkpoint-every 2"
)
"""Options of a short training; each test adds steps, objective and run folder."""
CLASSIFIER = "--dataset digits --arch feedforward --set widths=16-8 --batch-size 64 --log-every 2 --device cpu"


class Output(NamedTuple):
    """What a command printed on standard output and standard error."""

    out: str
    err: str


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the options of a tiny training on a file of 200 training and 24 held-out digits."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    digits = load_dataset("digits")
    np.savez(path, train_images=digits.train_images[:200].numpy(), test_images=digits.test_images[:24].numpy())
    return TINY.format(path)


def read_files(folder: Path) -> dict[Path, bytes | None]:
    """Return the content of each file below ``folder``, and None for each folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def call(command: str | list[str]) -> int:
    """Run a command and return its exit status."""
    with pytest.raises(SystemExit) as left:
        main(command.split() if isinstance(command, str) else command)
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Return a function that runs a command and checks its exit status."""

    def run(command: str | list[str], status: int = 0) -> Output:
        capsys.readouterr()
        code = call(command)
        said = Output(*capsys.readouterr())
        assert code == status, said
        assert "Traceback" not in said.out + said.err
        assert status or "Error" not in said.err
        return said

    return run


@pytest.fixture
def refused(cli: Callable[..., Output], tmp_path: Path) -> Callable[..., Output]:
    """Return a function that runs a command which must print one line of error and leave every file as it was."""

    def run(command: str | list[str], message: str, status: int = 2, notes: int = 0) -> Output:
        before = read_files(tmp_path)
        said = cli(command, status)
        lines = said.err.splitlines()
        assert len(lines) == notes + 1, lines
        assert re.search(f"^Error: .*{message}", lines[-1]), lines[-1]
        assert read_files(tmp_path) == before
        return said

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    """Return a finished run of 6 steps, with checkpoints at 2, 4 and 6. Tests must not change it."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert call(f"train {tiny} --objective snnl-projected --steps 6 --run-dir {path}") == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return ``run``, a copy of the finished run in the current folder, which tests may change."""
    shutil.copytree(finished, tmp_path / "run")
    return Path("run")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of 4 steps of classifiers of two seeds. Tests must not change it."""
    path = tmp_path_factory.mktemp("classifier") / "run"
    options = f"{CLASSIFIER} --steps 4 --checkpoint-every 2 --seeds 0:2 --alpha -0.1"
    assert call(f"classify train {options} --data-dir {path.parent} --run-dir {path}") == 0
    return path
