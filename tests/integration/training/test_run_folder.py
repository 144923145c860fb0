"""The run folder: how it is made and opened, what is in it after a run, and what a full disk leaves."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from reference.runs import (
    CPU,
    classifier_config,
    gan_config,
    metrics_of,
    new_run,
    state_of,
    stop_after,
    train_run,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

import snngan
from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import Dataset
from snngan.training.run_folder import RunFolder, next_run_dir, open_run
from snngan.training.tags import describe_tag

ENTANGLEMENT = {
    "entanglement/input",
    "entanglement/input_score",
    "entanglement/real_anchors",
    "entanglement/fake_anchors",
    "entanglement/temperature",
}


def read_events(folder: Path) -> EventAccumulator:
    """Return everything that TensorBoard reads from a run."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def steps_of(events: EventAccumulator, tag: str) -> list[int]:
    read = events.Images if tag.startswith("samples/") else events.Scalars
    return [event.step for event in read(tag)]


def projections_of(run: RunFolder[Any]) -> list[Any]:
    config = ProjectorConfig()
    text_format.Parse((run.path / "projector_config.pbtxt").read_text(), config)
    return list(config.embeddings)


def reopen(run: RunFolder[Any]) -> RunFolder[Any]:
    return open_run(run.path, Config)


def test_config_json(dataset: Dataset) -> None:
    run = new_run("deep/down/run", gan_config(dataset, "temperature=0.1+0.2", seed=7))
    content = json.loads((run.path / "config.json").read_text())
    assert (content["kind"], content["config"]["objective"]) == ("generator", "snnl-pixel")
    environment = content["environment"]
    assert environment["snngan"] == snngan.__version__
    assert environment["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["commit"] is None or re.fullmatch("[0-9a-f]{40}", environment["commit"])
    assert Path(content["config"]["data_dir"]).is_absolute()
    opened = open_run(run.path, TrainConfig)
    assert opened.config == run.config
    assert opened.config.objective_options["temperature"] == "0.1+0.2"
    assert repr(opened) == f"RunFolder('{run.path}', snnl-pixel on random, no checkpoint)"


def test_a_run_is_opened_by_its_kind(dataset: Dataset, labeled: Dataset) -> None:
    gan, classifier = new_run("gan", gan_config(dataset)), new_run("classifier", classifier_config(labeled))
    for run, kind in ((gan, TrainConfig), (classifier, ClassifyConfig)):
        assert open_run(run.path, Config).config == open_run(run.path, kind).config == run.config
    with pytest.raises(
        ValueError, match="classifier is the run of a classifier; this command needs the run of a generator"
    ):
        open_run(classifier.path, TrainConfig)
    with pytest.raises(ValueError, match="gan is the run of a generator; this command needs the run of a classifier"):
        open_run(gan.path, ClassifyConfig)


def test_an_existing_folder_is_left_alone(tmp_path: Path, dataset: Dataset) -> None:
    config = gan_config(dataset)
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("run", "file"):
        with pytest.raises(ValueError, match=rf"{name} exists already and is not a run folder: choose another"):
            new_run(name, config)
    with pytest.raises(ValueError, match=r"cannot be made: .*file is a file"):
        new_run("file/run", config)
    assert not list((tmp_path / "run").iterdir())
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(ValueError, match=r"run exists already: .* snngan resume .*run"):
        new_run("run", config)


def test_folders_that_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"no run folder .*missing: give the folder that snngan train named"):
        open_run(tmp_path / "missing", Config)
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.json$"):
        open_run(tmp_path, Config)
    run = new_run("runs/0001-a", gan_config(dataset))
    with pytest.raises(ValueError, match=r"has no config\.json; give one of the runs in it, such as .*0001-a"):
        open_run(tmp_path / "runs", Config)
    for text in ("", "{", "[1]", "3", "{}", '{"config": 3}', '{"config": {}}', "\xff"):
        (run.path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"config\.json (is not a run's configuration|cannot be read as JSON)"):
            reopen(run)
    (run.path / "config.json").write_text('{"plan": {}}')
    with pytest.raises(ValueError, match=r"0001-a is a run of snngan 0\.1, which this version cannot read"):
        reopen(run)


@pytest.mark.parametrize("value", [None, {"speed": 1}, {"width": 0}])
@pytest.mark.parametrize("name", ["objective_options", "arch_options"])
def test_options_that_no_run_has_are_refused(dataset: Dataset, name: str, value: Any) -> None:
    run = new_run("run", gan_config(dataset))
    content = json.loads((run.path / "config.json").read_text())
    content["config"][name] = value
    (run.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^run/config\.json is not a run's configuration: .*(must be|unknown option)"):
        reopen(run)


@pytest.mark.parametrize("name", ["download", "set"])
def test_options_of_one_start_are_refused(dataset: Dataset, name: str) -> None:
    """The folder may be anyone's: it cannot ask for a download."""
    run = new_run("run", gan_config(dataset))
    content = json.loads((run.path / "config.json").read_text())
    content["config"][name] = True
    (run.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^run/config\\.json is not a run's configuration: unknown option '{name}'"):
        reopen(run)


def test_runs_are_numbered(tmp_path: Path, dataset: Dataset) -> None:
    config = dataclasses.replace(gan_config(dataset, objective="wgan-gp"), dataset="digits")
    assert next_run_dir(config) == Path("runs/0001-digits-wgan-gp")
    for name in ("0001-a", "0041-b", "x-0100", "99-c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_dir(config) == Path("runs/0042-digits-wgan-gp")
    (tmp_path / "runs" / "10000-e").mkdir()
    assert next_run_dir(config) == Path("runs/10001-digits-wgan-gp")
    assert RunFolder.create(None, config, CPU).path == Path("runs/10001-digits-wgan-gp")
    assert next_run_dir(config, tmp_path / "elsewhere") == tmp_path / "elsewhere" / "0001-digits-wgan-gp"


@pytest.mark.parametrize("name", ["folder:/home/me/my pictures/", "npz:../a b.npz", "folder:" + "deep/" * 100])
def test_any_name_of_a_data_set_makes_a_folder_name(dataset: Dataset, name: str) -> None:
    path = next_run_dir(dataclasses.replace(gan_config(dataset), dataset=name))
    assert path.parent == Path("runs")
    assert re.fullmatch(r"0001-[A-Za-z0-9.-]{1,40}-snnl-pixel", path.name)


def test_two_runs_that_start_at_once_get_a_folder_each(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = gan_config(dataset)
    first = RunFolder.create(None, config, CPU)
    seen_too_late = iter([first.path, first.path.with_name("0002-late")])
    monkeypatch.setattr("snngan.training.run_folder.next_run_dir", lambda config: next(seen_too_late))
    assert RunFolder.create(None, config, CPU).path.name == "0002-late"


def test_what_a_projected_run_leaves(dataset: Dataset) -> None:
    options = {"objective": "snnl-projected", "log_every": 2, "checkpoint_every": 4}
    run = new_run("run", gan_config(dataset, **options))
    train_run(run, dataset)
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    at_start = ENTANGLEMENT | {"entanglement/projection"}
    assert lines[0].keys() == {"step"} | at_start
    tags = at_start | {"loss/generator", "loss/discriminator"}
    assert all(line.keys() == {"step"} | tags for line in lines[1:])
    events = read_events(run.path)
    assert set(events.Tags()["scalars"]) == tags
    assert set(events.Tags()["images"]) == {"samples/fixed_noise", "samples/real"}
    for tag in tags:
        written = [(line["step"], line[tag]) for line in lines if tag in line]
        assert steps_of(events, tag) == [step for step, _ in written]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx([value for _, value in written])
    assert steps_of(events, "samples/fixed_noise") == [0, 3, 6]
    assert steps_of(events, "samples/real") == [0]
    assert sorted(os.listdir(run.samples)) == [f"step-{step:08d}.png" for step in (0, 3, 6)]
    shown = Image.open(io.BytesIO(events.Images("samples/fixed_noise")[2].encoded_image_string))
    with Image.open(run.samples / "step-00000006.png") as picture:
        assert picture.tobytes() == shown.tobytes()
        assert picture.size == (shown.width, shown.height) == (400, 400)  # 100 images of 8x8, 5 times enlarged
    assert repr(run) == "RunFolder('run', snnl-projected on random, step 6 of 6)"


@pytest.mark.parametrize(
    ("objective", "losses"), [("snnl-pixel", {"loss/generator"}), ("gan", {"loss/generator", "loss/discriminator"})]
)
def test_a_run_without_projection(dataset: Dataset, objective: str, losses: set[str]) -> None:
    run = new_run("run", gan_config(dataset, objective=objective, steps=2))
    train_run(run, dataset)
    assert set(read_events(run.path).Tags()["scalars"]) == ENTANGLEMENT | losses
    assert not (run.path / "projector_config.pbtxt").exists()


def test_the_projector_shows_real_and_synthetic_embeddings_with_their_images(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset, "discriminator_dim=5", objective="snnl-projected", steps=5))
    train_run(run, dataset)
    shown = projections_of(run)
    assert [each.tensor_name for each in shown] == ["latest"] + [f"step-{step:08d}" for step in (2, 4, 5)]
    assert shown[0].tensor_path == shown[-1].tensor_path
    assert min(each.tensor_name for each in shown) == "latest"  # TensorBoard opens the first in the alphabet
    for each in shown:
        assert list(each.sprite.single_image_dim) == [8, 8]
        rows = (run.path / each.tensor_path).read_text().splitlines()
        assert (run.path / each.metadata_path).read_text().splitlines() == ["real"] * 16 + ["synthetic"] * 16
        assert len(rows) == 32
        assert all(len([float(value) for value in row.split("\t")]) == 5 for row in rows)
        with Image.open(run.path / each.sprite.image_path) as sheet:
            assert sheet.size == (48, 48)  # 6 x 6 places of 8x8, row by row
            first = torch.frombuffer(bytearray(sheet.convert("L").crop((0, 0, 8, 8)).tobytes()), dtype=torch.uint8)
    assert first.tolist() in dataset.test_images.flatten(1).tolist()


def test_points_have_no_images_in_the_projector(points: Dataset) -> None:
    run = new_run("run", gan_config(points, objective="mmd", steps=2))
    train_run(run, points)
    shown, _ = projections_of(run)
    assert not shown.HasField("sprite")
    assert len((run.path / shown.tensor_path).read_text().splitlines()) == 32
    assert steps_of(read_events(run.path), "samples/fixed_noise") == [0, 2]


def test_after_a_resume_no_step_is_missing_and_none_appears_twice(dataset: Dataset) -> None:
    """The first start reaches step 5 and falls back to 4; the second reaches 7 and saves; the third ends."""
    run = new_run("run", gan_config(dataset, objective="snnl-projected", steps=9, sample_every=1))
    train_run(run, dataset, should_stop=stop_after(5))
    (run.checkpoints / "step-00000005.safetensors").unlink()
    train_run(reopen(run), dataset, state_of(run), should_stop=stop_after(3))
    train_run(reopen(run), dataset, state_of(run))
    assert [line["step"] for line in metrics_of(run)] == list(range(10))
    assert len(list(run.path.glob("events*"))) == 3
    events = read_events(run.path)
    tags = ENTANGLEMENT | {"loss/generator", "loss/discriminator", "entanglement/projection"}
    assert set(events.Tags()["scalars"]) == tags
    for tag in {*tags, "samples/fixed_noise"}:
        assert steps_of(events, tag) == list(range(1 if tag.startswith("loss/") else 0, 10)), tag
    assert steps_of(events, "samples/real") == [0]
    names = [each.tensor_name for each in projections_of(run)]
    assert names == ["latest"] + [f"step-{step:08d}" for step in (2, 4, 6, 8, 9)]
    logged = [line["entanglement/input"] for line in metrics_of(run)]
    assert [event.value for event in events.Scalars("entanglement/input")] == pytest.approx(logged)


def test_what_is_logged_is_on_disk_at_once(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset))
    run.log(3, {"a/b": 0.5, "a/infinite": float("inf")})
    assert metrics_of(run) == [{"step": 3, "a/b": 0.5, "a/infinite": None}]
    assert steps_of(read_events(run.path), "a/b") == [3]
    assert run.last_logged() == 3


def test_the_half_written_line_of_a_killed_run_is_dropped(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset))
    for step in (0, 1, 2, 3):
        run.log(step, {"x": float(step)})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "x"')
    again = reopen(run)
    again.rewind(2)
    again.log(3, {"x": 30.0})
    expected = [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    assert [(line["step"], line["x"]) for line in metrics_of(run)] == expected
    assert [(event.step, event.value) for event in read_events(run.path).Scalars("x")] == expected


def test_a_rewind_removes_later_grids_and_projections(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset))
    for step in (0, 2, 4):
        run.log_samples(step, torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8))
        run.log_projection(step, torch.randn(4, 3), torch.zeros(4, 1, 8, 8), ["real"] * 4)
    (run.samples / ".0123abcd.step-00000003.png.part").write_bytes(b"half")
    (run.samples / "step-by-step.txt").write_text("mine")
    again = reopen(run)
    again.rewind(2)
    assert sorted(os.listdir(run.samples)) == ["step-00000000.png", "step-00000002.png", "step-by-step.txt"]
    assert sorted(os.listdir(run.path / "projector")) == ["step-00000000", "step-00000002"]
    again.rewind(-1, CPU)
    assert os.listdir(run.samples) == ["step-by-step.txt"]
    assert not os.listdir(run.path / "projector")


def test_a_change_of_environment_is_described_until_the_run_restarts(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset))
    file = run.path / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"environment": content["environment"] | {"threads": 99}}))
    run.rewind(0)
    assert any("started with threads 99, continued with" in line for line in run.describe_changes())
    run.rewind(-1, CPU)
    assert run.describe_changes() == []
    assert json.loads(file.read_text()) == content


def test_more_steps_are_written_when_the_run_continues(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset, steps=4, seed=5))
    before = json.loads((run.path / "config.json").read_text())
    run.set_steps(9)
    assert json.loads((run.path / "config.json").read_text()) == before
    run.rewind(0)
    assert run.config.steps == reopen(run).config.steps == 9
    before["config"]["steps"] = 9
    assert json.loads((run.path / "config.json").read_text()) == before


def test_tensorboard_shows_config_hyperparameters_and_descriptions(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset, objective="gan", seed=5))
    run.log_config()
    run.log(0, {"loss/generator": 1.0, "mine/unknown": 2.0})
    summaries = {}
    for event in EventFileLoader(str(next(run.path.glob("events.*")))).Load():
        summaries |= {value.tag: value for value in event.summary.value}
    assert b"| learning_rate | 0.001 |" in summaries["config/text_summary"].tensor.string_val[0]
    assert summaries["_hparams_/session_start_info"].metadata.plugin_data.plugin_name == "hparams"
    assert summaries["loss/generator"].metadata.summary_description == describe_tag("loss/generator") != ""
    assert summaries["mine/unknown"].metadata.summary_description == ""


def test_every_logged_tag_has_a_description(dataset: Dataset, labeled: Dataset) -> None:
    train_run(new_run("gan", gan_config(dataset, objective="snnl-projected", metrics_every=1, steps=1)), dataset)
    train_run(new_run("net", classifier_config(labeled, seeds="0:2", steps=1)), labeled)
    for name in ("gan", "net"):
        for line in metrics_of(open_run(Path(name), Config)):
            assert [tag for tag in line if tag != "step" and not describe_tag(tag)] == []


def test_one_process_at_a_time_trains_in_a_folder(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset))
    again = reopen(run)
    with run.lock(), pytest.raises(ValueError, match="run is being trained by another process"), again.lock():
        pass
    with again.lock():
        pass
