"""What a user may get wrong: one line that says what came and what to do, status 2, and every file as it was."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from snngan.cli import main
from snngan.objectives import NonSaturating

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'"),
        ("--verison", "no option --verison: use --version$"),
        ("data lst", "unknown command 'lst'; did you mean 'list'"),
        ("resume", "Missing argument 'RUN'"),
        ("sample run", "Missing option '--out'"),
        ("doctor now", r"Got unexpected extra argument \(now\)"),
        ("data prepare mnits", "unknown dataset 'mnits'; did you mean 'mnist'"),
        ("board nowhere", "no folder nowhere: give a run's folder or the folder that holds runs"),
        ("board . --port 70000", "70000 is not in the range 0<=x<=65535"),
        ("sample run --out x.png --count 0", "0 is not in the range 1<=x<=10000000"),
        ("sample run --out x.png --count many", "'many' is not a valid integer"),
        ("interpolate run --out x.png --side 1", "1 is not in the range 2<=x<=200"),
        ("resume run --steps 0", "0 is not in the range x>=1"),
    ],
)
def test_words(refused: Cli, command: str, message: str) -> None:
    refused(command, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--stpes 3", "no option --stpes: use --steps$"),
        ("--steps", "Option '--steps' requires an argument"),
        ("--steps many", "'--steps': 'many' is not a valid integer"),
        ("--steps 0", r"steps must lie in \[1, inf\), not 0"),
        ("--learning-rate fast", "'--learning-rate': 'fast' is not a valid float"),
        ("--learning-rate nan", r"learning_rate must lie in \[0, 10\], not nan"),
        ("--learning-rate 11", r"learning_rate must lie in \[0, 10\], not 11"),
        ("--betas 0.5", r"'0\.5' is not two numbers with a comma between, such as 0\.5,0\.999"),
        ("--betas 0.5,1", r"betas must lie in \[0, 0\.9999\], not 1"),
        ("--seed -1", r"seed must lie in \[0, inf\), not -1"),
        ("--precision fp8", "'fp8' is not one of 'fp32', 'tf32', 'bf16'"),
        ("--dataset mnits", "unknown dataset 'mnits'; did you mean 'mnist'"),
        ("--objective snl-pixel", "unknown objective 'snl-pixel'; did you mean 'snnl-pixel'"),
        ("--arch mpl", "unknown architecture 'mpl'; did you mean 'mlp'"),
        ("--set widht=3", "unknown option of --set 'widht'; did you mean 'width'"),
        ("--set width", "--set takes NAME=VALUE, not 'width'"),
        ("--set width=wide", "width takes a whole number, not 'wide'"),
        ("--set width=0", r"width must lie in \[1, 16384\], not 0"),
        ("--set form=free", "unknown value for form 'free'"),
        ("--set temperature=hot", "temperature must be .*, got 'hot'"),
        ("--batch-size 1", r"batch_size must lie in \[2, inf\), not 1"),
        ("--batch-size 201", "batch of 201 is larger than the 200 training images; use --batch-size 200 or less"),
        ("--image-size 9", "images are 8x8, smaller than --image-size 9; use 8 or less"),
        ("--image-size 1", r"image_size must lie in \[2, 4096\], not 1"),
        ("--device tpu", "--device takes auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("--dataset folder:nowhere", "nowhere is not there; expected a folder of images"),
        ("--dataset npz:nowhere.npz", r"there is no file nowhere\.npz"),
        ("--dataset mnist", "mnist is not here: .*; use --download"),
        ("--arch dcgan --dataset gaussians", "dcgan"),
        ("now", r"Got unexpected extra argument \(now\)"),
    ],
)
def test_options_of_train(refused: Cli, tiny: str, options: str, message: str) -> None:
    refused(f"train {tiny} {options}", message)


@pytest.mark.parametrize("options", ["--objective snl-pixel", "--arch mpl", "--set widht=3", "--set steps=0"])
def test_names_are_checked_before_data_are_built_and_kept(refused: Cli, options: str) -> None:
    refused(f"train --dataset mnist-5k {options}", "")


@pytest.mark.parametrize(
    "command", ["train {tiny}", "sample {run} --out x.png", "interpolate {run} --out x.png", "resume {run}"]
)
def test_no_cuda(refused: Cli, tiny: str, finished: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = command.format(tiny=tiny, run=finished)
    refused(f"{command} --device cuda", "--device cuda: no CUDA device is available .*; use --device cpu")


def test_an_existing_run_folder(refused: Cli, run: Path, tiny: str, tmp_path: Path) -> None:
    refused(f"train {tiny} --run-dir run", "run exists already: .* snngan resume run")
    (tmp_path / "file").write_text("mine")
    refused(f"train {tiny} --run-dir file", "file exists already, and is no run's folder: choose another --run-dir")
    refused(f"train {tiny} --run-dir file/run", "the run folder file/run cannot be made: .*/file is a file")
    refused(f"train {tiny} --run-dir {'x' * 300}", "File name too long")


def picture(path: Path, color: int = 100, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", size, color).save(path)


def test_folders_of_pictures(refused: Cli, cli: Cli, tiny: str) -> None:
    Path("pictures").mkdir()
    options = f"{tiny} --dataset folder:pictures --image-size 8 --batch-size 4 --steps 1"
    refused(f"train {options}", "pictures holds no images")
    for number in range(20):
        picture(Path(f"pictures/{number}.png"), number)
    Path("pictures/broken.png").write_bytes(Path("pictures/3.png").read_bytes()[:40])
    refused(f"train {options}", r"pictures/broken\.png cannot be read: .*; repair or remove it, or use --skip-broken")
    said = cli(f"train {options} --skip-broken --run-dir run")
    assert "left out 1 of 21 images that cannot be used, the first: pictures/broken.png" in said.err
    cli("resume run --steps 2")  # remembers --skip-broken and --image-size
    Path("pictures/broken.png").unlink()
    picture(Path("pictures/small.png"), size=(16, 7))
    refused(
        f"train {options}", r"pictures/small\.png is 16x7, too small for images of 8x8; remove it, or use --skip-brok"
    )
    said = cli(f"train {options} --skip-broken --run-dir second")
    assert "left out 1 of 21 images that cannot be used, the first: pictures/small.png (16x7, too small" in said.err
    options = options.replace("--image-size 8", "--skip-broken --run-dir third")
    assert "image size 16, because 0.png has a side of 16 pixels" in cli(f"train {options}").err
    cli("resume third --steps 2")  # at the same size


def test_too_few_pictures(refused: Cli, tiny: str) -> None:
    for number in range(12):
        picture(Path(f"pictures/{number}.png"), number)
    options = f"{tiny} --dataset folder:pictures --image-size 8 --batch-size 4"
    refused(f"train {options}", "only 1 image is held out, entanglement needs 2; give 20 training images or more")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((40, 1, 8, 8), 256), r"few\.npz: images are int64 from 256 to 256; expected 0 to 255"),
        (
            np.full((40, 1, 8, 8), np.nan),
            r"few\.npz: images are floats from nan to nan; expected \[-1, 1\] without NaN",
        ),
        (np.full((40, 1, 8, 8), 255.0), r"few\.npz: images are floats from 255 to 255; expected \[-1, 1\]"),
        (np.zeros((40, 8, 8, 4), np.uint8), r"few\.npz: images have shape \(40, 8, 8, 4\); expected .*\[\.\.\., :3\]"),
        (np.zeros((40, 64), np.uint8), r"few\.npz: images have 2 dimensions"),
        (np.zeros((0, 1, 8, 8), np.uint8), r"few\.npz: the training half \(images\) is empty"),
        (np.array([{}, {}]), r"few\.npz: images cannot be read \(it holds Python objects, which are"),
    ],
)
def test_npz_files(refused: Cli, tiny: str, images: Any, message: str) -> None:
    np.savez("few.npz", images=images)
    refused(f"train {tiny} --dataset npz:few.npz --batch-size 4", message)


def test_files_that_are_no_npz(refused: Cli, tiny: str) -> None:
    Path("few.npz").write_text("nothing of the kind")
    refused(f"train {tiny} --dataset npz:few.npz", r"few\.npz: .*it is no npz file, or a damaged one")


COMMANDS = ["resume {}", "sample {} --out x.png", "interpolate {} --out x.npz"]
ON_COMMANDS = pytest.mark.parametrize("command", COMMANDS)


@ON_COMMANDS
def test_folders_that_are_no_runs(refused: Cli, run: Path, command: str) -> None:
    refused(command.format("nowhere"), r"no run folder nowhere: give the folder that snngan train named")
    refused(command.format("run/config.json"), r"no run folder run/config\.json")
    (run / "config.json").rename("away.json")
    refused(command.format(run), r"run is no run folder: it has no config\.json")
    (run / "config.json").write_text("{}")
    refused(command.format(run), r"run/config\.json is not a run's configuration")
    content = json.loads(Path("away.json").read_text())
    content["plan"]["arch_options"]["color"] = 1
    (run / "config.json").write_text(json.dumps(content))
    refused(command.format(run), "the run's plan is not one that this version reads: .*color")


@ON_COMMANDS
def test_a_run_without_checkpoints(refused: Cli, run: Path, command: str) -> None:
    (run / "checkpoints").rename("away")
    refused(command.format(run), r"no checkpoint in run/checkpoints: the run stopped before it saved one; train again")
    (run / "checkpoints").mkdir()
    refused(command.format(run), "no checkpoint in run/checkpoints")


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}.pt"


@ON_COMMANDS
def test_all_checkpoints_damaged(refused: Cli, run: Path, command: str) -> None:
    for step in (2, 4, 6):
        content = checkpoint(run, step).read_bytes()
        checkpoint(run, step).write_bytes(content[:-1])
    refused(command.format(run), "no checkpoint in run/checkpoints is sound: all 3 are damaged", notes=3)


@ON_COMMANDS
def test_a_truncated_newest_checkpoint_is_passed_over_with_a_warning(cli: Cli, run: Path, command: str) -> None:
    checkpoint(run, 6).write_bytes(checkpoint(run, 6).read_bytes()[:1000])
    said = cli(command.format(run))
    expected = r"run/checkpoints/step-00000006\.pt is damaged \(its checksum does not match\): falling back to the .*"
    warnings = [line for line in said.err.splitlines() if "damaged" in line]
    assert len(warnings) == 1
    assert re.fullmatch(expected, warnings[0])
    if command.startswith("resume"):
        assert said.out.startswith("resuming run at step 4 of 6")


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [each for key in sorted(value, key=str) for each in tensors(value[key])]
    return [value] if isinstance(value, Tensor) else []


def test_after_falling_back_the_run_ends_as_the_unbroken_one(cli: Cli, run: Path, finished: Path) -> None:
    metrics = (run / "metrics.jsonl").read_text()
    checkpoint(run, 6).write_bytes(checkpoint(run, 6).read_bytes()[:1000])
    cli(f"resume {run}")
    found, expected = (torch.load(checkpoint(path, 6), weights_only=True) for path in (run, finished))
    assert len(tensors(expected)) > 50
    assert all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(expected), strict=True))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in metrics.splitlines()]


class Payload:
    """Something that, once unpickled, has made the folder ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
@ON_COMMANDS
def test_a_checkpoint_with_code_is_refused(refused: Cli, run: Path, tmp_path: Path, command: str, form: str) -> None:
    path, content = checkpoint(run, 7), {"step": 7, "players": Payload(tmp_path / "trace")}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = r"run/checkpoints/step-00000007\.pt holds pickled code .* was not loaded; delete it to go on without"
    refused(command.format(run), message)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    refused(command.format(run), message)
    assert not (tmp_path / "trace").exists()


@ON_COMMANDS
def test_another_run_s_checkpoint_is_refused(refused: Cli, run: Path, command: str) -> None:
    content = json.loads((run / "config.json").read_text())
    content["plan"]["arch_options"]["width"] = 17
    content["plan"]["optimization"]["steps"] = 9
    (run / "config.json").write_text(json.dumps(content))
    notes = 0
    refused(command.format(run), r"the checkpoint does not fit the run's config\.json", notes=notes)


def test_other_data_than_the_run_began_with(refused: Cli, cli: Cli, tiny: str) -> None:
    def save(count: int, size: int) -> None:
        np.savez("few.npz", images=np.arange(count * size * size, dtype=np.uint8).reshape(count, 1, size, size))

    save(60, 8)
    cli(f"train {tiny} --dataset npz:few.npz --steps 2 --run-dir run")
    save(60, 6)
    refused("resume run --steps 4", r"npz:.*few\.npz: these 54 training images \(1, 6, 6\) are not the ones")
    assert json.loads(Path("run/config.json").read_text())["plan"]["optimization"]["steps"] == 2
    Path("few.npz").unlink()
    refused("resume run --steps 4", r"there is no file /.*/few\.npz")
    save(60, 8)
    Path("few.npz").rename("moved.npz")
    assert "trained 4 steps" in cli("resume run --steps 4 --dataset npz:moved.npz").out


@pytest.mark.parametrize("command", ["sample", "interpolate"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/x.png", "--out nowhere/x.png: there is no folder /.*/nowhere"),
        ("nowhere/folder", "--out nowhere/folder: there is no folder"),
        ("x.jpg", r"--out takes a name ending in \.png or \.npz, or a folder, not x\.jpg"),
        ("file", r"--out file is a file; give a new folder, or a name ending in \.png or \.npz"),
        ("full", "full exists already: give another --out, or --force to replace it"),
        ("file.png", "file.png exists already: give another --out, or --force to replace it"),
        ("link.npz", "link.npz exists already: give another --out, or --force to replace it"),
        ("full.png", "--out full.png is a folder; give a file name"),
    ],
)
def test_targets(refused: Cli, finished: Path, command: str, out: str, message: str) -> None:
    for file in ("file", "file.png"):
        Path(file).write_text("mine")
    Path("link.npz").symlink_to("file")
    for folder in ("full", "full.png"):
        Path(folder).mkdir()
        (Path(folder) / "mine").write_text("mine")
    refused(f"{command} {finished} --out {out}", message)


def test_a_diverging_run(cli: Cli, tiny: str) -> None:
    """Twenty layers whose weights the first step at a rate of 10 makes 10, so that the squares overflow."""
    options = "--objective lsgan --set discriminator_norm=none --set hidden_layers=20 --learning-rate 10"
    said = cli(f"train {tiny} {options} --checkpoint-every 1 --steps 9 --run-dir run", 1)
    last = said.err.splitlines()[-1]
    assert re.fullmatch(
        r"Error: step 1: the (generator|discriminator)'s loss is (nan|inf); all weights are finite, the largest 1\d\S* "
        r"in the discriminator's \S+\. Try a lower --learning-rate\. Nothing was saved before that; run holds its "
        r"readings",
        last,
    )
    assert sum(line.startswith("Error") for line in said.err.splitlines()) == 1
    assert not Path("run/checkpoints").exists()


def test_a_loss_that_is_not_a_number(refused: Cli, cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def loss(*args: Any) -> Tensor:
        calls.append(None)
        return args[-1].sum() * (float("nan") if len(calls) == 3 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(NonSaturating, "generator_loss", loss)
        said = cli(f"train {tiny} --objective gan --steps 9 --run-dir run", 1)
    assert said.err.splitlines()[-1].startswith("Error: step 3: the generator's loss is nan; all weights are finite")
    assert said.err.endswith("Kept: the checkpoint of step 2 and those before it, in run\n")
    assert checkpoint(Path("run"), 2).exists()
    assert not checkpoint(Path("run"), 3).exists()
    assert "trained 9 steps" in cli("resume run").out


def test_a_device_that_is_full(refused: Cli, cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nAnd much more.")

    monkeypatch.setattr("snngan.training.sampling.sample_images", full)
    refused(f"sample {run} --out x.png", "out of memory: use a smaller --count$")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_computer_that_is_full(refused: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*args: Any) -> Tensor:
        raise error

    monkeypatch.setattr("snngan.training.sampling.sample_images", full)
    refused(f"sample {run} --out x.png", "out of memory: use a smaller --count$")
    refused(f"interpolate {run} --out x.png", "out of memory: use a smaller --side$")


def test_our_own_mistakes_keep_their_traceback(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("snngan.training.sampling.sample_images", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["sample", str(run), "--out", "x.png"])


def test_names_with_blanks(cli: Cli, tiny: str) -> None:
    said = cli([*f"train {tiny} --steps 1 --run-dir".split(), "my run"])
    line = next(line for line in said.out.splitlines() if " evaluate " in line)
    assert shlex.split(line) == ["snngan", "evaluate", "my run"]


@pytest.mark.parametrize("out", ["old.png", "old.npz"])
@pytest.mark.parametrize("command", ["sample {} --count 4", "interpolate {} --side 2"])
def test_force_replaces_a_file(cli: Cli, finished: Path, command: str, out: str) -> None:
    Path(out).write_text("mine")
    cli(f"{command.format(finished)} --out {out} --force")
    assert Path(out).stat().st_size > 100


def test_force_replaces_a_folder_of_numbered_images_and_no_other(cli: Cli, refused: Cli, finished: Path) -> None:
    cli(f"sample {finished} --count 6 --out folder/")
    cli(f"sample {finished} --count 4 --out folder/ --force")
    assert sorted(os.listdir("folder")) == ["000000.png", "000001.png", "000002.png", "000003.png"]
    Path("folder/mine.png").write_text("mine")
    refused(f"sample {finished} --out folder/ --force", "folder holds files that no command wrote, such as mine.png")
    refused(f"sample {finished} --out . --force", "--out . holds files that no command wrote")


def test_an_experiment_replaces_only_its_own_results(cli: Cli, refused: Cli) -> None:
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
        ("train --lr 1e-3", "no option --lr: use --learning-rate"),
        ("train --epochs 3", r"no option --epochs: use --steps \(an epoch is NUM_IMAGES / BATCH_SIZE steps\)"),
        ("train --gpu", "no option --gpu: use --device cuda"),
        ("train --batch 8", "no option --batch: use --batch-size"),
        ("train --batch_size 8", "no option --batch_size: use --batch-size"),
        ("train --out runs/x", "no option --out: use --run-dir"),
        ("train -o runs/x", "no option -o: use --run-dir"),
        ("train --learning-rat 1", "no option --learning-rat: use --learning-rate"),
        ("train --sample_every 1", "no option --sample_every: use --sample-every"),
        ("train --banana", "no option --banana: --help lists the options"),
        ("classify train --lr 1e-3", "no option --lr: use --learning-rate"),
        ("classify train --model cnn", "no option --model: use --arch"),
        ("sample r -n 3", "no option -n: use --count"),
        ("sample r --output x.png", "no option --output: use --out"),
        ("sample r --overwrite", "no option --overwrite: use --force"),
        ("resume r --epochs 3", "no option --epochs: use --steps"),
        ("evaluate r --train-features mnist", "no option --train-features: use --features classifier:NAME"),
        ("evaluate r --inception-weights x", "no option --inception-weights: use --features inception:FILE"),
        ("evaluate r --against digits", "no option --against: use --reference"),
        ("data prepare digits --root x", "no option --root: use --data-dir"),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(refused: Cli, command: str, hint: str) -> None:
    refused(command, hint)


@pytest.mark.parametrize(
    "command",
    [
        "train --dataset {}",
        "train --dataset folder:{}",
        "train --dataset npz:{}",
        "train --dataset digits --data-dir {}",
        "train --dataset digits --run-dir {}",
        "classify train --dataset folder:{}",
        "classify evaluate {}",
        "resume {}",
        "sample {} --out x.png",
        "sample run --out {}",
        "interpolate run --out {}",
        "evaluate {}",
        "evaluate digits --reference {}",
        "evaluate digits --reference digits --features inception:{}",
        "evaluate digits --reference digits --features classifier:folder:{}",
        "entangle digits {}",
        "entangle digits digits --out {}",
        "experiment run toy-gaussian --out {}",
        "data list --data-dir {}",
        "data prepare {}",
        "report {}",
        "report run --out {}",
        "board {}",
        "doctor --data-dir {}",
    ],
)
@pytest.mark.parametrize("url", ["s3://bucket/x.npz", "https://example.org/x.png"])
def test_a_url_is_not_a_path(refused: Cli, run: Path, command: str, url: str) -> None:
    refused(command.format(url), "paths must be on this machine, got the URL .*: download it first")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train mnist", r"Got unexpected extra argument \(mnist\): to name a data set, use --dataset NAME$"),
        ("evaluate r --metrics fid kid", r"extra argument \(kid\): use .* evaluate \[OPTIONS\] \[RUN\]$"),
        ("resume", r"Missing argument 'RUN': use .* resume \[OPTIONS\] RUN$"),
        ("report", "Missing argument 'RUNS...': use"),
        ("sample r", "Missing option '--out': use"),
        ("help", "use --help, after a command or alone$"),
        ("version", "use --version, after a command or alone$"),
        ("train --dataset MNIST", "unknown dataset 'MNIST'; did you mean 'mnist'?"),
        ("train --objective Wgan-GP", "unknown objective 'Wgan-GP'; did you mean 'wgan-gp'?"),
        ("evaluate digits --metrics FID", "unknown metric 'FID'; did you mean 'fid'?"),
        ("evaluate digits --out x.json", "no option --out: use --json$"),
        ("experiment list zebra", "no experiment has 'zebra' in its name or text"),
        ("data prepare folder:pictures", "a named data set is prepared, got folder:pictures"),
        ("report r --out r.pdf", r"--out must be a name that ends in \.html, got r\.pdf"),
        ("report r --out nowhere/r.html", "--out nowhere/r.html: there is no folder /.*nowhere"),
        (
            "entangle digits gaussians",
            "gaussians test holds 2-D points and digits test images, which",
        ),
        ("entangle gaussians digits --features pixels", "gaussians test holds 2-D points and digits test images"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(refused: Cli, command: str, message: str) -> None:
    refused(command, message)


def test_the_folder_of_the_runs_is_not_a_run(refused: Cli, run: Path) -> None:
    shutil.move("run", "runs/one")
    for command in ("resume runs", "sample runs --out x.png", "report runs"):
        refused(command, "runs is no run folder: it has no config.json; give one of the runs in it, such as runs/one$")


def test_what_is_measured_names_the_step(cli: Cli, run: Path) -> None:
    said = cli("evaluate run --features pixels --metrics kid --count 20")
    assert "20 images of run run (step 6) against 20 of" in said.out
    assert "4 images of step 6 -> s.png" in cli("sample run --count 4 --out s.png").out
    assert json.loads((run / "evaluations.jsonl").read_text())["protocol"]["step"] == 6
    assert cli("report run run --out r.html").out.startswith("1 run -> r.html")
