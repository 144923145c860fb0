"""What each command prints and writes, and that a dry run writes nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import snngan
from snngan.cli import COMMANDS, main
from snngan.cli.options import OTHER_NAMES, explain_unknown_option
from snngan.experiments import EXPERIMENTS
from snngan.training.sampling import draw_latents, truncate

Cli = Callable[..., Any]


def list_commands() -> dict[str, click.Command]:
    """Return every command and subcommand by its words."""
    context, commands = click.Context(main), {}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        commands[name] = command
        if isinstance(command, click.Group):
            commands |= {f"{name} {each}": found for each, found in command.commands.items()}
    return commands


def load_images(path: Path | str) -> Any:
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["images"]
        return file["images"]


@pytest.mark.parametrize(("words", "command"), list_commands().items(), ids=list_commands())
def test_help_has_a_valid_example(cli: Cli, words: str, command: click.Command) -> None:
    text = cli(f"{words} -h").out
    assert max(map(len, text.splitlines())) <= 80
    assert f"Example:  snngan {words} " in text
    example = shlex.split(text.split("Example:")[1])[1:]
    if isinstance(command, click.Group):
        words, command = " ".join(example[:2]), command.commands[example[1]]
    # click keeps a command's help option from its first context, and -h is that of the main command.
    command.make_context(None, example[len(words.split()) :], help_option_names=["-h", "--help"])


def test_overview_lists_every_command(cli: Cli) -> None:
    text = cli("--help").out
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    assert re.fullmatch(r"snngan, version \d+\.\d+\S*\n", cli("--version").out)


@pytest.mark.parametrize(
    ("name", "other"), [(name, each) for name, line in OTHER_NAMES.items() for each in line.split()]
)
def test_other_name_is_answered_where_a_command_has_the_option(name: str, other: str) -> None:
    def explain(*options: str) -> str:
        command = click.Command("command", params=[click.Option([each]) for each in options])
        return explain_unknown_option(click.NoSuchOption(other, ctx=click.Context(command)))

    assert explain(name.split()[0], "--unrelated").startswith(f"no option {other}: use {name}")
    assert explain("--unrelated").startswith(f"no option {other}: --help lists the options")


@pytest.mark.parametrize("objective", ["snnl-pixel", "gan"])
def test_train(cli: Cli, tiny: str, objective: str) -> None:
    output = cli(f"train {tiny} --dataset digits --objective {objective} --steps 5")
    run = Path(f"runs/0001-digits-{objective}")
    assert f"objective  {objective}" in output.out
    assert "data       digits: 1618 images 1x8x8, 179 held out" in output.out
    assert "training   steps=5, batch_size=32, optimizer=adam, learning_rate=" in output.out
    assert "trained 5 steps" in output.out
    for path in (run / "samples/step-00000005.png", run / "metrics.jsonl", run / "checkpoints"):
        assert str(path) in output.out
        assert path.exists()
    cli(f"train {tiny} --dataset digits --objective {objective} --steps 1")
    assert sorted(os.listdir("runs")) == [f"0001-digits-{objective}", f"0002-digits-{objective}"]


def test_options_are_saved_in_the_run(cli: Cli, tiny: str) -> None:
    options = "--seed 5 --betas 0.25,0.5 --ema-decay 0.5 --set temperature=0.2 --image-size 4"
    cli(f"train {tiny} --steps 1 --run-dir r {options}")
    config = json.loads(Path("r/config.json").read_text())["config"]
    assert (config["seed"], config["image_size"], config["image_shape"]) == (5, 4, [1, 4, 4])
    assert (config["betas"], config["ema_decay"]) == ([0.25, 0.5], 0.5)
    assert (config["objective_options"]["temperature"], config["arch_options"]["width"]) == ("0.2", 16)


@pytest.mark.parametrize("dataset", ["gaussians", "digits"])
def test_train_with_default_networks_and_batches(cli: Cli, dataset: str) -> None:
    cli(f"train --dataset {dataset} --objective snnl-projected --steps 1 --device cpu")
    assert Path(f"runs/0001-{dataset}-snnl-projected/samples/step-00000001.png").exists()


def test_list_of_settings(cli: Cli) -> None:
    text = cli("train --objective wgan --list-settings").out
    assert "clip=0.01" in text
    assert "discriminator_norm=batch" in text
    assert "widths=500-500-2000" in cli("classify train --arch feedforward --list-settings").out
    assert not os.listdir()


@pytest.mark.parametrize("more", ["", "--dataset mnist-5k --download --batch-size 40", "--run-dir x/y/z"])
def test_dry_run_of_train_writes_nothing(cli: Cli, tiny: str, more: str) -> None:
    output = cli(f"train {tiny} --steps 5 {more} --dry-run")
    assert output.out.endswith("dry run: nothing was written\n")
    assert "training   steps=5, batch_size=" in output.out
    assert not os.listdir()


def test_resuming_a_finished_run_to_a_later_step_equals_the_unbroken_run(cli: Cli, run: Path, tiny: str) -> None:
    output = cli(f"resume {run}")
    assert output.out == f"{run} is finished at step 6; to train longer: snngan resume {run} --steps 12\n"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli(f"resume {run} --steps 9 --device cpu --dry-run").out == f"resuming {run} at step 6 of 9, on cpu\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert "trained 8 steps" in cli(f"resume {run} --steps 8").out
    cli(f"train {tiny} --objective snnl-projected --steps 8 --run-dir unbroken")
    for words in ("sample {0} --count 20 --out {0}.npz", "interpolate {0} --side 3 --out {0}-plane.npz"):
        for each in ("run", "unbroken"):
            cli(words.format(each))
    for kind in ("", "-plane"):
        assert np.array_equal(load_images(f"run{kind}.npz"), load_images(f"unbroken{kind}.npz"))


def test_sample(cli: Cli, finished: Path) -> None:
    output = cli(f"sample {finished} --count 70 --seed 1 --out s.npz")
    assert output.out.startswith("70 images of step 6 -> s.npz\nnext:\n  snngan interpolate ")
    images = load_images("s.npz")
    assert (images.dtype, images.shape) == (np.uint8, (70, 1, 8, 8))
    assert len(np.unique(images.reshape(70, -1), axis=0)) == 70
    cli(f"sample {finished} --count 70 --seed 1 --out again.npz")
    assert Path("again.npz").read_bytes() == Path("s.npz").read_bytes()
    for seed in (1, 2):
        cli(f"sample {finished} --count 12 --seed {seed} --out few-{seed}.npz")
        assert np.array_equal(load_images(f"few-{seed}.npz"), images[:12]) == (seed == 1)
    cli(f"sample {finished} --count 12 --seed 1 --out s.png")
    cli(f"sample {finished} --count 12 --seed 1 --out folder/")
    assert sorted(os.listdir("folder")) == [f"{number:06d}.png" for number in range(12)]
    with Image.open("s.png") as file:
        sheet = np.asarray(file.convert("L"))
    factor = sheet.shape[1] // (4 * 8)
    assert sheet.shape == (3 * 8 * factor, 4 * 8 * factor)
    for number, image in enumerate(images[:12, 0]):
        with Image.open(f"folder/{number:06d}.png") as file:
            assert np.array_equal(np.asarray(file), image)
        row, column = divmod(number, 4)
        assert np.array_equal(sheet[::factor, ::factor][8 * row :, 8 * column :][:8, :8], image)


def test_own_and_truncated_latents(cli: Cli, refused: Cli, finished: Path) -> None:
    dim = snngan.load_generator(finished).latent_dim
    latents = draw_latents(20, dim, seed=0)
    np.savez("own.npz", latents=latents.numpy())
    np.savez("cut.npz", latents=truncate(latents, 0.5).numpy())
    for out, words in {"a": "--count 20", "b": "--latents own.npz", "c": "--count 20 --truncation 0.5"}.items():
        assert f"20 images of step 6 -> {out}.npz" in cli(f"sample {finished} {words} --out {out}.npz").out
    cli(f"sample {finished} --latents cut.npz --out d.npz")
    images = {name: np.load(f"{name}.npz")["images"] for name in "abcd"}
    assert (images["a"] == images["b"]).all() and (images["c"] == images["d"]).all()
    assert (images["a"] != images["c"]).any()
    np.savez("few.npz", latents=np.zeros((3, 2)))
    Path("text.npz").write_text("text")
    refused(f"sample {finished} --latents few.npz --out e.npz", rf"shape \(N, {dim}\), got \(3, 2\)")
    refused(f"sample {finished} --latents a.npz --out e.npz", "an npz file with the numbers latents")
    refused(f"sample {finished} --latents text.npz --out e.npz", "an npz file with the numbers latents")
    refused(f"sample {finished} --truncation 0 --out e.npz", "0.0 is not in the range")


def test_a_film_of_the_training(cli: Cli, refused: Cli, finished: Path) -> None:
    grids = sorted((finished / "samples").glob("*.png"))
    assert f"{len(grids)} grids, of step-00000000 to " in cli(f"sample {finished} --through-training --out a.gif").out
    with Image.open("a.gif") as film:
        assert film.n_frames == len(grids)
    refused(f"sample {finished} --through-training --out a.png", r"writes a name ending in \.gif, got a\.png")
    refused(f"sample {finished} --out b.gif", r"a name ending in \.png or \.npz, or a folder, got b\.gif")


def test_interpolate(cli: Cli, finished: Path) -> None:
    assert cli(f"interpolate {finished} --side 5 --out p.npz").out.startswith("25 images of step 6 -> p.npz\nnext:\n")
    images = load_images("p.npz").astype(float)
    assert images.shape == (25, 1, 8, 8)
    steps = np.abs(np.diff(images.reshape(5, 5, -1), axis=1)).mean()
    assert 0 < steps < np.abs(images[0] - images[24]).mean()
    cli(f"interpolate {finished} --side 5 --out p.png")
    with Image.open("p.png") as file:
        assert file.size == (400, 400)
    cli(f"interpolate {finished} --side 5 --seed 1 --out q.npz")
    assert not np.array_equal(load_images("q.npz"), images)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of a conditional generator of digits."""
    path = tmp_path_factory.mktemp("conditional") / "run"
    words = f"train --dataset digits --objective gan --conditional --arch mlp --set width=16 --steps 4 --run-dir {path}"
    with pytest.raises(SystemExit, match="0"):
        main([*words.split(), "--device", "cpu", "--metrics-every", "2"])
    return path


def test_a_conditional_generator_draws_the_class_asked_for(cli: Cli, conditional: Path) -> None:
    with Image.open(conditional / "samples" / "step-00000004.png") as grid:
        assert grid.size == (400, 400)  # ten digits of each class, enlarged 5 times
    assert "150 images of class 7 of step 4" in cli(f"sample {conditional} --class 7 --count 150 --out a.npz").out
    cli(f"sample {conditional} --count 150 --out b.npz")
    with np.load("a.npz") as file, np.load("b.npz") as other:
        sevens, labels = file["images"], other["labels"]
        assert (file["labels"] == 7).all() and set(labels) == set(range(10))
        same = (other["images"] == sevens).all((1, 2, 3))
        assert (same == (labels == 7)).all()  # the latents are the same
    cli(f"sample {conditional} --count 30 --out rows.png")
    with Image.open("rows.png") as grid:
        assert grid.size[1] * 3 == grid.size[0] * 10  # three of each class
    cli(f"interpolate {conditional} --class 3 --side 4 --out plane.png")
    for words, size in (("", (400, 160)), ("--class 3 --side 3", (408, 408))):
        cli(f"interpolate {conditional} {words} --out walk.gif --force")
        with Image.open("walk.gif") as walk:
            assert walk.format == "GIF" and walk.n_frames > 20 and walk.size == size
    for name in ("generator.safetensors", "card", "card --force"):
        assert f"-> {name.split()[0]}" in cli(f"export {conditional} --out {name}").out
    images = snngan.load_generator("generator.safetensors")(torch.zeros(10, 64), torch.arange(10))
    assert_close(images, snngan.load_generator(conditional)(torch.zeros(10, 64), torch.arange(10)))
    cli(f"report {conditional} --out report.html")
    assert "entanglement/class/7" in Path("report.html").read_text()
    assert "150 images of run" in cli(f"evaluate {conditional} --features pixels --count 150").out


def test_mistakes_with_classes(refused: Cli, conditional: Path, finished: Path) -> None:
    known = ", ".join(map(str, range(10)))
    refused(f"sample {conditional} --class eleven --out a.png", rf"unknown class 'eleven' \(known: {known}\)")
    refused(f"interpolate {conditional} --out a.png", "give --class, one of 0, 1")
    refused(f"sample {finished} --class 3 --out a.png", "takes no class; train one with --conditional")
    refused("train --dataset gaussians --objective gan --conditional --batch-size 1", "batch_size must be in")


def test_training_in_features_says_that_it_trains_a_classifier_once(cli: Cli) -> None:
    words = "train --dataset digits --objective snnl-features --arch mlp --set width=16 --steps 2 --device cpu"
    assert "training a small classifier of digits" in cli(words).err
    assert "classifier" not in cli(words).err
    logged = json.loads(Path("runs/0001-digits-snnl-features/metrics.jsonl").read_text().splitlines()[0])
    assert {"entanglement/space/classifier.fc", "entanglement/class/3"} <= logged.keys()
    assert "features=pixels,classifier" in cli(f"{words} --dry-run").out


def test_2d_points_are_not_called_images(cli: Cli, refused: Cli, tiny: str) -> None:
    train = cli(f"train {tiny} --dataset gaussians --steps 2 --run-dir r")
    assert "data       gaussians: 9000 2-D points, 1000 held out\n" in train.out
    assert train.err.endswith(" points/s\n")
    sample = cli("sample r --count 9 --out s.npz")
    assert sample.out.startswith("9 points of step 2 -> s.npz\n")
    points = load_images("s.npz")
    assert (points.dtype, points.shape) == (np.float32, (9, 1, 1, 2))
    prepare = cli("data prepare gaussians")
    assert "gaussians: 9000 training and 1000 held-out 2-D points, 8 classes\n" in prepare.out
    assert "image" not in "".join([*train, *sample, *prepare])
    cli("sample r --count 9 --out s.png")
    refused("sample r --count 9 --out folder", "must end in .png or .npz for 2-D points, got the folder folder")


def test_data(cli: Cli) -> None:
    text = cli("data list").out
    for name in ("digits", "mnist-5k", "gaussians", "rings", "fashion-mnist", "folder:PATH", "npz:PATH"):
        assert name in text
    output = cli("data prepare svhn --dry-run")
    assert output.out == "svhn: not here: --download\ndry run: nothing was read, downloaded or written\n"
    assert not os.listdir()
    output = cli("data prepare digits --data-dir d")
    assert "digits: 1618 training and 179 held-out images of 1x8x8" in output.out
    assert output.out.endswith("next:\n  snngan train --dataset digits --data-dir d\n")


def test_board_starts_tensorboard(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: called.append((path, arguments)))
    with pytest.raises(SystemExit):
        main(["board", str(finished), "--port", "6123"])
    ((path, arguments),) = called
    assert path == arguments[0] == sys.executable
    assert " ".join(arguments[1:]) == f"-P -m tensorboard.main --logdir={finished} --host=localhost --port=6123"


def test_report(cli: Cli, run: Path) -> None:
    Path("other").mkdir()
    said = cli(f"report run {run.absolute()} other --out r.html")
    assert said.out.startswith("1 run -> r.html")
    assert said.err.startswith("left out: other is not a run folder")
    assert Path("r.html").stat().st_size > 1000


@pytest.mark.parametrize("word", ["", "figure", "Frosst"])
def test_experiment_list(cli: Cli, word: str) -> None:
    whole = [f"{name:22}  {EXPERIMENTS[name].summary()}" for name in EXPERIMENTS.names()]
    assert cli(f"experiment list {word}").out.splitlines() == [line for line in whole if word in line]


def commands_in(out: str) -> list[list[str]]:
    """Return the words of the proposed commands as a shell parses them."""
    return [shlex.split(line)[1:] for line in out.split("next:\n")[1].splitlines()]


def test_next_commands(cli: Cli, tiny: str) -> None:
    run = "my runs/a generator"
    *commands, board = commands_in(cli(["train", *tiny.split(), "--steps", "2", "--run-dir", run]).out)
    assert [words[0] for words in commands] == ["sample", "interpolate", "evaluate", "report"]
    assert board == ["board", run]
    for words in commands:
        cli(words)
    assert {path.name for path in Path(run).iterdir()} >= {"grid.png", "plane.png", "evaluations.jsonl", "report.html"}
    evaluate, report, board = commands_in(cli("classify train --dataset digits --steps 2 --run-dir r").out)
    assert (evaluate, board) == (["classify", "evaluate", "r"], ["board", "r"])
    assert "accuracy" in cli(evaluate).out
    cli(report)
