"""Mistakes of a user: one line that names the mistake and the remedy, exit status 2, and every file as it was."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from reference.states import differences
from torch import Tensor

from snngan.cli import main
from snngan.cli.options import OTHER_NAMES, explain_unknown_option
from snngan.objectives import NonSaturating

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'"),
        ("help", "unknown command 'help': use --help, alone or after a command$"),
        ("version", "unknown command 'version': use --version, alone or after a command$"),
        ("data lst", "unknown command 'lst'; did you mean 'list'"),
        ("resume", r"Missing argument 'RUN': use .* resume \[OPTIONS\] RUN$"),
        ("report", "Missing argument 'RUNS...': use"),
        ("sample run", "Missing option '--out': use"),
        ("doctor now", r"Got unexpected extra argument \(now\): use .* doctor \[OPTIONS\]$"),
        ("train mnist", r"Got unexpected extra argument \(mnist\): to name a data set, use --dataset NAME$"),
        ("evaluate r --metrics fid kid", r"extra argument \(kid\): use .* evaluate \[OPTIONS\] \[RUN\]$"),
        ("evaluate digits --metrics FID", "unknown metric 'FID'; did you mean 'fid'?"),
        ("data prepare mnits", "unknown dataset 'mnits'; did you mean 'mnist'"),
        ("data prepare folder:pictures", "NAME must be the name of a data set, got folder:pictures"),
        ("board nowhere", "RUNS must be a run's folder or a folder of runs, got nowhere, which does not exist$"),
        ("board . --port 70000", "70000 is not in the range 0<=x<=65535"),
        ("sample run --out x.png --count 0", "0 is not in the range 1<=x<=10000000"),
        ("sample run --out x.png --count many", "'many' is not a valid integer"),
        ("interpolate run --out x.png --side 1", "1 is not in the range 2<=x<=200"),
        ("resume run --steps 0", "0 is not in the range x>=1"),
        ("experiment list zebra", "no experiment has 'zebra' in its name or text"),
        ("report r --out r.pdf", r"--out must be a name that ends in \.html, got r\.pdf"),
        ("report r --out nowhere/r.html", "--out nowhere/r.html: cannot find the folder /.*nowhere"),
        ("compare digits gaussians", "gaussians test holds 2-D points and digits test images, which"),
        ("entangle gaussians digits --features pixels", "gaussians test holds 2-D points and digits test images"),
    ],
)
def test_bad_command_line(refused: Cli, command: str, message: str) -> None:
    refused(command, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps", "Option '--steps' requires an argument"),
        ("--steps many", "'--steps': 'many' is not a valid integer"),
        ("--steps 0", r"steps must be in \[1, inf\), got 0"),
        ("--learning-rate nan", r"learning_rate must be in \[0, 10\], got nan"),
        ("--betas 0.5", "betas must be two comma-separated numbers, got '0.5'"),
        ("--betas 0.5,x", "betas must be two comma-separated numbers, got '0.5,x'"),
        ("--precision fp8", "'fp8' is not one of 'fp32', 'tf32', 'bf16'"),
        ("--dataset MNIST", "unknown dataset 'MNIST'; did you mean 'mnist'?"),
        ("--objective snl-pixel", "unknown objective 'snl-pixel'; did you mean 'snnl-pixel'"),
        ("--arch mpl", "unknown architecture 'mpl'; did you mean 'mlp'"),
        ("--set widht=3", "unknown option of --set 'widht'; did you mean 'width'"),
        ("--set width", "--set must be NAME=VALUE, got 'width'; --list-settings lists the names"),
        ("--set help", "--set must be NAME=VALUE, got 'help'; --list-settings lists the names"),
        ("--set width=wide", "width must be a whole number, got 'wide'"),
        ("--set width=0", r"width must be in \[1, 16384\], got 0"),
        ("--set form=free", "unknown value for form 'free'"),
        ("--set temperature=hot", "temperature must be .*, got 'hot'"),
        ("--batch-size 201", "batch of 201 is larger than the 200 training images; use --batch-size 200 or less"),
        ("--image-size 9", "images are 8x8, smaller than --image-size 9; use 8 or less"),
        ("--device tpu", "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("--dataset folder:nowhere", "nowhere is not there; expected a folder of images"),
        ("--dataset npz:nowhere.npz", r"cannot find the file nowhere\.npz"),
        ("--dataset mnist", "mnist is not here: .*; use --download"),
        ("--arch dcgan --dataset gaussians", "dcgan"),
    ],
)
def test_bad_option_of_train(refused: Cli, tiny: str, options: str, message: str) -> None:
    refused(f"train {tiny} {options}", message)


@pytest.mark.parametrize(
    ("options", "message"), [("--objective snl", "unknown objective"), ("--set steps=0", "steps must be in")]
)
def test_options_are_checked_before_data_is_prepared(refused: Cli, options: str, message: str) -> None:
    refused(f"train --dataset mnist-5k {options}", message)


@pytest.mark.parametrize(
    "command", ["train {tiny}", "sample {run} --out x.png", "interpolate {run} --out x.png", "resume {run}"]
)
def test_cuda_without_a_gpu(
    refused: Cli, tiny: str, finished: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = command.format(tiny=tiny, run=finished)
    refused(f"{command} --device cuda", "--device cuda: no CUDA device is available .*; use --device cpu")


def test_run_folder_that_exists(refused: Cli, run: Path, tiny: str, tmp_path: Path) -> None:
    refused(f"train {tiny} --run-dir run", "run exists already: .* snngan resume run")
    (tmp_path / "file").write_text("mine")
    refused(f"train {tiny} --run-dir file", "file exists already and is not a run folder: choose another --run-dir")
    refused(f"train {tiny} --run-dir file/run", "the run folder file/run cannot be made: .*/file is a file")
    refused(f"train {tiny} --run-dir {'x' * 300}", "File name too long")


def save_image(path: Path, color: int = 100, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", size, color).save(path)


def test_folder_with_unusable_images(refused: Cli, cli: Cli, tiny: str) -> None:
    Path("pictures").mkdir()
    options = f"{tiny} --dataset folder:pictures --image-size 8 --batch-size 4 --steps 1"
    refused(f"train {options}", "pictures holds no images")
    for number in range(20):
        save_image(Path(f"pictures/{number}.png"), number)
    Path("pictures/broken.png").write_bytes(Path("pictures/3.png").read_bytes()[:40])
    refused(f"train {options}", r"pictures/broken\.png cannot be read: .*; repair or remove it, or use --skip-broken")
    output = cli(f"train {options} --skip-broken --run-dir run")
    assert "left out 1 of 21 images that cannot be used, the first: pictures/broken.png" in output.err
    cli("resume run --steps 2")  # remembers --skip-broken and --image-size
    Path("pictures/broken.png").unlink()
    save_image(Path("pictures/small.png"), size=(16, 7))
    refused(
        f"train {options}", r"pictures/small\.png is 16x7, too small for images of 8x8; use --image-size 7 or less, or"
    )
    output = cli(f"train {options} --skip-broken --run-dir second")
    assert "left out 1 of 21 images that cannot be used, the first: pictures/small.png (16x7, too small" in output.err
    options = options.replace("--image-size 8", "--skip-broken --run-dir third")
    assert "image size 16, because 0.png has a side of 16 pixels" in cli(f"train {options}").err
    cli("resume third --steps 2")  # at the same size


def test_folder_with_too_few_images(refused: Cli, tiny: str) -> None:
    for number in range(12):
        save_image(Path(f"pictures/{number}.png"), number)
    options = f"{tiny} --dataset folder:pictures --image-size 8 --batch-size 4"
    refused(f"train {options}", "only 1 image is held out, entanglement needs 2; give 20 training images or more")


def test_unusable_npz_file(refused: Cli, tiny: str) -> None:
    command = f"train {tiny} --dataset npz:few.npz --batch-size 4"
    np.savez("few.npz", images=np.full((40, 1, 8, 8), 256))
    refused(command, r"few\.npz: images must be integers from 0 .* to 255 .*, got int64 256 to 256")
    np.savez("few.npz", images=np.array([{}, {}]))
    refused(command, r"few\.npz: images cannot be read \(Object arrays")
    Path("few.npz").write_text("text")
    refused(command, r"few\.npz: .*npz file|few\.npz: .*numpy\.savez")


for_commands_on_runs = pytest.mark.parametrize(
    "command", ["resume {}", "sample {} --out x.png", "interpolate {} --out x.npz"]
)


@for_commands_on_runs
def test_folder_that_is_not_a_run(refused: Cli, run: Path, command: str) -> None:
    refused(command.format("nowhere"), r"no run folder nowhere: give the folder that snngan train named")
    refused(command.format("run/config.json"), r"no run folder run/config\.json")
    (run / "config.json").rename("away.json")
    refused(command.format(run), r"run is not a run folder: it has no config\.json")
    (run / "config.json").write_text("{}")
    refused(command.format(run), r"run/config\.json is not a run's configuration")
    content = json.loads(Path("away.json").read_text())
    content["config"]["arch_options"]["color"] = 1
    (run / "config.json").write_text(json.dumps(content))
    refused(command.format(run), r"run/config\.json is not a run's configuration: unknown option 'color' ")


@for_commands_on_runs
def test_run_without_checkpoints(refused: Cli, run: Path, command: str) -> None:
    (run / "checkpoints").rename("away")
    refused(command.format(run), r"no checkpoint in run/checkpoints: the run stopped before it saved one; train again")
    (run / "checkpoints").mkdir()
    refused(command.format(run), "no checkpoint in run/checkpoints")


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}.pt"


@for_commands_on_runs
def test_run_with_damaged_checkpoints_only(refused: Cli, run: Path, command: str) -> None:
    for step in (2, 4, 6):
        content = checkpoint_path(run, step).read_bytes()
        checkpoint_path(run, step).write_bytes(content[:-1])
    refused(command.format(run), "no checkpoint in run/checkpoints is sound: all 3 are damaged", notes=3)


@for_commands_on_runs
def test_truncated_newest_checkpoint_is_skipped_with_a_warning(cli: Cli, run: Path, command: str) -> None:
    checkpoint_path(run, 6).write_bytes(checkpoint_path(run, 6).read_bytes()[:1000])
    output = cli(command.format(run))
    expected = r"run/checkpoints/step-00000006\.pt is damaged \(its checksum does not match\): falling back to the .*"
    warnings = [line for line in output.err.splitlines() if "damaged" in line]
    assert len(warnings) == 1
    assert re.fullmatch(expected, warnings[0])
    if command.startswith("resume"):
        assert output.out.startswith("resuming run at step 4 of 6")


def test_run_resumed_from_an_older_checkpoint_equals_the_unbroken_one(cli: Cli, run: Path, finished: Path) -> None:
    checkpoint_path(run, 6).write_bytes(checkpoint_path(run, 6).read_bytes()[:1000])
    cli(f"resume {run}")
    found, expected = (torch.load(checkpoint_path(path, 6), weights_only=True) for path in (run, finished))
    assert not differences(found, expected)
    assert (run / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


class Payload:
    """An object that makes the folder ``place`` when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
@for_commands_on_runs
def test_checkpoint_with_code_is_not_loaded(refused: Cli, run: Path, tmp_path: Path, command: str, form: str) -> None:
    path, content = checkpoint_path(run, 7), {"step": 7, "players": Payload(tmp_path / "trace")}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = r"run/checkpoints/step-00000007\.pt holds pickled code .* was not loaded; delete it to resume without"
    refused(command.format(run), message)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    refused(command.format(run), message)
    assert not (tmp_path / "trace").exists()


@for_commands_on_runs
def test_checkpoint_of_another_network_is_refused(refused: Cli, run: Path, command: str) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"]["arch_options"]["width"] = 17
    content["config"]["steps"] = 9
    (run / "config.json").write_text(json.dumps(content))
    refused(command.format(run), r"the checkpoint does not fit the run's config\.json")


def test_resuming_on_other_data(refused: Cli, cli: Cli, tiny: str) -> None:
    def save(count: int, size: int) -> None:
        np.savez("few.npz", images=np.arange(count * size * size, dtype=np.uint8).reshape(count, 1, size, size))

    save(60, 8)
    cli(f"train {tiny} --dataset npz:few.npz --steps 2 --run-dir run")
    save(60, 6)
    refused(
        "resume run --steps 4",
        r"npz:.*few\.npz: these 54 training images \(1, 6, 6\) differ from those the run was started with",
    )
    assert json.loads(Path("run/config.json").read_text())["config"]["steps"] == 2
    Path("few.npz").unlink()
    refused("resume run --steps 4", r"cannot find the file /.*/few\.npz")
    save(60, 8)
    Path("few.npz").rename("moved.npz")
    assert "trained 4 steps" in cli("resume run --steps 4 --dataset npz:moved.npz").out


@pytest.mark.parametrize("command", ["sample", "interpolate"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/x.png", "--out nowhere/x.png: cannot find the folder /.*/nowhere"),
        ("nowhere/folder", "--out nowhere/folder: cannot find the folder"),
        ("x.jpg", r"--out must be a name ending in \.png or \.npz, or a folder, got x\.jpg"),
        ("file", r"--out file is a file; give a new folder, or a name ending in \.png or \.npz"),
        ("full", "full exists already: give another --out, or --force to replace it"),
        ("file.png", "file.png exists already: give another --out, or --force to replace it"),
        ("link.npz", "link.npz exists already: give another --out, or --force to replace it"),
        ("full.png", "--out full.png is a folder; give a file name"),
    ],
)
def test_bad_out(refused: Cli, finished: Path, command: str, out: str, message: str) -> None:
    for file in ("file", "file.png"):
        Path(file).write_text("mine")
    Path("link.npz").symlink_to("file")
    for folder in ("full", "full.png"):
        Path(folder).mkdir()
        (Path(folder) / "mine").write_text("mine")
    refused(f"{command} {finished} --out {out}", message)


def test_diverging_training(cli: Cli, tiny: str) -> None:
    """Twenty layers whose weights become 10 in one step at a learning rate of 10, so that the squares overflow."""
    options = "--objective lsgan --set discriminator_norm=none --set hidden_layers=20 --learning-rate 10"
    output = cli(f"train {tiny} {options} --checkpoint-every 1 --steps 9 --run-dir run", 1)
    last = output.err.splitlines()[-1]
    assert re.fullmatch(
        r"Error: step 1: the (generator|discriminator)'s loss is (nan|inf); all weights are finite, the largest is "
        r"1\d\S* in the discriminator's \S+\. Try a lower --learning-rate\. Nothing was saved before that; run holds "
        r"its metrics",
        last,
    )
    assert sum(line.startswith("Error") for line in output.err.splitlines()) == 1
    assert not Path("run/checkpoints").exists()


def test_loss_that_is_nan(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def loss(*args: Any) -> Tensor:
        calls.append(None)
        return args[-1].sum() * (float("nan") if len(calls) == 3 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(NonSaturating, "generator_loss", loss)
        output = cli(f"train {tiny} --objective gan --steps 9 --run-dir run", 1)
    assert output.err.splitlines()[-1].startswith("Error: step 3: the generator's loss is nan; all weights are finite")
    assert output.err.endswith("Kept: the checkpoint of step 2 and those before it, in run\n")
    assert checkpoint_path(Path("run"), 2).exists()
    assert not checkpoint_path(Path("run"), 3).exists()
    assert "trained 9 steps" in cli("resume run").out


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nAnd much more."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["GPU", "Python", "CPU"],
)
def test_out_of_memory(refused: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raise_error(*args: Any) -> Tensor:
        raise error

    monkeypatch.setattr("snngan.training.sampling.sample_images", raise_error)
    refused(f"sample {run} --out x.png", "out of memory: use a smaller --count$")
    refused(f"interpolate {run} --out x.png", "out of memory: use a smaller --side$")


def test_bug_shows_its_traceback(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("snngan.training.sampling.sample_images", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["sample", str(run), "--out", "x.png"])


@pytest.mark.parametrize("out", ["old.png", "old.npz"])
@pytest.mark.parametrize("command", ["sample {} --count 4", "interpolate {} --side 2"])
def test_force_replaces_a_file(cli: Cli, finished: Path, command: str, out: str) -> None:
    Path(out).write_text("mine")
    cli(f"{command.format(finished)} --out {out} --force")
    assert Path(out).stat().st_size > 100


def test_force_replaces_only_folders_of_numbered_images(cli: Cli, refused: Cli, finished: Path) -> None:
    cli(f"sample {finished} --count 6 --out folder/")
    cli(f"sample {finished} --count 4 --out folder/ --force")
    assert sorted(os.listdir("folder")) == ["000000.png", "000001.png", "000002.png", "000003.png"]
    Path("folder/mine.png").write_text("mine")
    refused(f"sample {finished} --out folder/ --force", "folder holds other files, such as mine.png")
    refused(f"sample {finished} --out . --force", "--out . holds other files")


def test_experiment_replaces_only_its_own_results(cli: Cli, refused: Cli) -> None:
    small = "experiment run toy-gaussian --set seeds=2 --set steps=2 --set frames=2 --set num_points=40 --out results"
    cli(small)
    cli(small)  # again: the same results
    refused(f"{small} --set steps=3", "results exists already: give another --out, or --force to replace it")
    cli(f"{small} --set steps=3 --force")
    Path("mine").mkdir()
    Path("mine/result.md").write_text("mine")
    refused("experiment run toy-gaussian --out mine", "mine exists already: give another --out, or --force")
    Path("file").write_text("mine")
    refused("experiment run toy-gaussian --out file", "file exists already")


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("--verison", "--version$"),
        ("train --stpes 3", "--steps$"),
        ("train --epochs 3", r"--steps \(an epoch is NUM_IMAGES / BATCH_SIZE steps\)$"),
        ("train --batch_size 8", "--batch-size$"),
        ("train --out runs/x", "--run-dir$"),
        ("train --track-every 1", "--log-every$"),
        ("train --evaluate-every 1", "--metrics-every$"),
        ("classify train --over-layers mean", "--layer-reduction$"),
        ("classify train --adversary pgd:0.3", "--adversarial-training$"),
        ("sample r -n 3", "--count$"),
        ("sample r --run-dir x", "--out$"),
        ("evaluate r --out x.json", "--json$"),
        ("evaluate r --against digits", "--reference$"),
        ("evaluate r --train-features mnist", "--features classifier:NAME$"),
    ],
)
def test_mistyped_option_is_answered_with_the_right_one(refused: Cli, command: str, hint: str) -> None:
    option = re.search(r"--?\w\S*", command)
    assert option
    refused(command, f"no option {option[0]}: use {hint}")


def test_unknown_option_is_answered_with_the_way_to_the_list(refused: Cli) -> None:
    refused("train --banana", "no option --banana: --help lists the options$")


@pytest.mark.parametrize(
    ("name", "other"), [(name, each) for name, line in OTHER_NAMES.items() for each in line.split()]
)
def test_other_name_is_answered_where_a_command_has_the_option(name: str, other: str) -> None:
    def explain(*options: str) -> str:
        command = click.Command("command", params=[click.Option([each]) for each in options])
        return explain_unknown_option(click.NoSuchOption(other, ctx=click.Context(command)))

    assert explain(name.split()[0], "--unrelated").startswith(f"no option {other}: use {name}")
    assert explain("--unrelated").startswith(f"no option {other}: --help lists the options")


@pytest.mark.parametrize(
    "command",
    [
        "train --dataset {}",
        "train --dataset folder:{}",
        "classify train --dataset npz:{}",
        "resume {}",
        "sample run --out {}",
        "evaluate digits --reference {}",
        "evaluate digits --reference digits --features inception:{}",
        "evaluate digits --reference digits --features classifier:folder:{}",
        "compare digits {}",
        "data prepare {}",
    ],
)
def test_url_instead_of_a_path(refused: Cli, run: Path, command: str) -> None:
    message = "paths must be on this machine, got the URL .*: download it first"
    refused(command.format("https://example.org/x.npz"), message)


def test_folder_of_runs_instead_of_a_run(refused: Cli, run: Path) -> None:
    shutil.move("run", "runs/one")
    for command in ("resume runs", "sample runs --out x.png", "report runs"):
        refused(
            command, "runs is not a run folder: it has no config.json; give one of the runs in it, such as runs/one$"
        )
