"""``snngan classify``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from snngan.cli.options import (
    MAX_COUNT,
    PATH,
    GroupedCommand,
    SuggestingGroup,
    data_dir_option,
    device_option,
    json_option,
    run_argument,
    split_option,
    training_options,
)
from snngan.cli.output import print_note, print_result
from snngan.config import ClassifyConfig

EXAMPLE = "Example:  snngan classify train --dataset mnist --alpha -0.003 --seeds 0:4"


@click.group(cls=SuggestingGroup, epilog=EXAMPLE)
def classify() -> None:
    """Train and evaluate classifiers: cross-entropy + alpha * entanglement of hidden layers."""


@classify.command(cls=GroupedCommand, epilog=EXAMPLE)
@training_options(ClassifyConfig)
def train(**options: Any) -> None:
    """Train a classifier; without options, on 5000 embedded MNIST digits."""
    from snngan.cli.training import start_training

    start_training(ClassifyConfig, **options)


def parse_numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Return the numbers in a text such as ``0.1,0.2``, none if it is empty."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise click.BadParameter(f"must be numbers separated by commas such as 0.1,0.2, got {text!r}") from error


@classify.command(epilog="Example:  snngan classify evaluate runs/0001-mnist-cnn --json")
@run_argument
@click.option("--reference", metavar="SET", help="labeled data set, folder:PATH or npz:PATH [data set of RUN]")
@split_option
@click.option("--attack", metavar="NAME", help="attack on the classifiers: fgsm, bim or pgd")
@click.option(
    "--epsilon", "epsilons", callback=parse_numbers, default="", metavar="LIST", help="strengths of the attack: 0.1,0.2"
)
@click.option("--attack-steps", "steps", type=click.IntRange(1, 10000), help="number of steps of bim [10] or pgd [40]")
@click.option("--source", type=PATH, metavar="RUN", help="run whose networks the attack is made on [RUN itself]")
@click.option("--dknn", is_flag=True, help="evaluation of each prediction by deep k-nearest neighbors")
@click.option("--dknn-count", type=click.IntRange(1, MAX_COUNT), help="number of training images --dknn searches [all]")
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), help="number of images to attack or evaluate by --dknn [1000]"
)
@json_option
@data_dir_option
@device_option
def evaluate(
    run: Path,
    reference: str | None,
    split: str,
    source: Path | None,
    as_json: bool,
    data_dir: str | None,
    device: str,
    **protocol: Any,
) -> None:
    """Evaluate RUN's classifiers: accuracy, cross-entropy, calibration error, entanglement of each layer.

    With --attack, also their accuracy on adversarial images; with --dknn, also the credibility of their predictions.
    """
    from snngan.evaluation.attack_evaluation import AttackProtocol
    from snngan.evaluation.classifier import evaluate_classifier
    from snngan.training.device import choose_device
    from snngan.training.run_folder import open_run

    given = {name: value for name, value in protocol.items() if value}
    content = evaluate_classifier(
        open_run(run, ClassifyConfig),
        reference=reference,
        split=split,
        data_dir=data_dir,
        device=choose_device(device),
        attack_protocol=AttackProtocol(**given) if given else None,
        source=open_run(source, ClassifyConfig) if source else None,
        notify=print_note,
    )
    print_result(json.dumps(content, indent=2) if as_json else "\n".join(format_evaluation(content)))


def format_evaluation(content: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that show what :func:`evaluate_classifier` returned."""
    protocol, metrics = content["protocol"], content["metrics"]
    yield f"{protocol['num_images']} images of {protocol['dataset']} {protocol['split']}, step {protocol['step']}"
    width = max(map(len, metrics))
    for name, statistic in metrics.items():
        line = f"  {name:{width}} {statistic['mean']:8.4f}"
        if statistic["interval"]:
            low, high = statistic["interval"]
            line += f"   95 %: {low:.4f} to {high:.4f}"
            line += f"   best {statistic['best']:.4f}" * (name == "accuracy")
        yield line
    if rows := content.get("attack_evaluation"):
        attacks, names = protocol["attack_evaluation"], list(rows[0]["metrics"])
        how = f"attacked by {attacks['attack']}" if attacks["attack"] else "evaluated by DkNN"
        yield f"{attacks['num_images']} images {how}" + (f", made on {attacks['source']}" if attacks["source"] else "")
        yield f"  {'epsilon':10}" + "".join(f"{name:>15}" for name in names)
        for row in rows:
            yield f"  {row['epsilon']:<10g}" + "".join(f"{row['metrics'][name]['mean']:15.4f}" for name in names)
