"""``snngan experiment``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from snngan.cli.options import LocalPath, SuggestingGroup, data_dir_option, device_option, force_option
from snngan.cli.output import print_note, print_result, print_row, reset_matplotlib_settings
from snngan.experiments import PRESETS


@click.group(cls=SuggestingGroup, epilog="Example:  snngan experiment run pixel-generator")
def experiment() -> None:
    """List and run the figures and tables of the sources."""


@experiment.command("list", epilog="Example:  snngan experiment list figure")
@click.argument("word", default="")
def list_experiments(word: str) -> None:
    """List the experiments and what each shows, or only those whose line has WORD in it."""
    from snngan.experiments import EXPERIMENTS

    found = False
    for name in EXPERIMENTS.names():
        kind = EXPERIMENTS[name]
        text = f"{kind.summary} ({kind.source})"
        if word in f"{name} {text}":
            print_row(name, text, indent=24)
            found = True
    if not found:
        raise ValueError(f"no experiment has {word!r} in its name or text; snngan experiment list shows all")


@experiment.command("run", epilog="Example:  snngan experiment run gan-entanglement --preset cpu")
@click.argument("name")
@click.option("--preset", default="smoke", show_default=True, type=click.Choice(PRESETS), help="size")
@click.option("--dataset", metavar="NAME", help="the data set, if not the preset's")
@click.option("--regularizer", metavar="NAMES", help="of dknn-calibration: snnl, triplet or both, with a comma")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="a setting that --dry-run shows, changed")
@click.option("--out", type=LocalPath(), help="its folder [experiments/NAME-PRESET]")
@force_option
@data_dir_option
@device_option
@click.option("--dry-run", is_flag=True, help="say what would be run, and stop")
def run(
    name: str, preset: str, dataset: str | None, regularizer: str | None, settings: tuple[str, ...],
    out: Path | None, force: bool, data_dir: str | None, device: str, dry_run: bool,
) -> None:  # fmt: skip
    """Run experiment NAME: figures, numbers.json and result.md in its folder.

    Started again, it goes on with the runs that lie there. smoke takes seconds, cpu minutes to hours on two cores,
    paper wants a GPU.
    """
    from snngan.data.datasets import data_folder
    from snngan.experiments import Setting
    from snngan.experiments.running import run_experiment, sized
    from snngan.training.device import choose_device

    named = {"dataset": dataset, "regularizer": regularizer}
    settings = (*(f"{key}={value}" for key, value in named.items() if value is not None), *settings)
    folder = out or Path("experiments") / f"{name}-{preset}{f'-{dataset}' if dataset else ''}"
    words = ["snngan", "experiment", "run", name, "--preset", preset]
    words += [word for each in settings for word in ("--set", each)]
    if dry_run:
        print_result(f"{sized(name, preset, settings)}\nfolder     {folder}\ndry run: nothing was written")
        return
    reset_matplotlib_settings()
    setting = Setting(folder, str(data_folder(data_dir)), choose_device(device), print_note)
    finding = run_experiment(name, preset, setting, shlex.join(words), settings, force=force)
    for line in finding.text:
        print_result(line)
    print_result(f"figures, numbers.json, result.md -> {folder}")
