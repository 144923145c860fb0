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
from PIL import Image

from snngan.cli import COMMANDS, main
from snngan.cli.options import LocalPath
from snngan.cli.output import count_columns, format_duration
from snngan.experiments import EXPERIMENTS
from snngan.objectives import NonSaturating

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


def load_images(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["images"]
        return file["images"]


@pytest.mark.parametrize("words", list_commands())
def test_help(cli: Cli, words: str) -> None:
    text = cli(f"{words} --help").out
    assert text == cli(f"{words} -h").out
    assert max(map(len, text.splitlines())) <= 80
    assert f"Example:  snngan {words} " in text


def test_overview_lists_every_command(cli: Cli) -> None:
    text = cli("--help").out
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    assert re.fullmatch(r"snngan, version \d+\.\d+\S*\n", cli("--version").out)


@pytest.mark.parametrize(("words", "command"), list_commands().items(), ids=list_commands())
def test_example_in_the_help_is_a_valid_command(cli: Cli, words: str, command: click.Command) -> None:
    example = shlex.split(cli(f"{words} --help").out.split("Example:")[1])[1:]
    if isinstance(command, click.Group):
        words, command = " ".join(example[:2]), command.commands[example[1]]
    command.make_context(None, example[len(words.split()) :])


@pytest.mark.parametrize("command", list_commands().values(), ids=list_commands())
def test_path_options_refuse_urls(command: click.Command) -> None:
    assert all(isinstance(each.type, LocalPath) for each in command.params if isinstance(each.type, click.Path))


@pytest.mark.parametrize("objective", ["snnl-pixel", "gan"])
def test_train(cli: Cli, tiny: str, objective: str) -> None:
    output = cli(f"train {tiny} --dataset digits --objective {objective} --steps 5")
    run = Path(f"runs/0001-digits-{objective}")
    assert f"objective  {objective}" in output.out
    assert "data       digits: 1618 images 1x8x8, 179 held out" in output.out
    assert "training   steps=5, batch_size=32, optimizer=adam, learning_rate=" in output.out
    assert ("discriminator" in output.out) == (objective == "gan")
    assert "trained 5 steps" in output.out
    for path in (run / "samples/step-00000005.png", run / "metrics.jsonl", run / "checkpoints"):
        assert str(path) in output.out
        assert path.exists()


def test_progress_lines_in_a_log(cli: Cli, tiny: str) -> None:
    lines = cli(f"train {tiny} --objective gan --steps 5").err.splitlines()
    assert re.fullmatch(r"step 1/5  loss G \d\S*  loss D \d\S*", lines[0])
    values = r"entanglement [01]\S*  loss G \d\S*  loss D \d\S*"
    assert re.fullmatch(rf"step 5/5  \d+\.\d steps/s  0:00 left  {values}  \d+ images/s", lines[-1])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_error_on_a_terminal_starts_a_new_line(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    factors = iter([1.0, 1.0, float("nan"), float("nan")])
    monkeypatch.setattr(NonSaturating, "generator_loss", lambda *args: args[-1].sum() * next(factors))
    command = f"train {tiny} --objective gan --steps 5"
    assert re.match(r"\r\x1b\[Kstep 1/5 .*\nError: step 3", cli(command, 1).err)
    assert cli(command, 1).err.startswith("Error: step 1"), "no progress line was printed yet"


def test_runs_are_numbered(cli: Cli, tiny: str) -> None:
    for _ in range(2):
        cli(f"train {tiny} --dataset digits --steps 1")
    assert sorted(os.listdir("runs")) == ["0001-digits-snnl-pixel", "0002-digits-snnl-pixel"]


def test_options_are_saved_in_the_run(cli: Cli, tiny: str) -> None:
    options = "--seed 5 --betas 0.25,0.5 --ema-decay 0.5 --set temperature=0.2 --image-size 4"
    cli(f"train {tiny} --steps 1 --run-dir r {options}")
    config = json.loads(Path("r/config.json").read_text())["config"]
    assert (config["seed"], config["image_size"], config["image_shape"]) == (5, 4, [1, 4, 4])
    assert config["betas"] == [0.25, 0.5]
    assert config["ema_decay"] == 0.5
    assert config["objective_options"]["temperature"] == "0.2"
    assert config["arch_options"]["width"] == 16


@pytest.mark.parametrize("dataset", ["gaussians", "digits"])
def test_train_with_default_networks_and_batches(cli: Cli, dataset: str) -> None:
    cli(f"train --dataset {dataset} --objective snnl-projected --steps 1 --device cpu")
    assert Path(f"runs/0001-{dataset}-snnl-projected/samples/step-00000001.png").exists()


def test_list_of_settings(cli: Cli) -> None:
    text = cli("train --objective wgan --list-settings").out
    assert "clip=0.01" in text
    assert "discriminator_norm=batch" in text
    assert not os.listdir()


@pytest.mark.parametrize("more", ["", "--dataset mnist-5k --download", "--run-dir x/y/z"])
def test_dry_run_of_train_writes_nothing(cli: Cli, tiny: str, tmp_path: Path, more: str) -> None:
    output = cli(f"train {tiny} --steps 5 {more} --dry-run")
    assert output.out.endswith("dry run: nothing was written\n")
    assert "training   steps=5, batch_size=32" in output.out
    assert not list(tmp_path.iterdir())


def test_dry_run_downloads_nothing(refused: Cli, tiny: str) -> None:
    message = "--dry-run downloads nothing; first: snngan data prepare mnist --download"
    refused(f"train {tiny} --dataset mnist --download --dry-run", message)


def test_dry_run_of_resume_writes_nothing(cli: Cli, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli(f"resume {run} --steps 9 --device cpu --dry-run").out == f"resuming {run} at step 6 of 9, on cpu\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resuming_a_finished_run_to_a_later_step_equals_the_unbroken_run(cli: Cli, run: Path, tiny: str) -> None:
    output = cli(f"resume {run}")
    assert output.out == f"{run} is finished at step 6; to train longer: snngan resume {run} --steps 12\n"
    output = cli(f"resume {run} --steps 8")
    assert "resuming run at step 6 of 8" in output.out
    assert "trained 8 steps" in output.out
    cli(f"train {tiny} --objective snnl-projected --steps 8 --run-dir unbroken")
    for name in ("sample --count 20 --out {}.npz", "interpolate --side 3 --out {}-plane.npz"):
        for each in ("run", "unbroken"):
            words = name.format(each).split()
            cli([words[0], each, *words[1:]])
    for kind in ("", "-plane"):
        assert np.array_equal(load_images(Path(f"run{kind}.npz")), load_images(Path(f"unbroken{kind}.npz")))


def test_sample_npz(cli: Cli, finished: Path) -> None:
    output = cli(f"sample {finished} --count 700 --seed 1 --out s.npz")
    assert output.out.startswith("700 images of step 6 -> s.npz\nnext:\n  snngan interpolate ")
    images = load_images(Path("s.npz"))
    assert images.dtype == np.uint8
    assert images.shape == (700, 1, 8, 8)
    assert len(np.unique(images.reshape(700, -1), axis=0)) == 700
    cli(f"sample {finished} --count 700 --seed 1 --out again.npz")
    assert Path("again.npz").read_bytes() == Path("s.npz").read_bytes()
    cli(f"sample {finished} --count 64 --seed 1 --out few.npz")
    assert np.array_equal(load_images(Path("few.npz")), images[:64])
    cli(f"sample {finished} --count 64 --seed 2 --out other.npz")
    assert not np.array_equal(load_images(Path("other.npz")), images[:64])


def test_sample_png_and_folder(cli: Cli, finished: Path) -> None:
    cli(f"sample {finished} --count 12 --out s.npz")
    cli(f"sample {finished} --count 12 --out s.png")
    cli(f"sample {finished} --count 12 --out folder/")
    images = load_images(Path("s.npz"))[:, 0]
    assert sorted(os.listdir("folder")) == [f"{number:06d}.png" for number in range(12)]
    for number, image in enumerate(images):
        with Image.open(f"folder/{number:06d}.png") as file:
            assert file.mode == "L"
            assert np.array_equal(np.asarray(file), image)
    with Image.open("s.png") as file:
        sheet = np.asarray(file.convert("L"))
    factor = sheet.shape[1] // (4 * 8)
    assert sheet.shape == (3 * 8 * factor, 4 * 8 * factor)
    assert sheet.shape[1] >= 400
    small = sheet[::factor, ::factor]
    for number, image in enumerate(images):
        row, column = divmod(number, 4)
        assert np.array_equal(small[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], image)


def test_interpolate(cli: Cli, finished: Path) -> None:
    output = cli(f"interpolate {finished} --side 5 --out p.npz")
    assert output.out.startswith("5 x 5 images -> p.npz\nnext:\n  snngan evaluate ")
    images = load_images(Path("p.npz")).astype(float)
    assert images.shape == (25, 1, 8, 8)
    steps = np.abs(np.diff(images.reshape(5, 5, -1), axis=1)).mean()
    assert 0 < steps < np.abs(images[0] - images[24]).mean()
    cli(f"interpolate {finished} --side 5 --out p.png")
    with Image.open("p.png") as file:
        assert file.size == (400, 400)
    cli(f"interpolate {finished} --side 5 --out folder")
    assert len(os.listdir("folder")) == 25
    cli(f"interpolate {finished} --side 5 --seed 1 --out q.npz")
    assert not np.array_equal(load_images(Path("q.npz")), images)


def test_samples_of_2d_points(cli: Cli, refused: Cli, tiny: str) -> None:
    cli(f"train {tiny} --dataset gaussians --steps 2 --run-dir r")
    cli("sample r --count 9 --out s.npz")
    points = load_images(Path("s.npz"))
    assert (points.dtype, points.shape) == (np.float32, (9, 1, 1, 2))
    cli("sample r --count 9 --out s.png")
    refused("sample r --count 9 --out folder", "must end in .png or .npz for 2-D points, got the folder folder")


def test_dry_run_of_prepare_reads_nothing(cli: Cli, refused: Cli, tmp_path: Path) -> None:
    output = cli("data prepare svhn --dry-run")
    assert output.out == "svhn: not here: --download\ndry run: nothing was read, downloaded or written\n"
    refused("data prepare mnst --dry-run", "unknown dataset 'mnst'; did you mean 'mnist'")
    assert not list(tmp_path.iterdir())


def test_data_list_and_prepare(cli: Cli, tmp_path: Path) -> None:
    text = cli("data list").out
    for name in ("digits", "mnist-5k", "gaussians", "rings", "fashion-mnist", "folder:PATH", "npz:PATH"):
        assert name in text
    assert not list(tmp_path.iterdir())
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


def test_report_takes_a_run_once(cli: Cli, run: Path) -> None:
    assert cli(f"report run {run.absolute()} --out r.html").out.startswith("1 run -> r.html")


@pytest.mark.parametrize("word", ["", "figure", "Frosst"])
def test_experiment_list(cli: Cli, word: str) -> None:
    text = cli(f"experiment list {word}").out
    assert max(map(count_columns, text.splitlines())) <= 80
    joined = re.sub(r"\n {24}(?! )", " ", text).splitlines()
    whole = [f"{name:22}  {EXPERIMENTS[name].summary()}" for name in EXPERIMENTS.names()]
    assert joined == [line for line in whole if word in line]
    assert joined
