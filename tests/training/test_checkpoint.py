"""Checkpoints: whole or not at all, checked, passed over when damaged, refused when they hold code or do not fit."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from reference.runs import CPU, gan_config

from snngan.data import Dataset
from snngan.files import SaveError
from snngan.training.checkpoint import KEEP, AsLargeAs, CheckpointError, load_newest, save_checkpoint
from snngan.training.gan import GanTrainer


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "networks": {"weights": torch.arange(200.0) + step}, "noise": torch.ByteTensor([1, 2])}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, state_of(step))


def load(folder: Path) -> tuple[int, list[str]]:
    """Return the step of the newest sound checkpoint, its content checked, and the lines about damaged ones."""
    lines: list[str] = []
    state = load_newest(folder, lines.append)
    assert torch.equal(state["networks"]["weights"], torch.arange(200.0) + state["step"])
    return state["step"], lines


def write_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")


def test_the_newest_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 9, 100, 20)
    assert load(tmp_path) == (100, [])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, *range(1, 7))
    assert KEEP == 3
    names = [f"step-{step:08d}.pt" for step in (4, 5, 6)]
    assert sorted(os.listdir(tmp_path)) == sorted(names + [f"{name}.sha256" for name in names])


def test_sha256sum_reads_the_checksum_file(tmp_path: Path) -> None:
    save(tmp_path, 7)
    content = (tmp_path / "step-00000007.pt").read_bytes()
    expected = f"{hashlib.sha256(content).hexdigest()}  step-00000007.pt\n"
    assert (tmp_path / "step-00000007.pt.sha256").read_text() == expected
    command = ["sha256sum", "--check", "--strict", "step-00000007.pt.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_a_file_left_half_written_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".0123abcd.step-00000002.pt.part").write_bytes(b"half")
    (tmp_path / "step-00000002.pt.sha256").write_text("0" * 64 + "  step-00000002.pt\n")
    (tmp_path / "step-of-the-way.pt").write_bytes(b"another's")
    assert load(tmp_path) == (1, [])


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_full_disk_changes_no_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save(tmp_path, 1, 2, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"{'builtins' if call == 'open' else 'os'}.{call}", full)
        with pytest.raises(SaveError, match=r"step-00000004\.pt\S* could not be written: No space left on device"):
            save(tmp_path, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load(tmp_path) == (3, [])


def test_a_disk_that_fills_up_between_checksum_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 2, 3)
    fsync, calls = os.fsync, []

    def full_at_the_third(descriptor: int) -> None:  # the first two are of the checksum and its folder
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_at_the_third)
        with pytest.raises(SaveError, match=r"step-00000004\.pt could not be written: No space left on device"):
            save(tmp_path, 4)
    assert not list(tmp_path.glob(".*"))
    assert load(tmp_path) == (3, [])
    save(tmp_path, 4)
    assert load(tmp_path) == (4, [])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_to_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_a_name(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"_rebuild_tensor_v2") == 1
    path.write_bytes(content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_w2"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def remove_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def empty_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_text("")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [
    truncate, cut_to_half, flip_a_bit, flip_a_bit_of_a_name, empty, blank, remove_checksum, empty_checksum,
    become_a_folder,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002.pt")
    step, (line,) = load(tmp_path)
    assert step == 1
    assert re.fullmatch(
        rf"{tmp_path / 'step-00000002.pt'} is damaged \(.*\): falling back to the checkpoint before it", line
    )


def test_all_are_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("*.pt"):
        truncate(path)
    with pytest.raises(CheckpointError, match="is sound: all 2 are damaged"):
        load(tmp_path)


def test_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*: the run stopped before it saved one"):
            load(folder)


class Payload:
    """Something that makes the folder ``place`` when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.place,)


def zip_form(path: Path, value: Any) -> None:
    torch.save({"step": 2, "networks": value}, path)


def zip_form_of_protocol_4(path: Path, value: Any) -> None:
    torch.save({"step": 2, "networks": value}, path, pickle_protocol=4)


def old_form(path: Path, value: Any) -> None:
    torch.save({"step": 2, "networks": value}, path, _use_new_zipfile_serialization=False)


def zip_behind_a_pickle(path: Path, value: Any) -> None:
    torch.save({"step": 2, "networks": value}, path)
    path.write_bytes(pickle.dumps(value, protocol=2) + path.read_bytes())


def zip_by_hand(path: Path, value: Any) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=0))
        archive.writestr("archive/version", "3\n")


def plain(protocol: int) -> Callable[[Path, Any], None]:
    def write(path: Path, value: Any) -> None:
        path.write_bytes(pickle.dumps({"step": 2, "networks": value}, protocol=protocol))

    return write


PICKLES = {
    "zip": zip_form,
    "zip-protocol-4": zip_form_of_protocol_4,
    "zip-behind-a-pickle": zip_behind_a_pickle,
    "zip-by-hand": zip_by_hand,
    "torch-old-form": old_form,
    **{f"pickle-protocol-{protocol}": plain(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("checked", [True, False], ids=["checksum-fits", "no-checksum"])
@pytest.mark.parametrize("form", PICKLES)
def test_pickled_code_is_refused_not_run_and_not_passed_over(tmp_path: Path, form: str, checked: bool) -> None:
    save(tmp_path, 1)
    path, trace = tmp_path / "step-00000002.pt", tmp_path / "trace"
    PICKLES[form](path, Payload(trace))
    if checked:
        write_checksum(path)
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt holds pickled code .* was not loaded"):
        load_newest(tmp_path, pytest.fail)
    assert not trace.exists()


def break_crc(path: Path) -> None:
    """Change the archive's own checksums of its pickle."""
    with zipfile.ZipFile(path) as archive:
        (info,) = [each for each in archive.infolist() if each.filename.endswith("data.pkl")]
    old, new = (struct.pack("<I", number) for number in (info.CRC, info.CRC ^ 1))
    path.write_bytes(path.read_bytes().replace(old, new))


def test_code_in_an_archive_made_to_look_damaged_is_not_run(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path, trace = tmp_path / "step-00000002.pt", tmp_path / "trace"
    zip_form(path, Payload(trace))
    break_crc(path)
    write_checksum(path)
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt is undamaged, but not a checkpoint that"):
        load(tmp_path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "torch itself runs it"


def test_the_payload_of_these_tests_is_run_by_torch(tmp_path: Path) -> None:
    for number, form in enumerate(("zip", "torch-old-form")):
        PICKLES[form](tmp_path / "x.pt", Payload(tmp_path / f"{number}"))
        torch.load(tmp_path / "x.pt", weights_only=False)
        assert (tmp_path / f"{number}").is_dir()


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.ones(3)}, {"step": 3}])
def test_a_sound_file_of_another_kind_is_refused(tmp_path: Path, content: Any) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-00000002.pt"
    torch.save(content, path)
    write_checksum(path)
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt is not a checkpoint of a run"):
        load(tmp_path)


def test_an_unreadable_file_whose_checksum_fits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000002.pt"
    path.write_bytes(b"\x00 nothing that torch reads")
    write_checksum(path)
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt is undamaged, but not a checkpoint that this"):
        load(tmp_path)


def test_weights_larger_than_the_checkpoint_are_refused_before_they_are_allocated() -> None:
    state = {"weights": [torch.zeros(1 << 20)]}
    with AsLargeAs(state):
        torch.empty(1 << 20)
        with pytest.raises(CheckpointError, match="its networks are smaller"):
            torch.empty(1 << 21)
    with AsLargeAs(state), pytest.raises(CheckpointError, match="its networks are smaller"):
        torch.empty(1 << 60)
    with AsLargeAs(None), pytest.raises(RuntimeError, match=r"memory|size"):  # without a checkpoint, as torch says it
        torch.empty(1 << 60)


def another_width(state: dict[str, Any]) -> None:
    state["networks"]["generator"] = torch.nn.Linear(3, 4).state_dict()


def no_average(state: dict[str, Any]) -> None:
    del state["networks"]["ema_generator"]


def an_empty_optimizer(state: dict[str, Any]) -> None:
    state["optimizers"]["generator"] = {"state": {}, "param_groups": []}


def another_position(state: dict[str, Any]) -> None:
    state["batches"]["position"] = 10**6


def no_noise(state: dict[str, Any]) -> None:
    state["noise"] = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (another_width, "generator"),
        (no_average, "ema_generator"),
        (an_empty_optimizer, "generator's optimizer"),
        (another_position, "random state"),
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
