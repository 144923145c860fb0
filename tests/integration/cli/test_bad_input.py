"""Mistakes of a user: one line that names the mistake and the remedy, exit status 2, and every file as it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from snngan.checkpoint import checkpoint_paths
from snngan.cli import main

Cli = Callable[..., Any]

COMMAND_LINES = [
    # commands and arguments
    ("trian", "unknown command 'trian'; did you mean 'train'"),
    ("help", "unknown command 'help': use --help"),
    ("data lst", "unknown command 'lst'; did you mean 'list'"),
    ("resume", r"Missing argument 'RUN': use .* resume \[OPTIONS\] RUN$"),
    ("sample {run}", "Missing option '--out': use"),
    ("entangle {run}", "Missing argument 'B'"),
    ("train mnist", r"unexpected extra argument \(mnist\): to name a data set, use --dataset NAME$"),
    ("evaluate r --metrics fid kid", r"extra argument \(kid\): use .* evaluate \[OPTIONS\] \[RUN\]$"),
    # options by another name
    ("--verison", "no option --verison: use --version$"),
    ("train --stpes 3", "no option --stpes: use --steps$"),
    ("train --epochs 3", r"use --steps \(an epoch is NUM_IMAGES / BATCH_SIZE steps\)$"),
    ("train --batch_size 8", "use --batch-size$"),
    ("train --out runs/x", "use --run-dir$"),
    ("train --banana", "no option --banana: --help lists the options$"),
    ("classify train --over-layers mean", "use --layer-reduction$"),
    ("sample r -n 3", "no option -n: use --count$"),
    ("evaluate r --train-features mnist", "use --features classifier:NAME$"),
    ("evaluate r --points 30", "use --pairwise-count$"),
    ("classify evaluate r --points 90", "use --dknn-count$"),
    # unknown names
    ("train {tiny} --dataset MNIST", "unknown dataset 'MNIST'; did you mean 'mnist'.*folder:PATH"),
    ("train {tiny} --objective snl-pixel", r"did you mean 'snnl-pixel'\? .*wgan-gp\)$"),
    ("train {tiny} --objective zzz", "unknown objective 'zzz' .*; if it is in a module of yours, .* --import MODULE$"),
    ("train {tiny} --arch mpl", "unknown architecture 'mpl'; did you mean 'mlp'"),
    ("classify train --arch cnm", "unknown classifier 'cnm'; did you mean 'cnn'"),
    ("evaluate digits --metrics FID", "unknown metric 'FID'; did you mean 'fid'"),
    ("train {tiny} --import nothing", "--import nothing: it cannot be imported"),
    ("train --dataset mnist-5k --objective snl", "unknown objective"),  # before data are prepared
    ("train {tiny} --set widht=3", "unknown option of --set 'widht'; did you mean 'width'"),
    ("data prepare mnits --dry-run", "unknown dataset 'mnits'; did you mean 'mnist'"),
    ("compare {run} digist", "unknown dataset 'digist'; did you mean 'digits'"),
    ("experiment list zebra", "no experiment has 'zebra' in its name or text"),
    ("classify evaluate {classifier} --attack bmi --epsilon 0.1", "unknown attack 'bmi'; did you mean 'bim'"),
    # values
    ("train {tiny} --steps", "Option '--steps' requires an argument"),
    ("train {tiny} --steps many", "'many' is not a valid integer"),
    ("train {tiny} --steps 0", r"steps must be in \[1, inf\), got 0"),
    ("train {tiny} --learning-rate nan", r"learning_rate must be in \[0, 10\], got nan"),
    ("train {tiny} --betas 0.5,x", "betas must be two comma-separated numbers, got '0.5,x'"),
    ("train {tiny} --precision fp8", "'fp8' is not one of 'fp32', 'tf32', 'bf16'"),
    ("train {tiny} --set width", "--set must be NAME=VALUE, got 'width'; --list-settings lists the names"),
    ("train {tiny} --set width=wide", "width must be a whole number, got 'wide'"),
    ("train {tiny} --set form=free", "unknown value for form 'free'"),
    ("train {tiny} --set temperature=hot", "temperature must be .*, got 'hot'"),
    ("classify train --dataset digits --seeds 3:1", "--seeds must be 0:4"),
    ("train {tiny} --device tpu", "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    ("sample {run} --out x.png --count 0", "0 is not in the range"),
    ("interpolate {run} --out x.png --side 1", "1 is not in the range"),
    ("board . --port 70000", "70000 is not in the range"),
    ("classify evaluate {classifier} --attack bim --epsilon 0.1,x", "must be numbers separated by commas"),
    ("classify evaluate {classifier} --attack bim --epsilon 2", "epsilon must be above 0 and at most 1"),
    ("classify train --dataset digits --adversarial-training pgd:3", "epsilon must be above 0 and at most 1"),
    ("classify train --dataset digits --set regularizer=triplet:-1", "regularizer must be snnl or triplet:MARGIN"),
    ("classify train --dataset digits --layers nothing", "no layer"),
    # options that do not fit together
    ("train {tiny} --batch-size 201", "201 is larger than the 200 training images; use --batch-size 200 or less"),
    ("train {tiny} --image-size 9", "images are 8x8, smaller than --image-size 9; use 8 or less"),
    ("train {tiny} --arch dcgan --dataset gaussians", "dcgan"),
    ("train {tiny} --dataset mnist --download --dry-run", "--dry-run downloads nothing; first: snngan data prepare"),
    ("evaluate", "name what to evaluate"),
    ("evaluate digits --features pixels", "digits is not a run folder, .*: name the real images by --reference SET"),
    ("evaluate {run} --features pixels --download", "--download fetches Inception weights"),
    ("evaluate {run} --nearest sheet.jpg", r"--nearest must be a name ending in \.png, got sheet\.jpg$"),
    ("evaluate {run} --nearest nowhere/sheet.png", r"--nearest nowhere/sheet\.png: cannot find the folder"),
    (
        "evaluate {run} --features pixels --split train --nearest a.png",
        "own data set .*; got .* train as the reference$",
    ),
    ("evaluate {run} --features pixels --reference {run} --metrics copying", "; got run run as the reference$"),
    ("evaluate {run} --features pixels --reference digits --metrics copying", "; got digits test as the reference$"),
    ("evaluate gaussians --reference gaussians --nearest a.png", "--nearest needs images .*, got 2-D points$"),
    ("compare {run} digits --features pixels --space pixel", "need --space features, got --space pixel"),
    ("compare digits digits --space projection", "--space projection needs a run among A and B"),
    ("compare digits gaussians", "2-D points"),
    ("classify evaluate {classifier} --attack bim", "give both, as --attack bim --epsilon 0.1,0.2"),
    ("classify evaluate {classifier} --attack-steps 3", "--attack-steps.* is an option of an attack"),
    ("classify evaluate {classifier} --source {classifier}", "--source.* is the run that an attack is made on"),
    ("classify evaluate {classifier} --dknn --split train", "split must be test with --dknn"),
    ("classify evaluate {classifier} --dknn --dknn-count 9", "DkNN needs at least 75 training images"),
    ("classify evaluate {classifier} --dknn-count 90", "--dknn-count.* is an option of DkNN"),
    ("classify evaluate {classifier} --count 90", "number of images to attack or evaluate"),
    ("classify evaluate {classifier} --attack fgsm --epsilon 0.1 --attack-steps 3", "fgsm has no option steps"),
    # files and folders
    ("train {tiny} --dataset folder:nowhere", "nowhere is not there; expected a folder of images"),
    ("train {tiny} --dataset npz:nowhere.npz", r"nowhere\.npz"),
    ("train {tiny} --dataset mnist", "mnist is not here: .*; use --download"),
    ("data prepare folder:pictures", "NAME must be the name of a data set, got folder:pictures"),
    ("board nowhere", "RUNS must be a run's folder or a folder of runs, got nowhere, which does not exist$"),
    (
        "export {run} --out g.txt",
        r"--out must be a name ending in \.safetensors, \.onnx, \.pt2, or a folder, got g\.txt",
    ),
    ("report {run} --out r.pdf", r"--out must be a name that ends in \.html, got r\.pdf"),
    ("classify evaluate nowhere", "no run folder nowhere"),
    ("classify evaluate {run}", "is the run of a generator; this command needs the run of a classifier"),
    ("sample {classifier} --out grid.png", "is the run of a classifier; this command needs the run of a generator"),
    ("classify evaluate {classifier} --reference gaussians", r"images \(1, 8, 8\) into 10 classes; gaussians has"),
    ("evaluate {run} --features inception:none.pth", "none.pth"),
    ("evaluate {run} --features inception", "cannot find Inception weights at .*: fetch them with --download"),
    ("evaluate {run} --features inceptoin", "--features must be classifier:NAME, .*inceptoin"),
    ("evaluate {run} --features classifier:digist", "unknown dataset 'digist'; did you mean 'digits'"),
    ("evaluate nowhere/run --features pixels --reference digits", "nowhere/run is not a run folder"),
]


@pytest.mark.parametrize(("command", "message"), COMMAND_LINES, ids=[line for line, _ in COMMAND_LINES])
def test_bad_command_line(
    refused: Cli,
    tiny: str,
    finished: Path,
    classifier: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", "torch")
    monkeypatch.setenv("COLUMNS", "80")
    refused(command.format(tiny=tiny, run=finished, classifier=classifier), message)


OUT = [
    ("nowhere/x.png", "--out nowhere/x.png: cannot find the folder /.*/nowhere"),
    ("x.jpg", r"--out must be a name ending in \.png or \.npz, or a folder, got x\.jpg"),
    ("file", r"--out file is a file; give a new folder, or a name ending in \.png or \.npz"),
    ("full", "full exists already: give another --out, or --force to replace it"),
    ("file.png", "file.png exists already: give another --out, or --force to replace it"),
    ("full.png", "--out full.png is a folder; give a file name"),
    (". --force", "--out . holds other files"),
]


@pytest.mark.parametrize(("out", "message"), OUT)
def test_bad_out(refused: Cli, finished: Path, out: str, message: str) -> None:
    for name in ("file", "file.png", "full/mine", "full.png/mine"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    for command in ("sample", "interpolate"):
        refused(f"{command} {finished} --out {out}", message)


@pytest.mark.parametrize(
    "command",
    ["train {tiny} --run-dir full", "compare digits digits --out full", "report {run} --out page.html",
     "experiment run toy-gaussian --out full"],
)  # fmt: skip
def test_what_exists_is_not_replaced(refused: Cli, tiny: str, finished: Path, command: str) -> None:
    Path("full").mkdir()
    for name in ("full/result.md", "page.html"):
        Path(name).write_text("mine")
    refused(command.format(tiny=tiny, run=finished), "exists already")


def test_force_replaces_results_only(cli: Cli, refused: Cli, finished: Path) -> None:
    Path("old.png").write_text("mine")
    cli(f"sample {finished} --count 4 --out old.png --force")
    assert Path("old.png").stat().st_size > 100
    cli(f"sample {finished} --count 6 --out folder/")
    cli(f"sample {finished} --count 4 --out folder/ --force")
    assert sorted(os.listdir("folder")) == ["000000.png", "000001.png", "000002.png", "000003.png"]
    Path("folder/mine.png").write_text("mine")
    refused(f"sample {finished} --out folder/ --force", "folder holds other files, such as mine.png")
    small = "experiment run toy-gaussian --set seeds=2 --set steps=2 --set frames=2 --set num_points=40 --out results"
    cli(small)
    cli(small)  # again: the same results
    refused(f"{small} --set steps=3", "results exists already: give another --out, or --force to replace it")
    cli(f"{small} --set steps=3 --force")


@pytest.mark.parametrize(
    "command", ["train {tiny}", "sample {run} --out x.png", "interpolate {run} --out x.png", "resume {run}"]
)
def test_cuda_without_a_gpu(
    refused: Cli, tiny: str, finished: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = command.format(tiny=tiny, run=finished)
    refused(f"{command} --device cuda", "--device cuda: no CUDA device is available .*; use --device cpu")


def save_images(count: int = 20) -> None:
    Path("pictures").mkdir(exist_ok=True)
    for number in range(count):
        Image.new("L", (16, 16), number).save(f"pictures/{number}.png")


def test_folder_with_unusable_images(refused: Cli, cli: Cli, tiny: str) -> None:
    save_images(0)
    options = f"{tiny} --dataset folder:pictures --image-size 8 --batch-size 4 --steps 1"
    refused(f"train {options}", "pictures holds no images")
    save_images(12)
    refused(f"train {options}", "only 1 image is held out, entanglement needs 2; give 20 training images or more")
    save_images()
    Path("pictures/broken.png").write_bytes(Path("pictures/3.png").read_bytes()[:40])
    refused(f"train {options}", r"pictures/broken\.png cannot be read: .*; repair or remove it, or use --skip-broken")
    Image.new("L", (16, 7)).save("pictures/broken.png")
    refused(f"train {options}", r"pictures/broken\.png is 16x7, too small for images of 8x8; ")
    output = cli(f"train {options} --skip-broken --run-dir run")
    assert "left out 1 of 21 images that cannot be used, the first: pictures/broken.png" in output.err
    cli("resume run --steps 2")  # remembers --skip-broken and --image-size


def test_unusable_npz_file(refused: Cli, tiny: str) -> None:
    command = f"train {tiny} --dataset npz:few.npz --batch-size 4"
    np.savez("few.npz", images=np.full((40, 1, 8, 8), 256))
    refused(command, r"few\.npz: images must be integers from 0 .*to 255.*, got int64 256 to 256")
    np.savez("few.npz", images=np.array([{}, {}]))
    refused(command, r"few\.npz: images cannot be read")
    Path("few.npz").write_text("text")
    refused(command, r"few\.npz: .*(npz file|numpy)")
    images = np.zeros((40, 1, 8, 8), np.uint8)
    np.savez("few.npz", train_images=images, test_images=images)
    refused("classify train --dataset npz:few.npz", "npz:few.npz has no labels, and a classifier needs them")


def test_folder_that_is_not_a_run(refused: Cli, run: Path, tiny: str) -> None:
    command = "sample {} --out x.png"
    refused(command.format("nowhere"), r"no run folder nowhere: give the folder that snngan train named")
    (run / "config.json").rename("away.json")
    refused(command.format(run), r"run is not a run folder: it has no config\.json")
    (run / "config.json").write_text("{}")
    refused(command.format(run), r"run/config\.json is not a run's configuration")
    content = json.loads(Path("away.json").read_text())
    content["config"]["arch_options"]["width"] = 17
    (run / "config.json").write_text(json.dumps(content))
    refused(command.format(run), r"the checkpoint does not fit the run's config\.json")
    content["config"]["arch_options"]["color"] = 1
    (run / "config.json").write_text(json.dumps(content))
    refused(command.format(run), r"run/config\.json is not a run's configuration: unknown option 'color' ")
    Path("away.json").rename(run / "config.json")
    shutil.move("run", "runs/one")
    for each in ("resume runs", "sample runs --out x.png", "report runs"):
        refused(each, "runs is not a run folder: it has no config.json; give one of the runs in it, such as runs/one$")
    Path("file").write_text("mine")
    refused(f"train {tiny} --run-dir file", "file exists already and is not a run folder: choose another --run-dir")
    refused(f"train {tiny} --run-dir file/run", "file/run cannot be made: .*/file is a file")


for_commands_on_runs = pytest.mark.parametrize("command", ["resume run", "sample run --out x.png"])


@for_commands_on_runs
def test_run_without_sound_checkpoints(refused: Cli, run: Path, command: str) -> None:
    paths = checkpoint_paths(run / "checkpoints")
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    refused(command, "no checkpoint in run/checkpoints is sound: all 3 are damaged", notes=3)
    shutil.rmtree(run / "checkpoints")
    refused(command, r"no checkpoint in run/checkpoints: the run stopped before it saved one; train again")


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
    Path("few.npz").unlink()
    refused("resume run --steps 4", r"/.*/few\.npz")
    save(60, 8)
    Path("few.npz").rename("moved.npz")
    assert "trained 4 steps" in cli("resume run --steps 4 --dataset npz:moved.npz").out


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("CPU: can't allocate memory: you")],
)
def test_out_of_memory(refused: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raise_error(*args: Any) -> Tensor:
        raise error

    monkeypatch.setattr("snngan.training.sampling.sample_images", raise_error)
    refused(f"sample {run} --out x.png", "out of memory: use a smaller --batch-size, --count or --image-size")


def test_bug_shows_its_traceback(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("snngan.training.sampling.sample_images", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["sample", str(run), "--out", "x.png"])


def test_windows_is_not_supported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.platform", "win32")
        assert "on Windows, install it in WSL" in cli("doctor", 2).err
