"""``snngan classify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from snngan.cli import explain_memory
from snngan.cli.options import (
    MAX_COUNT,
    GroupedCommand,
    LocalPath,
    SuggestingGroup,
    add_config_options,
    data_dir_option,
    device_option,
    like_option,
    list_settings_option,
    parse_numbers,
    run_argument,
)
from snngan.cli.output import print_note, print_result
from snngan.config import ClassifyConfig


@click.group(cls=SuggestingGroup, epilog="Example:  snngan classify train --dataset mnist --alpha -0.003 --seeds 0:4")
def classify() -> None:
    """Train and evaluate classifiers: cross-entropy + alpha * entanglement of hidden layers."""


@classify.command(
    cls=GroupedCommand, epilog="Example:  snngan classify train --dataset mnist --alpha -0.003 --seeds 0:4"
)
@add_config_options(ClassifyConfig)
@like_option
@list_settings_option
@explain_memory("a smaller --batch-size, fewer --seeds, fewer pixels or narrower networks")
def train(like: Path | None, list_settings: bool, **values: Any) -> None:
    """Train a classifier; without options, on 5000 embedded MNIST digits."""
    from snngan.cli.training import make_config_like, print_settings, start_runs

    config = make_config_like(ClassifyConfig, like, values)
    if list_settings:
        print_settings(config)
    else:
        start_runs([config])


@classify.command(epilog="Example:  snngan classify evaluate runs/0001-mnist-cnn --json")
@run_argument
@click.option("--reference", metavar="SET", help="labeled data set, folder:PATH or npz:PATH [data set of RUN]")
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="split to use")
@click.option("--attack", metavar="NAME", help="attack on the classifiers: fgsm, bim or pgd")
@click.option(
    "--epsilon", "epsilons", type=parse_numbers, default="", metavar="LIST", help="strengths of the attack: 0.1,0.2"
)
@click.option("--attack-steps", "steps", type=click.IntRange(1, 10000), help="number of steps of bim [10] or pgd [40]")
@click.option("--source", type=LocalPath(), metavar="RUN", help="run whose networks the attack is made on [RUN itself]")
@click.option("--dknn", is_flag=True, help="evaluation of each prediction by deep k-nearest neighbors")
@click.option("--dknn-count", type=click.IntRange(1, MAX_COUNT), help="number of training images --dknn searches [all]")
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), help="number of images to attack or evaluate by --dknn [1000]"
)
@click.option("--json", "as_json", is_flag=True, help="output as one JSON object")
@data_dir_option
@device_option
@explain_memory("a smaller --count or --dknn-count")
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


def format_evaluation(content: dict[str, Any]) -> list[str]:
    """Return the lines that show what :func:`evaluate_classifier` returned."""
    protocol, metrics = content["protocol"], content["metrics"]
    lines = [f"{protocol['num_images']} images of {protocol['dataset']} {protocol['split']}, step {protocol['step']}"]
    width = max(map(len, metrics))
    for name, statistic in metrics.items():
        line = f"  {name:{width}} {statistic['mean']:8.4f}"
        if statistic["interval"]:
            low, high = statistic["interval"]
            line += f"   95 %: {low:.4f} to {high:.4f}"
            line += f"   best {statistic['best']:.4f}" if name == "accuracy" else ""
        lines.append(line)
    if "attack_evaluation" in content:
        rows, attacks = content["attack_evaluation"], protocol["attack_evaluation"]
        how = f"attacked by {attacks['attack']}" if attacks["attack"] else "evaluated by DkNN"
        source = f", made on {attacks['source']}" if attacks["source"] else ""
        names = list(rows[0]["metrics"])
        lines += [
            f"{attacks['num_images']} images {how}{source}",
            f"  {'epsilon':10}" + "".join(f"{n:>15}" for n in names),
        ]
        for row in rows:
            means = "".join(f"{row['metrics'][name]['mean']:15.4f}" for name in names)
            lines.append(f"  {row['epsilon']:<10g}{means}")
    return lines
