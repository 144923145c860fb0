"""``snngan experiment``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from snngan.cli.options import PATH, SuggestingGroup, data_dir_option, device_option, force_option
from snngan.cli.output import print_note, print_result, print_row
from snngan.experiments import PRESETS


@click.group(cls=SuggestingGroup, epilog="Example:  snngan experiment run pixel-generator")
def experiment() -> None:
    """List and run the figures and tables of the papers."""


@experiment.command("list", epilog="Example:  snngan experiment list figure")
@click.argument("word", default="")
def list_experiments(word: str) -> None:
    """List the experiments with their summaries, or only those that contain WORD."""
    from snngan.experiments import EXPERIMENTS

    texts = {name: EXPERIMENTS[name].summary() for name in EXPERIMENTS.names()}
    found = {name: text for name, text in texts.items() if word in f"{name} {text}"}
    if not found:
        raise ValueError(f"no experiment has {word!r} in its name or text; snngan experiment list shows all")
    for name, text in found.items():
        print_row(name, text, indent=24)


@experiment.command("run", epilog="Example:  snngan experiment run gan-entanglement --preset cpu")
@click.argument("name")
@click.option("--preset", default="smoke", show_default=True, type=click.Choice(PRESETS), help="set of options")
@click.option("--dataset", metavar="NAME", help="data set [the preset's]")
@click.option("--regularizer", metavar="NAMES", help="of dknn-calibration only: snnl, triplet or snnl,triplet")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="another option; --dry-run lists them")
@click.option("--out", type=PATH, help="folder of the results [experiments/NAME-PRESET]")
@force_option
@data_dir_option
@device_option
@click.option("--dry-run", is_flag=True, help="list the experiment's options, and stop")
def run(
    name: str,
    preset: str,
    dataset: str | None,
    regularizer: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool,
    data_dir: str | None,
    device: str,
    dry_run: bool,
) -> None:
    """Run experiment NAME: write plots, numbers.json and result.md to its folder.

    Runs that are in the folder already are continued or reused. The preset smoke takes seconds, cpu minutes to hours on
    two cores; paper needs a GPU.
    """
    from snngan.data.datasets import data_folder
    from snngan.experiments import ExperimentContext, describe_options, make_experiment, run_experiment
    from snngan.training.device import choose_device

    named = {"dataset": dataset, "regularizer": regularizer}
    settings = (*(f"{key}={value}" for key, value in named.items() if value is not None), *settings)
    folder = out or Path("experiments") / f"{name}-{preset}{f'-{dataset}' if dataset else ''}"
    if dry_run:
        lines = describe_options(make_experiment(name, preset, settings))
        print_result("\n".join([*lines, f"folder     {folder}", "dry run: nothing was written"]))
        return
    words = ["snngan", "experiment", "run", name, "--preset", preset]
    words += [word for each in settings for word in ("--set", each)]
    context = ExperimentContext(folder, str(data_folder(data_dir)), choose_device(device), print_note)
    result = run_experiment(name, preset, context, shlex.join(words), settings, force=force)
    print_result("\n".join([*result.text, f"plots, numbers.json, result.md -> {folder}"]))
