"""Checkpoints: whole or not at all, checked, passed over when damaged, refused when they do not fit."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors
import torch
from reference.runs import CPU, gan_config
from torch import nn

from snngan.checkpoint import KEEP, CheckpointError, build_to_fit, load_newest, save_checkpoint
from snngan.data import Dataset
from snngan.files import SaveError, save_tensors
from snngan.training.gan import GanTrainer


def state_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "networks": {"net": {"weights": torch.arange(200.0) + step}},
        "noise": [torch.tensor(2), None],
    }


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, state_of(step))


def load(folder: Path) -> tuple[int, list[str]]:
    """Return the step of the newest sound checkpoint, its content checked, and the lines about damaged ones."""
    lines: list[str] = []
    state = load_newest(folder, lines.append)
    assert torch.equal(state["networks"]["net"]["weights"], torch.arange(200.0) + state["step"])
    assert state["noise"] == [torch.tensor(2), None]
    return state["step"], lines


def test_the_newest_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 9, 100, 20)
    assert load(tmp_path) == (100, [])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, *range(1, 7))
    assert KEEP == 3
    assert sorted(os.listdir(tmp_path)) == [f"step-{step:08d}.safetensors" for step in (4, 5, 6)]


def test_safetensors_alone_reads_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 7)
    with safetensors.safe_open(tmp_path / "step-00000007.safetensors", "pt") as file:
        assert set(file.keys()) == {"networks/net/weights", "noise/0"}
        assert json.loads(file.metadata()["snngan"])["content"]["step"] == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_every_type_and_shape_returns_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    ones = torch.ones(3, 4).to(dtype)
    parts = {"whole": ones, "view": ones.T, "row": ones[1], "number": ones[0, 0], "empty": ones[:0]}
    save_checkpoint(tmp_path, 1, {"step": 1, "networks": parts})
    found = load_newest(tmp_path)["networks"]
    for name, tensor in parts.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_file_left_half_written_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".0123abcd.step-00000002.safetensors.part").write_bytes(b"half")
    (tmp_path / "step-of-the-way.safetensors").write_bytes(b"another's")
    assert load(tmp_path) == (1, [])


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_full_disk_changes_no_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save(tmp_path, 1, 2, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"{'builtins' if call == 'open' else 'os'}.{call}", full)
        with pytest.raises(SaveError, match=r"step-00000004\S* could not be written: No space left on device"):
            save(tmp_path, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load(tmp_path) == (3, [])


def cut_to_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_of_the_weights(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def change_the_metadata(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(rb"\"step\": 2") == 1
    path.write_bytes(content.replace(rb"\"step\": 2", rb"\"step\": 3"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        cut_to_half,
        flip_a_bit_of_the_weights,
        change_the_metadata,
        empty,
        become_a_folder,
    ],
)
def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002.safetensors")
    step, (line,) = load(tmp_path)
    assert step == 1
    assert re.search(r"step-00000002\.safetensors is .*: falling back to the checkpoint before it", line)


def test_all_are_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        cut_to_half(path)
    with pytest.raises(CheckpointError, match="is sound: all 2 are damaged"):
        load(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-00000002.safetensors", {"weights": torch.ones(3)}, {"step": 2})
    with pytest.raises(CheckpointError, match=r"step-00000002\.safetensors is not a checkpoint of a run"):
        load(tmp_path)


def test_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*: the run stopped before it saved one"):
            load(folder)
    (tmp_path / "step-00000002.pt").write_bytes(b"of version 0.1")
    with pytest.raises(CheckpointError, match="of an older version"):
        load(tmp_path)


def test_shapes_are_compared_before_memory_is_taken() -> None:
    saved = nn.Linear(3, 4).state_dict()
    assert build_to_fit(lambda: nn.Linear(3, 4), saved, "network").weight.device == CPU
    for build in (lambda: nn.Linear(1 << 30, 1 << 30), lambda: nn.Linear(3, 4, bias=False)):
        with pytest.raises(CheckpointError, match="its network differs"):
            build_to_fit(build, saved, "network")


def another_width(state: dict[str, Any]) -> None:
    state["networks"]["generator"] = torch.nn.Linear(3, 4).state_dict()


def no_average(state: dict[str, Any]) -> None:
    del state["networks"]["ema_generator"]


def an_empty_optimizer(state: dict[str, Any]) -> None:
    state["optimizers"]["generator"] = {}


def no_noise(state: dict[str, Any]) -> None:
    state["noise"] = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (another_width, "generator"),
        (no_average, "ema_generator"),
        (an_empty_optimizer, "generator's optimizer"),
        (no_noise, "random state"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    dataset: Dataset, change: Callable[[dict[str, Any]], None], part: str
) -> None:
    config = gan_config(dataset, objective="gan")
    state = GanTrainer(config, dataset, CPU).state_dict()
    GanTrainer(config, dataset, CPU, state)
    change(state)
    with pytest.raises(
        CheckpointError, match=rf"the checkpoint does not fit the run's config\.json: its {part} differs"
    ):
        GanTrainer(config, dataset, CPU, state)
