"""``snngan classify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from snngan.cli.options import GroupedCommand, NamedGroup, data_dir_option, device_option, options_of, run_argument
from snngan.config import ClassifyConfig


@click.group(cls=NamedGroup, epilog="Example:  snngan classify train --dataset mnist --alpha -0.003 --seeds 0:4")
def classify() -> None:
    """Train and evaluate classifiers: cross-entropy + alpha * entanglement of hidden layers."""


@classify.command(
    cls=GroupedCommand, epilog="Example:  snngan classify train --dataset mnist --alpha -0.003 --seeds 0:4"
)
@options_of(ClassifyConfig)
def train(**values: Any) -> None:
    """Train a classifier, on 5000 embedded MNIST digits if not told otherwise."""
    config = ClassifyConfig(**values)
    from snngan.cli.running import begin, run_classifier
    from snngan.models import CLASSIFIERS
    from snngan.training.classifier_plan import check_classify_config, describe_classify_plan, make_classify_plan
    from snngan.training.plan import describe_options
    from snngan.training.runlog import ClassifierFolder

    if "help" in config.set:
        click.echo("\n".join(describe_options(config.arch, CLASSIFIERS[config.arch], {})))
        return
    begin(config, ClassifierFolder, check_classify_config, make_classify_plan, describe_classify_plan, run_classifier)


@classify.command(epilog="Example:  snngan classify evaluate runs/0001-mnist-cnn --json")
@run_argument
@click.option("--against", metavar="SET", help="the labelled data set, folder:PATH or npz:PATH [the run's own]")
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="half of it")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@data_dir_option
@device_option
def evaluate(run: Path, against: str | None, split: str, as_json: bool, data_dir: str | None, device: str) -> None:
    """Say how good RUN's classifiers are: accuracy, cross-entropy, calibration error, entanglement of each layer."""
    from snngan.cli.running import notify
    from snngan.evaluation.classifier import evaluate_classifier
    from snngan.training.device import choose_device
    from snngan.training.runlog import ClassifierFolder

    content = evaluate_classifier(
        ClassifierFolder.open(run), against=against, split=split, data_dir=data_dir, device=choose_device(device),
        notify=notify,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    protocol = content["protocol"]
    click.echo(f"{protocol['num_images']} images of {protocol['dataset']} {split}, step {protocol['step']}")
    for name, statistic in content["figures"].items():
        low, high = statistic["interval"] or (None, None)
        bounds = f"   95 %: {low:.4f} to {high:.4f}" if low is not None else ""
        best = f"   best {statistic['best']:.4f}" if name == "accuracy" and low is not None else ""
        click.echo(f"  {name:32} {statistic['mean']:8.4f}{bounds}{best}")
