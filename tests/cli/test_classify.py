"""``snngan classify``."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from snngan.data import to_unit_range
from snngan.data.datasets import load_dataset
from snngan.evaluation import load_classifier
from snngan.training.classifier import ClassifierTrainer

Cli = Callable[..., Any]
TINY = "--dataset digits --arch feedforward --set widths=16-8 --batch-size 64 --log-every 2 --device cpu"
RUN = Path("run")


@pytest.fixture
def trained(cli: Cli) -> str:
    """Return what was said of a run of 4 steps of two seeds."""
    said: str = cli(f"classify train {TINY} --steps 4 --checkpoint-every 2 --seeds 0:2 --alpha -0.1 --run-dir run").out
    return said


def test_what_is_said(trained: str, cli: Cli) -> None:
    for words in (
        "data       digits: 1618 images 1x8x8 of 10 classes, 179 held out",
        "network    feedforward (widths=16-8)",
        "loss       cross-entropy + -0.1 * entanglement of fc1, fc2 (sqeuclidean, T optimal)",
        "training   4 steps of 64, adam, learning rate 0.001, seeds 0, 1, fp32 on cpu",
        "run        run",
        "trained 4 steps",
        "over 2 seeds  best",
        "entanglement of fc2:",
        "snngan classify evaluate run",
    ):
        assert words in trained
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    tags = {"accuracy/test", "cross_entropy/train", "calibration_error/test", "entanglement/train/fc1",
            "loss/classifier", "loss/cross_entropy", "seed-1/accuracy/test"}  # fmt: skip
    assert tags <= lines[-1].keys()
    assert list(RUN.glob("events.*"))


def test_evaluate_reports_the_last_metrics_of_the_run(trained: str, cli: Cli) -> None:
    content = json.loads(cli("classify evaluate run --json").out)
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    metrics = content["metrics"]
    for name in ("accuracy", "cross_entropy", "calibration_error"):
        assert metrics[name]["mean"] == pytest.approx(last[f"{name}/test"])
        assert metrics[name]["values"] == pytest.approx([last[f"seed-{n}/{name}/test"] for n in (0, 1)])
    assert metrics["accuracy"]["best"] == max(metrics["accuracy"]["values"])
    assert metrics["cross_entropy"]["best"] == min(metrics["cross_entropy"]["values"])
    assert content["protocol"]["num_images"] == 179
    text = cli("classify evaluate run --split train").out
    assert "1618 images of digits train, step 4" in text
    assert re.search(r"accuracy +0\.\d+   95 %: .* best 0\.\d+", text)


def test_load_classifier_returns_the_network_of_each_seed(trained: str, cli: Cli) -> None:
    digits = load_dataset("digits", data_dir="data")
    assert digits.test_labels is not None
    expected = json.loads(cli("classify evaluate run --json").out)["metrics"]["cross_entropy"]["values"]
    losses = []
    for seed in (0, 1):
        network = load_classifier("run", seed)
        assert not network.training
        logits = network(to_unit_range(digits.test_images)).detach()
        losses.append(float(F.cross_entropy(logits, digits.test_labels)))
    assert losses == pytest.approx(expected, rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    weights, first = load_classifier(Path("run")).state_dict(), load_classifier("run", 0).state_dict()
    assert all(torch.equal(weights[name], first[name]) for name in weights)
    with pytest.raises(ValueError, match="seed must be one of the seeds of run, 0, 1, got 2"):
        load_classifier("run", 2)


def test_evaluate_under_attack_and_by_dknn(trained: str, cli: Cli) -> None:
    command = "classify evaluate run --attack bim --epsilon 0.1,0.3 --dknn --count 50"
    content = json.loads(cli(f"{command} --json").out)
    rows, text = content["attack_evaluation"], cli(command).out
    assert [row["epsilon"] for row in rows] == [0, 0.1, 0.3]
    for row in rows:
        assert set(row["metrics"]) == {"accuracy", "dknn_accuracy", "credibility", "confidence"}
        assert all(len(metric["values"]) == 2 for metric in row["metrics"].values())
        assert re.search(rf"{row['epsilon']:g} +{row['metrics']['accuracy']['mean']:.4f}", text)
    assert content["protocol"]["attack_evaluation"]["attack"] == "bim"
    assert "50 images evaluated by DkNN" in cli("classify evaluate run --dknn --count 50 --dknn-count 100").out


def test_evaluate_under_attacks_made_on_another_run(trained: str, cli: Cli) -> None:
    other = cli(
        f"classify train {TINY} --steps 4 --adversarial-training pgd:0.1:2 "
        "--set regularizer=triplet:0.5 --run-dir other"
    )
    assert "+ -0.003 * triplet:0.5 of fc1, fc2 (sqeuclidean), on images attacked by pgd:0.1:2" in other.out
    text = cli("classify evaluate run --attack fgsm --epsilon 0.1 --source other --reference digits").out
    assert "179 images attacked by fgsm, made on other" in text


def test_images_that_calibrate_are_not_evaluated_when_the_data_set_is_named(trained: str, cli: Cli) -> None:
    own, named = (
        json.loads(cli(f"classify evaluate run --dknn {more} --json").out) for more in ("", "--reference digits")
    )
    assert own == named
    assert own["protocol"]["attack_evaluation"]["num_images"] == 90


def test_a_single_seed_has_no_interval(cli: Cli) -> None:
    said = cli(f"classify train {TINY} --steps 1 --alpha 0 --seed 3 --run-dir run").out
    assert "loss       cross-entropy\n" in said
    assert "seed 3," in said
    assert "over" not in said
    assert "95 %" not in cli("classify evaluate run").out


def test_nothing_is_written_by_a_dry_run(cli: Cli) -> None:
    said = cli(f"classify train {TINY} --dry-run").out
    assert "run        runs/0001-digits-feedforward" in said
    assert "run        runs/0001-digits-cnn" in cli("classify train --dataset digits --dry-run").out
    assert not list(Path().iterdir())
    assert "widths=500-500-2000" in cli("classify train --arch feedforward --list-settings").out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_stops_saves_and_can_be_resumed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    command = f"classify train {TINY} --steps 6 --seeds 0:2 --run-dir {{}}"
    cli(command.format("unbroken"))
    calls, sound = 0, ClassifierTrainer.evaluate

    def evaluate(self: ClassifierTrainer, step: int) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 2:  # at step 2
            signal.raise_signal(number)
        return sound(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTrainer, "evaluate", evaluate)
        said = cli(command.format("run"), status)
    assert re.search(r"saved at step [23]; continue by: snngan resume run", said.out)
    assert "resuming run at step" in cli("resume run").out
    resumed, unbroken = (
        [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "unbroken")
    )
    assert resumed == unbroken
    assert "run is finished at step 6; to train longer: snngan resume run --steps 12" in cli("resume run").out
    assert "trained 8 steps" in cli("resume run --steps 8").out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("classify tran", "did you mean 'train'"),
        ("classify train --arch cnm", "unknown classifier 'cnm'; did you mean 'cnn'"),
        ("classify train --dataset digits --layers conv9", "no layer matches 'conv9'"),
        ("classify train --dataset digits --seeds 3:1", "--seeds must be 0:4"),
        ("classify train --dataset digits --temperature hot", "temperature must be a multiple"),
        ("classify train --dataset digits --distance manhattan", "'manhattan' is not one of"),
        ("classify train --dataset digits --batch-size 5000", "larger than the 1618 training images"),
        ("classify train --run-dir run", "run exists already"),
        ("classify evaluate nowhere", "no run folder nowhere"),
        (
            "classify evaluate run --reference gaussians",
            r"classifies images \(1, 8, 8\) into 10 classes; gaussians has",
        ),
        ("classify train --dataset digits --adversarial-training pdg:0.1", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("classify train --dataset digits --adversarial-training pgd:3", "epsilon must be above 0 and at most 1"),
        ("classify train --dataset digits --set regularizer=triplet", "regularizer must be snnl or triplet:MARGIN"),
        ("classify train --dataset digits --set regularizer=triplet:-1", "regularizer must be snnl or triplet:MARGIN"),
        ("classify evaluate run --attack bim", "give both, as --attack bim --epsilon 0.1,0.2"),
        ("classify evaluate run --epsilon 0.1", "give both, as --attack bim --epsilon 0.1,0.2"),
        (
            "classify evaluate run --attack bim --epsilon 0.1,x",
            "must be numbers separated by commas such as 0.1,0.2, got '0.1,x'",
        ),
        ("classify evaluate run --attack bim --epsilon 2", "epsilon must be above 0 and at most 1"),
        ("classify evaluate run --attack bmi --epsilon 0.1", "unknown attack 'bmi'; did you mean 'bim'"),
        ("classify evaluate run --attack-steps 3", r"steps \(--attack-steps\) is an option of an attack"),
        ("classify evaluate run --source run", r"source \(--source\) is the run that an attack is made on"),
        ("classify evaluate run --dknn --split train", "split must be test with --dknn"),
        ("classify evaluate run --dknn --dknn-count 9", "DkNN needs at least 75 training images, .* got 9"),
        ("classify evaluate run --dknn-count 90", r"dknn_count \(--dknn-count\) is an option of DkNN"),
        ("classify evaluate run --points 90", "no option --points: use --dknn-count"),
        ("classify evaluate run --against digits", "no option --against: use --reference"),
        ("classify evaluate run --count 90", r"count \(--count\) is the number of images to attack or evaluate"),
        ("classify evaluate run --attack fgsm --epsilon 0.1 --attack-steps 3", "fgsm has no option steps"),
        (
            "classify evaluate run --dknn --split train --reference digits",
            "searches among the training images: leave out --split",
        ),
        ("sample run --out grid.png", "run is the run of a classifier; this command needs the run of a generator"),
    ],
)
def test_mistakes(trained: str, refused: Cli, command: str, message: str) -> None:
    refused(command, message)


def test_data_that_changed_since_training_must_be_named(cli: Cli, refused: Cli) -> None:
    generator = np.random.default_rng(0)
    for size in (40, 42):
        np.savez("own.npz", train_images=generator.integers(0, 256, (size, 1, 8, 8), np.uint8),
                 train_labels=np.arange(size) % 2, test_images=generator.integers(0, 256, (8, 1, 8, 8), np.uint8),
                 test_labels=np.arange(8) % 2)  # fmt: skip
        if size == 40:
            cli("classify train --dataset npz:own.npz --arch feedforward --set widths=8 --batch-size 8 --steps 1 "
                "--device cpu --run-dir run")  # fmt: skip
            assert "8 images of" in cli("classify evaluate run").out
    for command in ("classify evaluate run", "classify evaluate run --dknn --reference npz:own.npz"):
        refused(command, "has changed since run was trained on it; to evaluate on the present data")
    assert "8 images of" in cli("classify evaluate run --reference npz:own.npz").out


def test_classes_of_folders_are_matched_by_name(cli: Cli, refused: Cli) -> None:
    def draw(folder: str, **shades: int) -> None:
        for name, shade in shades.items():
            Path(folder, name).mkdir(parents=True)
            for number in range(30):
                Image.new("L", (8, 8), shade + number % 5).save(Path(folder, name, f"{number}.png"))

    draw("pets", ant=10, cat=120, dog=240)
    draw("fewer", cat=120, dog=240)
    draw("others", dog=240, zebra=120)
    cli("classify train --dataset folder:pets --image-size 8 --arch feedforward --set widths=32 --batch-size 16 "
        "--steps 200 --learning-rate 0.01 --alpha 0 --device cpu --run-dir run")  # fmt: skip
    assert json.loads(Path("run/config.json").read_text())["config"]["class_names"] == ["ant", "cat", "dog"]
    for folder in ("pets", "fewer"):
        assert "accuracy            1.0000" in cli(f"classify evaluate run --reference folder:{folder}").out
    refused("classify evaluate run --reference folder:others", "must be those of the run, ant, cat, dog; got zebra")


def test_the_run_of_a_generator_is_refused(refused: Cli, run: Path) -> None:
    refused(f"classify evaluate {run}", "run is the run of a generator; this command needs the run of a classifier")


def test_images_without_labels(refused: Cli) -> None:
    np.savez("plain.npz", train_images=np.zeros((40, 1, 8, 8), np.uint8), test_images=np.zeros((9, 1, 8, 8), np.uint8))
    refused("classify train --dataset npz:plain.npz", "npz:plain.npz has no labels, and a classifier needs them")
