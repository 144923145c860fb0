"""Each command doing what it is for: what it prints, what it writes, and that a dry run writes nothing."""

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
from snngan.cli.output import duration
from snngan.objectives import NonSaturating

Cli = Callable[..., Any]


def help_pages() -> list[list[str]]:
    """Return every command's words, subcommands included."""
    pages: list[list[str]] = []
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        pages.append([name])
        if isinstance(command, click.Group):
            pages += [[name, each] for each in command.list_commands(context)]
    return pages


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def images_in(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["images"]
        return file["images"]


@pytest.mark.parametrize("words", help_pages(), ids=" ".join)
def test_help(cli: Cli, words: list[str]) -> None:
    text = cli([*words, "--help"]).out
    assert text == cli([*words, "-h"]).out
    assert len(text.splitlines()) <= 46
    assert max(map(len, text.splitlines())) <= 80
    assert f"Example:  snngan {' '.join(words)} " in text


def test_the_overview_names_every_command(cli: Cli) -> None:
    text = cli("--help").out
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    assert re.fullmatch(r"snngan, version \d+\.\d+\S*\n", cli("--version").out)


@pytest.mark.parametrize("words", help_pages(), ids=" ".join)
def test_the_example_in_the_help_is_one_that_the_command_takes(cli: Cli, words: list[str]) -> None:
    example = " ".join(cli([*words, "--help"]).out.split("Example:")[1].split())
    rest, command, context = shlex.split(example)[1:], main, click.Context(main)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name)  # type: ignore[assignment]
    command.make_context(None, rest)


@pytest.mark.parametrize("objective", ["snnl-pixel", "gan"])
def test_train(cli: Cli, tiny: str, objective: str) -> None:
    said = cli(f"train {tiny} --dataset digits --objective {objective} --steps 5")
    run = Path(f"runs/0001-digits-{objective}")
    assert f"objective  {objective}" in said.out
    assert "data       digits: 1618 images 1x8x8, 179 held out" in said.out
    assert "training   steps=5, batch_size=32, optimizer=adam, learning_rate=" in said.out
    assert ("discriminator" in said.out) == (objective == "gan")
    assert "trained 5 steps" in said.out
    for path in (run / "samples/step-00000005.png", run / "metrics.jsonl", run / "checkpoints"):
        assert str(path) in said.out
        assert path.exists()
    following = said.out.split("next:\n")[1].splitlines()
    assert all(line.startswith("  snngan ") and str(run) in line for line in following)


def test_progress(cli: Cli, tiny: str) -> None:
    lines = cli(f"train {tiny} --objective gan --steps 5").err.splitlines()
    assert re.fullmatch(r"step 1/5  loss G \d\S*  loss D \d\S*", lines[0])
    values = r"entanglement [01]\S*  loss G \d\S*  loss D \d\S*"
    assert re.fullmatch(rf"step 5/5  \d+\.\d steps/s  0:00 left  {values}  \d+ images/s", lines[-1])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_on_a_terminal_the_line_is_rewritten_and_then_left(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    err = cli(f"train {tiny} --objective gan --steps 5").err
    assert err.startswith("\r\x1b[Kstep 1/5 ")
    assert re.search(r"\r\x1b\[Kstep 5/5 .* 0:00 left  [^\r]*\n$", err)
    assert err.count("\n") == 1
    monkeypatch.setattr(NonSaturating, "generator_loss", lambda *args: args[-1].sum() * (float("nan")))
    err = cli(f"train {tiny} --objective gan --steps 5", 1).err
    assert err.startswith("Error: step 1")
    calls = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr(NonSaturating, "generator_loss", lambda *args: args[-1].sum() * next(calls))
    err = cli(f"train {tiny} --objective gan --steps 5", 1).err
    assert "\nError: step 3" in err, "the error has a line of its own"


def test_runs_are_numbered(cli: Cli, tiny: str) -> None:
    for _ in range(2):
        cli(f"train {tiny} --dataset digits --steps 1")
    assert sorted(os.listdir("runs")) == ["0001-digits-snnl-pixel", "0002-digits-snnl-pixel"]


def test_the_options_reach_the_plan(cli: Cli, tiny: str) -> None:
    options = "--seed 5 --betas 0.25,0.5 --ema-decay 0.5 --set temperature=0.2 --image-size 4"
    cli(f"train {tiny} --steps 1 --run-dir r {options}")
    plan = json.loads(Path("r/config.json").read_text())["plan"]
    assert (plan["seed"], plan["image_size"], plan["image_shape"]) == (5, 4, [1, 4, 4])
    assert plan["optimization"]["betas"] == [0.25, 0.5]
    assert plan["optimization"]["ema_decay"] == 0.5
    assert plan["objective_options"]["temperature"] == "0.2"
    assert plan["arch_options"]["width"] == 16


@pytest.mark.parametrize("dataset", ["gaussians", "digits"])
def test_the_smallest_commands(cli: Cli, dataset: str) -> None:
    """The objectives' own networks and batches, where nothing is said about them."""
    cli(f"train --dataset {dataset} --objective snnl-projected --steps 1 --device cpu")
    assert Path(f"runs/0001-{dataset}-snnl-projected/samples/step-00000001.png").exists()


def test_the_settings_are_listed(cli: Cli) -> None:
    text = cli("train --objective wgan --set help").out
    assert "clip=0.01" in text
    assert "discriminator_steps=5" in text
    assert not os.listdir()


@pytest.mark.parametrize("more", ["", "--dataset mnist-5k --download", "--run-dir x/y/z"])
def test_a_dry_run_of_train_writes_nothing(cli: Cli, tiny: str, tmp_path: Path, more: str) -> None:
    said = cli(f"train {tiny} --steps 5 {more} --dry-run")
    assert said.out.endswith("dry run: nothing was written\n")
    assert "training   steps=5, batch_size=32" in said.out
    assert tree(tmp_path) == set()


def test_a_dry_run_fetches_nothing(refused: Cli, tiny: str) -> None:
    message = "--dry-run fetches nothing; first: snngan data prepare mnist --download"
    refused(f"train {tiny} --dataset mnist --download --dry-run", message)


def test_a_dry_run_of_resume_writes_nothing(cli: Cli, run: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli(f"resume {run} --steps 9 --device cpu --dry-run").out == f"resuming {run} at step 6 of 9, on cpu\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_resuming_a_finished_run_says_so(cli: Cli, run: Path) -> None:
    said = cli(f"resume {run}")
    assert said.out == f"{run} is finished at step 6; to train longer: snngan resume {run} --steps 12\n"


def test_more_steps_than_planned(cli: Cli, run: Path, finished: Path, tiny: str) -> None:
    said = cli(f"resume {run} --steps 8")
    assert "resuming run at step 6 of 8" in said.out
    assert "trained 8 steps" in said.out
    assert "is finished at step 8" in cli(f"resume {run}").out
    cli(f"train {tiny} --objective snnl-projected --steps 8 --run-dir unbroken")
    for name in ("sample --count 20 --out {}.npz", "interpolate --side 3 --out {}-plane.npz"):
        for each in ("run", "unbroken"):
            words = name.format(each).split()
            cli([words[0], each, *words[1:]])
    for kind in ("", "-plane"):
        assert np.array_equal(images_in(Path(f"run{kind}.npz")), images_in(Path(f"unbroken{kind}.npz")))


def test_sample_npz(cli: Cli, finished: Path) -> None:
    said = cli(f"sample {finished} --count 700 --seed 1 --out s.npz")
    assert said.out.startswith("700 images of step 6 -> s.npz\nnext:\n  snngan interpolate ")
    images = images_in(Path("s.npz"))
    assert images.dtype == np.uint8
    assert images.shape == (700, 1, 8, 8)
    assert len(np.unique(images.reshape(700, -1), axis=0)) == 700
    cli(f"sample {finished} --count 700 --seed 1 --out again.npz")
    assert Path("again.npz").read_bytes() == Path("s.npz").read_bytes()
    cli(f"sample {finished} --count 64 --seed 1 --out few.npz")
    assert np.array_equal(images_in(Path("few.npz")), images[:64])
    cli(f"sample {finished} --count 64 --seed 2 --out other.npz")
    assert not np.array_equal(images_in(Path("other.npz")), images[:64])


def test_sample_png_and_folder(cli: Cli, finished: Path) -> None:
    cli(f"sample {finished} --count 12 --out s.npz")
    cli(f"sample {finished} --count 12 --out s.png")
    cli(f"sample {finished} --count 12 --out folder/")
    images = images_in(Path("s.npz"))[:, 0]
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
    said = cli(f"interpolate {finished} --side 5 --out p.npz")
    assert said.out.startswith("5 x 5 images -> p.npz\nnext:\n  snngan evaluate ")
    images = images_in(Path("p.npz")).astype(float)
    assert images.shape == (25, 1, 8, 8)
    steps = np.abs(np.diff(images.reshape(5, 5, -1), axis=1)).mean()
    assert 0 < steps < np.abs(images[0] - images[24]).mean()
    cli(f"interpolate {finished} --side 5 --out p.png")
    with Image.open("p.png") as file:
        assert file.size == (400, 400)
    cli(f"interpolate {finished} --side 5 --out folder")
    assert len(os.listdir("folder")) == 25
    cli(f"interpolate {finished} --side 5 --seed 1 --out q.npz")
    assert not np.array_equal(images_in(Path("q.npz")), images)


def test_points_of_the_plane(cli: Cli, refused: Cli, tiny: str) -> None:
    cli(f"train {tiny} --dataset gaussians --steps 2 --run-dir r")
    cli("sample r --count 9 --out s.npz")
    points = images_in(Path("s.npz"))
    assert (points.dtype, points.shape) == (np.float32, (9, 1, 1, 2))
    cli("sample r --count 9 --out s.png")
    refused("sample r --count 9 --out folder", "must end in .png or .npz for 2-D points, got the folder folder")


def test_a_dry_run_of_prepare_reads_nothing(cli: Cli, refused: Cli, tmp_path: Path) -> None:
    assert (
        cli("data prepare svhn --dry-run").out
        == "svhn: not here: --download\ndry run: nothing was read, downloaded or written\n"
    )
    assert "dry run" in cli("data prepare mnist-5k --dry-run").out
    refused("data prepare mnst --dry-run", "unknown dataset 'mnst'; did you mean 'mnist'")
    assert tree(tmp_path) == set()


def test_data(cli: Cli, tmp_path: Path) -> None:
    text = cli("data list").out
    for name in ("digits", "mnist-5k", "gaussians", "rings", "fashion-mnist", "folder:PATH", "npz:PATH"):
        assert name in text
    assert not list(tmp_path.iterdir())
    said = cli("data prepare digits --data-dir d")
    assert "digits: 1618 training and 179 held-out images of 1x8x8" in said.out
    assert said.out.endswith("next:\n  snngan train --dataset digits --data-dir d\n")


def test_board_hands_over_to_tensorboard(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: called.append((path, arguments)))
    with pytest.raises(SystemExit):
        main(["board", str(finished), "--port", "6123"])
    ((path, arguments),) = called
    assert path == arguments[0] == sys.executable
    assert arguments[1:] == [
        "-P", "-m", "tensorboard.main", f"--logdir={finished}", "--host=localhost", "--port=6123",
    ]  # fmt: skip
