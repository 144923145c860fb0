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
@click.option("--against", metavar="SET", help="the labeled data set, folder:PATH or npz:PATH [the run's own]")
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="half of it")
@click.option("--attack", metavar="NAME", help="fgsm, bim or pgd")
@click.option(
    "--epsilon", type=parse_numbers, default="", metavar="LIST", help="its strengths, such as 0.1,0.2, of [0, 1]"
)
@click.option("--attack-steps", type=click.IntRange(1, 10**6), help="of bim [10] or pgd [40]")
@click.option("--source", type=LocalPath(), metavar="RUN", help="attacks made on that one [RUN itself]")
@click.option("--dknn", is_flag=True, help="judge by the nearest training images in each layer, too")
@click.option("--points", type=click.IntRange(1, MAX_COUNT), help="how many training images --dknn looks among [all]")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), help="images attacked or judged [1000]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@data_dir_option
@device_option
@explain_memory("a smaller --count or --points")
def evaluate(
    run: Path, against: str | None, split: str, attack: str | None, epsilon: tuple[float, ...],
    attack_steps: int | None, source: Path | None, dknn: bool, points: int | None, count: int | None, as_json: bool,
    data_dir: str | None, device: str,
) -> None:  # fmt: skip
    """Say how good RUN's classifiers are: accuracy, cross-entropy, calibration error, entanglement of each layer.

    With --attack, also their accuracy on adversarial images; with --dknn, also the credibility of their predictions.
    """
    from snngan.evaluation.attack_evaluation import Trial
    from snngan.evaluation.classifier import evaluate_classifier
    from snngan.training.device import choose_device
    from snngan.training.run_folder import ClassifierRun

    trial = Trial(attack=attack, epsilons=epsilon, steps=attack_steps, dknn=dknn, points=points, count=count or 1000)
    if source is not None and attack is None:
        raise ValueError("--source is where an attack is made: --attack bim --epsilon 0.1")
    if count is not None and not (attack or dknn):
        raise ValueError("--count is of images attacked or judged: --attack or --dknn")
    content = evaluate_classifier(
        ClassifierRun.open(run), against=against, split=split, data_dir=data_dir, device=choose_device(device),
        trial=trial if attack or dknn else None, source=ClassifierRun.open(source) if source else None,
        notify=print_note,
    )  # fmt: skip
    if as_json:
        print_result(json.dumps(content, indent=2))
        return
    protocol = content["protocol"]
    print_result(f"{protocol['num_images']} images of {protocol['dataset']} {split}, step {protocol['step']}")
    width = max(map(len, content["figures"]))
    for name, statistic in content["figures"].items():
        low, high = statistic["interval"] or (None, None)
        bounds = f"   95 %: {low:.4f} to {high:.4f}" if low is not None else ""
        best = f"   best {statistic['best']:.4f}" if name == "accuracy" and low is not None else ""
        print_result(f"  {name:{width}} {statistic['mean']:8.4f}{bounds}{best}")
    if "trial" in content:
        print_result("\n".join(table_of_trial(content["trial"], content["protocol"])))


def table_of_trial(rows: list[dict[str, Any]], protocol: dict[str, Any]) -> list[str]:
    """Return the lines that say what came of attacks: means over the seeds."""
    trial = protocol["trial"]
    what = f"attacked by {trial['attack']}" if trial["attack"] else "judged"
    made = f", made on {trial['source']}" if trial["source"] else ""
    names = list(rows[0]["figures"])
    lines = [
        f"{trial['num_images']} images {what}{made}",
        f"  {'epsilon':10}" + "".join(f"{name:>15}" for name in names),
    ]
    for row in rows:
        means = "".join(f"{row['figures'][name]['mean']:15.4f}" for name in names)
        lines.append(f"  {row['epsilon']:<10g}{means}")
    return lines
