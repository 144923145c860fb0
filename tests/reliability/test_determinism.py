"""The same seed gives the same bytes in another process, and with ``--deterministic`` also on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference.states import differences

import snngan
from snngan.checkpoint import load_newest
from snngan.cli import main
from snngan.training.device import set_up

ROOT = Path(snngan.__file__).parents[1]
COMMON = "--dataset digits --batch-size 16 --steps 6 --log-every 3 --checkpoint-every 3 --device cpu"
RUNS = {
    "generator": f"train {COMMON} --objective wgan-gp --arch mlp --set width=16 --sample-every 3 --metrics-every 3",
    "convolutions": f"train {COMMON} --objective snnl-projected --arch dcgan --set width=8 --image-size 8",
    "classifier": f"classify train {COMMON} --arch cnn-small --seeds 0:2 --adversarial-training pgd:0.1:2",
}


COMMANDS = """
import sys
from snngan.cli import main
for command in sys.argv[1:]:
    try:
        main(command.split())
    except SystemExit as left:
        assert left.code == 0
"""


def files_of(run: Path) -> dict[Path, bytes]:
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """With another hash seed and ``--deterministic``, which changes nothing on a CPU."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    commands = [f"{words} --run-dir other/{kind} --data-dir data" for kind, words in RUNS.items()]
    words = [sys.executable, "-c", COMMANDS, *(f"{command} --deterministic" for command in commands)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command, kind in zip(commands, RUNS, strict=True):
        with pytest.raises(SystemExit, match="0"):
            main(command.replace("other/", "own/").split())
        runs = Path("own", kind), Path("other", kind)
        first, second = (files_of(run) for run in runs)
        events = {path for path in {*first, *second} if "tfevents" in path.name}
        assert len(events) == 2
        assert first.keys() - events == second.keys() - events
        different = {path.name for path in first.keys() - events if first[path] != second[path]}
        assert different == {"config.json"}  # which holds the option
        assert differences(*(load_newest(run / "checkpoints") for run in runs)) == []


def test_an_operation_without_a_deterministic_algorithm_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(*arguments: object) -> None:
        raise RuntimeError("upsample_backward_cuda does not have a deterministic implementation, but you set more.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("snngan.training.gan.GanTrainer.update", step)
    with pytest.raises(SystemExit) as left:
        main([*RUNS["generator"].split(), "--deterministic", "--data-dir", "data"])
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "Error: --deterministic: upsample_backward_cuda does not have a deterministic implementation; leave the option "
        "out, or use --device cpu"
    )


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", RUNS)
def test_two_runs_on_a_gpu_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    states = []
    for number in range(2):
        words = RUNS[kind].replace("--device cpu", "--device cuda").split()
        with pytest.raises(SystemExit) as left:
            main([*words, "--deterministic", "--run-dir", f"run-{number}", "--data-dir", "data"])
        assert left.value.code == 0
        states.append(load_newest(tmp_path / f"run-{number}" / "checkpoints"))
    set_up(tf32=False)
    assert differences(*states) == []
