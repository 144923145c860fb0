"""The run folder: what is in it after a run, after a resumed one, and when the disk is full."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from reference.stopping import stop_after
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

import snngan
from snngan.config import Plan
from snngan.data import Dataset
from snngan.files import SaveError
from snngan.training.checkpoint import load_newest
from snngan.training.gan import train_gan
from snngan.training.run_folder import GanRun, next_run_dir

CPU = torch.device("cpu")
SCALARS = {
    "entanglement/input",
    "entanglement/input_score",
    "entanglement/real_anchors",
    "entanglement/fake_anchors",
    "entanglement/temperature",
}


def board(folder: Path) -> EventAccumulator:
    """Return everything that TensorBoard reads from a run."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def steps_of(events: EventAccumulator, tag: str) -> list[int]:
    read = events.Images if tag.startswith("samples/") else events.Scalars
    return [event.step for event in read(tag)]


def metrics(run: GanRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def projections(run: GanRun) -> list[Any]:
    config = ProjectorConfig()
    text_format.Parse((run.path / "projector_config.pbtxt").read_text(), config)
    return list(config.embeddings)


def test_config_json(run_of: Callable[..., GanRun]) -> None:
    run = run_of("deep/down/run", "temperature=0.1+0.2", seed=7)
    content = json.loads((run.path / "config.json").read_text())
    assert content["plan"] == json.loads(json.dumps(dataclasses.asdict(run.plan)))
    environment = content["environment"]
    assert environment["snngan"] == snngan.__version__
    assert environment["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["commit"] is None or re.fullmatch("[0-9a-f]{40}", environment["commit"])
    assert Path(content["plan"]["data_dir"]).is_absolute()
    opened = GanRun.open(run.path)
    assert opened.plan == run.plan
    assert opened.latent_dim == 8


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, plan_of: Callable[..., Plan]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("run", "file"):
        with pytest.raises(ValueError, match=rf"{name} exists already, and is no run's folder: choose another"):
            GanRun.create(tmp_path / name, plan_of(), CPU)
    with pytest.raises(ValueError, match=r"cannot be made: .*file is a file"):
        GanRun.create(tmp_path / "file" / "run", plan_of(), CPU)
    assert not list((tmp_path / "run").iterdir())
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(ValueError, match=r"run exists already: .* snngan resume .*run"):
        GanRun.create(tmp_path / "run", plan_of(), CPU)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run folder .*missing: give the folder that snngan train named"):
        GanRun.open(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"is no run folder: it has no config\.json"):
        GanRun.open(tmp_path)
    for text in ("", "{", "[1]", "3", "{}", '{"plan": 3}', '{"plan": {}}', "\xff"):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"config\.json is (not a run's configuration|cannot be read as JSON)"):
            GanRun.open(tmp_path)


def test_runs_are_numbered(tmp_path: Path, plan_of: Callable[..., Plan]) -> None:
    plan = dataclasses.replace(plan_of(objective="wgan-gp"), dataset="digits")
    assert next_run_dir(plan) == Path("runs/0001-digits-wgan-gp")
    for name in ("0001-a", "0041-b", "x-0100", "99-c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_dir(plan) == Path("runs/0042-digits-wgan-gp")
    (tmp_path / "runs" / "9999-d").mkdir()
    assert next_run_dir(plan) == Path("runs/10000-digits-wgan-gp")
    (tmp_path / "runs" / "10000-e").mkdir()
    assert next_run_dir(plan) == Path("runs/10001-digits-wgan-gp")
    assert next_run_dir(plan, tmp_path / "elsewhere") == tmp_path / "elsewhere" / "0001-digits-wgan-gp"


def test_two_runs_that_start_at_once_get_a_folder_each(
    tmp_path: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    first = GanRun.create_next(plan, CPU)
    seen_too_late = iter([first.path, first.path.with_name("0002-late")])
    monkeypatch.setattr("snngan.training.run_folder.next_run_dir", lambda plan: next(seen_too_late))
    assert GanRun.create_next(plan, CPU).path.name == "0002-late"
    monkeypatch.setattr("snngan.training.run_folder.next_run_dir", lambda plan: first.path)  # it cannot be looked into
    with pytest.raises(ValueError, match="exists already"):
        GanRun.create_next(plan, CPU)
    (tmp_path / "file").touch()
    monkeypatch.setattr("snngan.training.run_folder.next_run_dir", lambda plan: tmp_path / "file" / "0001-x")
    with pytest.raises(ValueError, match="cannot be made"):
        GanRun.create_next(plan, CPU)


@pytest.mark.parametrize("name", ["folder:/home/me/my pictures/", "npz:../a b.npz", "folder:" + "deep/" * 100])
def test_any_name_of_a_data_set_makes_a_folder_name(plan_of: Callable[..., Plan], name: str) -> None:
    path = next_run_dir(dataclasses.replace(plan_of(), dataset=name))
    assert path.parent == Path("runs")
    assert re.fullmatch(r"0001-[A-Za-z0-9.-]{1,40}-snnl-pixel", path.name)


def test_what_a_projected_run_leaves(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    run = run_of("run", objective="snnl-projected", steps=6, log_every=2, sample_every=3, checkpoint_every=4)
    train_gan(run, dataset, CPU)
    losses = {"loss/generator", "loss/discriminator"}
    lines = metrics(run)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert lines[0].keys() == {"step", "entanglement/projection"} | SCALARS
    assert all(line.keys() == {"step", "entanglement/projection"} | SCALARS | losses for line in lines[1:])
    events = board(run.path)
    assert set(events.Tags()["scalars"]) == SCALARS | losses | {"entanglement/projection"}
    assert set(events.Tags()["images"]) == {"samples/fixed_noise", "samples/real"}
    for tag in SCALARS | losses | {"entanglement/projection"}:
        written = [(line["step"], line[tag]) for line in lines if tag in line]
        assert [event.step for event in events.Scalars(tag)] == [step for step, _ in written]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx([value for _, value in written])
    assert steps_of(events, "samples/fixed_noise") == [0, 3, 6]
    assert steps_of(events, "samples/real") == [0]
    assert sorted(os.listdir(run.samples)) == [f"step-{step:08d}.png" for step in (0, 3, 6)]
    shown = Image.open(io.BytesIO(events.Images("samples/fixed_noise")[2].encoded_image_string))
    with Image.open(run.samples / "step-00000006.png") as picture:
        assert picture.tobytes() == shown.tobytes()
        assert picture.size == (shown.width, shown.height) == (400, 400)  # 100 images of 8x8, 5 times enlarged


def test_a_run_without_discriminator_has_neither_its_loss_nor_a_projection(
    run_of: Callable[..., GanRun], dataset: Dataset
) -> None:
    run = run_of("run", objective="snnl-pixel", steps=2)
    train_gan(run, dataset, CPU)
    assert set(board(run.path).Tags()["scalars"]) == SCALARS | {"loss/generator"}
    assert not (run.path / "projector_config.pbtxt").exists()


def test_a_run_with_one_logit_has_no_projection(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    run = run_of("run", objective="gan", steps=2)
    train_gan(run, dataset, CPU)
    assert set(board(run.path).Tags()["scalars"]) == SCALARS | {"loss/generator", "loss/discriminator"}
    assert not (run.path / "projector_config.pbtxt").exists()


def test_the_projector_shows_real_and_synthetic_points_with_their_pictures(
    run_of: Callable[..., GanRun], dataset: Dataset
) -> None:
    run = run_of("run", "discriminator_dim=5", objective="snnl-projected", steps=5, checkpoint_every=2)
    train_gan(run, dataset, CPU)
    shown = projections(run)
    assert [each.tensor_name for each in shown] == ["latest"] + [f"step-{step:08d}" for step in (2, 4, 5)]
    assert shown[0].tensor_path == shown[-1].tensor_path
    assert min(each.tensor_name for each in shown) == "latest"
    for each in shown:
        assert list(each.sprite.single_image_dim) == [8, 8]
        rows = (run.path / each.tensor_path).read_text().splitlines()
        assert (run.path / each.metadata_path).read_text().splitlines() == ["real"] * 16 + ["synthetic"] * 16
        assert len(rows) == 32
        assert all(len([float(value) for value in row.split("\t")]) == 5 for row in rows)
        with Image.open(run.path / each.sprite.image_path) as sheet:
            assert sheet.size == (48, 48)  # 6 x 6 places of 8x8, row by row
            first = torch.frombuffer(bytearray(sheet.convert("L").crop((0, 0, 8, 8)).tobytes()), dtype=torch.uint8)
    held_out = {tuple(image.flatten().tolist()) for image in dataset.test_images}
    assert tuple(first.tolist()) in held_out


def test_points_of_the_plane_have_no_pictures_in_the_projector(run_of: Callable[..., GanRun], points: Dataset) -> None:
    run = run_of("run", objective="mmd", data=points, steps=2)
    train_gan(run, points, CPU)
    shown, _ = projections(run)
    assert not shown.HasField("sprite")
    assert len((run.path / shown.tensor_path).read_text().splitlines()) == 32
    assert steps_of(board(run.path), "samples/fixed_noise") == [0, 2]


def test_after_a_resume_no_step_is_missing_and_none_appears_twice(
    run_of: Callable[..., GanRun], dataset: Dataset
) -> None:
    """The first start gets to step 5 and falls back to 4; the second gets to 7 and saves; the third ends."""
    run = run_of("run", objective="snnl-projected", steps=9, checkpoint_every=2, sample_every=1)
    train_gan(run, dataset, CPU, should_stop=stop_after(5))
    (run.checkpoints / "step-00000005.pt").unlink()
    train_gan(GanRun.open(run.path), dataset, CPU, start=load_newest(run.checkpoints), should_stop=stop_after(3))
    train_gan(GanRun.open(run.path), dataset, CPU, start=load_newest(run.checkpoints))
    assert [line["step"] for line in metrics(run)] == list(range(10))
    assert len(list(run.path.glob("events*"))) == 3
    events = board(run.path)
    assert set(events.Tags()["scalars"]) == SCALARS | {
        "loss/generator", "loss/discriminator", "entanglement/projection",
    }  # fmt: skip
    for tag in events.Tags()["scalars"] + ["samples/fixed_noise"]:
        assert steps_of(events, tag) == list(range(1 if tag.startswith("loss/") else 0, 10)), tag
    assert steps_of(events, "samples/real") == [0]
    names = [each.tensor_name for each in projections(run)]
    assert names == ["latest"] + [f"step-{step:08d}" for step in (2, 4, 6, 7, 8, 9)]
    for line in metrics(run):
        (value,) = [event.value for event in events.Scalars("entanglement/input") if event.step == line["step"]]
        assert value == pytest.approx(line["entanglement/input"])


def test_what_is_logged_is_on_disk_at_once(run_of: Callable[..., GanRun]) -> None:
    run = run_of("run")
    run.log(3, {"a/b": 0.5})
    assert [line["step"] for line in metrics(run)] == [3]
    assert steps_of(board(run.path), "a/b") == [3]


def test_the_half_written_line_of_a_killed_run_is_dropped(run_of: Callable[..., GanRun]) -> None:
    run = run_of("run")
    for step in (0, 1, 2, 3):
        run.log(step, {"x": float(step)})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "x"')
    again = GanRun.open(run.path)
    again.rewind(2)
    again.log(3, {"x": 30.0})
    assert [(line["step"], line["x"]) for line in metrics(run)] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    events = board(run.path).Scalars("x")
    assert [(event.step, event.value) for event in events] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_run_that_is_made_at_the_same_moment_is_named(
    tmp_path: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def late(old: Path, new: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            GanRun.create(new, plan_of(), CPU)
        rename(old, new)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ValueError, match=r"run exists already: .* go on with it by: snngan resume"):
        GanRun.create(tmp_path / "run", plan_of(), CPU)
    assert os.listdir(tmp_path) == ["run"]


def test_grids_and_projections_of_later_steps_go_and_what_was_half_written(run_of: Callable[..., GanRun]) -> None:
    run = run_of("run")
    for step in (0, 2, 4):
        run.log_samples(step, torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8))
        run.log_projection(step, torch.randn(4, 3), torch.zeros(4, 1, 8, 8), ["real"] * 4)
    half = run.samples / ".0123abcd.step-00000003.png.part"
    half.write_bytes(b"half")
    (run.samples / "step-by-step.txt").write_text("mine")
    again = GanRun.open(run.path)
    again.rewind(2)
    assert {path.name for path in run.samples.iterdir()} == {
        "step-00000000.png", "step-00000002.png", "step-by-step.txt"
    }  # fmt: skip
    assert {path.name for path in (run.path / "projector").iterdir()} == {"step-00000000", "step-00000002"}
    again.begin_again(CPU)
    assert os.listdir(run.samples) == ["step-by-step.txt"]
    assert not os.listdir(run.path / "projector")


def test_a_run_that_begins_again_says_where(run_of: Callable[..., GanRun]) -> None:
    run = run_of("run")
    file = run.path / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"environment": content["environment"] | {"threads": 99}}))
    run.rewind(0)
    assert any("begun with 99 of threads" in line for line in run.changed_since_begun())
    run.begin_again(CPU)
    assert run.changed_since_begun() == []
    assert json.loads(file.read_text()) == content


def test_more_steps_are_remembered(run_of: Callable[..., GanRun]) -> None:
    run = run_of("run", steps=4, seed=5)
    before = json.loads((run.path / "config.json").read_text())
    run.set_steps(9)
    assert json.loads((run.path / "config.json").read_text()) == before  # until the run goes on
    run.rewind(0)
    after = json.loads((run.path / "config.json").read_text())
    assert run.plan.optimization.steps == GanRun.open(run.path).plan.optimization.steps == 9
    before["plan"]["optimization"]["steps"] = 9
    assert after == before


def fail_to_open(monkeypatch: pytest.MonkeyPatch, part: str) -> Counter[str]:
    """Let every opening for writing of a file whose path holds ``part`` fail as on a full disk."""
    opened: Counter[str] = Counter()
    normal = builtins.open

    def guarded(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax") and part in str(file):
            opened[part] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return normal(file, mode, *args, **options)

    monkeypatch.setattr(builtins, "open", guarded)
    return opened


@pytest.mark.parametrize(
    "part",
    ["metrics.jsonl", "events.out", ".png.part", "tensors.tsv", "sprite.png", "projector_config", ".pt.part"],
)
def test_a_full_disk_names_the_file(
    run_of: Callable[..., GanRun], dataset: Dataset, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    run = run_of("run", objective="snnl-projected", steps=4)
    train_gan(run, dataset, CPU, should_stop=stop_after(2))
    saved = {path.name: path.read_bytes() for path in run.checkpoints.iterdir()}
    with monkeypatch.context() as patch:
        assert not fail_to_open(patch, part)
        with pytest.raises(
            SaveError,
            match=rf"{re.escape(part.removesuffix('.part'))}\S* could not be written: No sp",
        ):
            train_gan(GanRun.open(run.path), dataset, CPU, start=load_newest(run.checkpoints))
    assert {path.name: path.read_bytes() for path in run.checkpoints.iterdir()}.items() >= saved.items()
    assert not list(run.path.rglob("*.part"))
    outcome = train_gan(GanRun.open(run.path), dataset, CPU, start=load_newest(run.checkpoints))
    assert outcome.finished
    assert [line["step"] for line in metrics(run)] == list(range(5))


def test_a_full_disk_leaves_no_folder_without_config(
    tmp_path: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open(monkeypatch, "config.json")
    with pytest.raises(SaveError, match=r"config\.json could not be written: No space left"):
        GanRun.create(tmp_path / "run", plan_of(), CPU)
    assert not (tmp_path / "run").exists()


def test_one_process_trains_in_a_folder_at_a_time(run_of: Callable[..., GanRun]) -> None:
    run = run_of("run")
    again = GanRun.open(run.path)
    with run.locked(), pytest.raises(ValueError, match="run is being trained by another process"), again.locked():
        pass
    with again.locked():
        pass
