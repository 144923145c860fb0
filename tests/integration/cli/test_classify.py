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
from integration.cli.conftest import CLASSIFIER
from PIL import Image
from torch.nn import functional as F

from snngan.data import to_unit_range
from snngan.data.datasets import load_dataset
from snngan.evaluation import load_classifier
from snngan.training.classifier import ClassifierTrainer

Cli = Callable[..., Any]


def test_train(cli: Cli) -> None:
    said = cli(f"classify train {CLASSIFIER} --steps 4 --seeds 0:2 --alpha -0.1 --run-dir run").out
    for words in (
        "data       digits: 1618 images 1x8x8 of 10 classes, 179 held out",
        "network    feedforward (widths=16-8)",
        "loss       cross-entropy + -0.1 * entanglement of fc1, fc2 (sqeuclidean, T optimal)",
        "training   4 steps of 64, adam, learning rate 0.001, seeds 0, 1, fp32 on cpu",
        "run        run",
        "trained 4 steps",
        "over 2 seeds  best",
        "entanglement of fc2:",
    ):
        assert words in said
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    tags = {"accuracy/test", "cross_entropy/train", "calibration_error/test", "entanglement/train/fc1",
            "loss/classifier", "loss/cross_entropy", "seed-1/accuracy/test"}  # fmt: skip
    assert tags <= lines[-1].keys()


def test_evaluate_reports_the_last_metrics_of_the_run(classifier: Path, cli: Cli) -> None:
    content = json.loads(cli(f"classify evaluate {classifier} --json").out)
    last = json.loads((classifier / "metrics.jsonl").read_text().splitlines()[-1])
    metrics = content["metrics"]
    for name in ("accuracy", "cross_entropy", "calibration_error"):
        assert metrics[name]["mean"] == pytest.approx(last[f"{name}/test"])
        assert metrics[name]["values"] == pytest.approx([last[f"seed-{n}/{name}/test"] for n in (0, 1)])
    assert metrics["accuracy"]["best"] == max(metrics["accuracy"]["values"])
    assert metrics["cross_entropy"]["best"] == min(metrics["cross_entropy"]["values"])
    assert content["protocol"]["num_images"] == 179
    text = cli(f"classify evaluate {classifier} --split train").out
    assert "1618 images of digits train, step 4" in text
    assert re.search(r"accuracy +0\.\d+   95 %: .* best 0\.\d+", text)


def test_load_classifier_returns_the_network_of_each_seed(classifier: Path, cli: Cli) -> None:
    digits = load_dataset("digits")
    assert digits.test_labels is not None
    expected = json.loads(cli(f"classify evaluate {classifier} --json").out)["metrics"]["cross_entropy"]["values"]
    networks = [load_classifier(classifier, seed) for seed in (0, 1)]
    logits = [network(to_unit_range(digits.test_images)).detach() for network in networks]
    assert [float(F.cross_entropy(each, digits.test_labels)) for each in logits] == pytest.approx(expected, rel=1e-6)
    assert not networks[0].training
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)
    with pytest.raises(ValueError, match=r"seed must be one of the seeds of .*, 0, 1, got 2"):
        load_classifier(classifier, 2)


def test_evaluate_under_attack_and_by_dknn(classifier: Path, cli: Cli) -> None:
    command = f"classify evaluate {classifier} --attack bim --epsilon 0.1,0.3 --dknn --count 50"
    content = json.loads(cli(f"{command} --json").out)
    rows, text = content["attack_evaluation"], cli(command).out
    assert [row["epsilon"] for row in rows] == [0, 0.1, 0.3]
    for row in rows:
        assert set(row["metrics"]) == {"accuracy", "dknn_accuracy", "credibility", "confidence"}
        assert all(len(metric["values"]) == 2 for metric in row["metrics"].values())
        assert re.search(rf"{row['epsilon']:g} +{row['metrics']['accuracy']['mean']:.4f}", text)
    assert content["protocol"]["attack_evaluation"]["attack"] == "bim"


def test_images_that_calibrate_are_not_evaluated_when_the_data_set_is_named(classifier: Path, cli: Cli) -> None:
    own, named = (
        json.loads(cli(f"classify evaluate {classifier} --dknn {more} --json").out)
        for more in ("", "--reference digits")
    )
    assert own == named
    assert own["protocol"]["attack_evaluation"]["num_images"] == 90


def test_a_single_seed_and_attacks_made_on_another_run(cli: Cli, classifier: Path) -> None:
    options = "--steps 2 --seed 3 --adversarial-training pgd:0.1:2 --set regularizer=triplet:0.5 --run-dir run"
    said = cli(f"classify train {CLASSIFIER} {options}").out
    assert "+ -0.003 * triplet:0.5 of fc1, fc2 (sqeuclidean), on images attacked by pgd:0.1:2" in said
    assert "seed 3," in said
    assert "over" not in said
    assert "95 %" not in cli("classify evaluate run").out
    text = cli(f"classify evaluate {classifier} --attack fgsm --epsilon 0.1 --source {classifier}").out
    assert f"179 images attacked by fgsm, made on {classifier}" in text


def test_nothing_is_written_by_a_dry_run(cli: Cli) -> None:
    assert "run        runs/0001-digits-feedforward" in cli(f"classify train {CLASSIFIER} --dry-run").out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_stops_equals_the_unbroken_one_after_resuming(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    command = f"classify train {CLASSIFIER} --steps 6 --seeds 0:2 --run-dir {{}}"
    original = ClassifierTrainer.step

    def step(trainer: ClassifierTrainer, at: int) -> Any:
        if at == 3:
            signal.raise_signal(number)
        return original(trainer, at)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTrainer, "step", step)
        assert "saved at step 3; continue by: snngan resume run" in cli(command.format("run"), status).out
    assert "resuming run at step 3 of 6" in cli("resume run").out
    cli(command.format("whole"))
    assert Path("run/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()
    for seed in (0, 1):
        first, second = (load_classifier(name, seed).state_dict() for name in ("run", "whole"))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_data_that_changed_since_training_must_be_named(cli: Cli, refused: Cli) -> None:
    generator = np.random.default_rng(0)

    def save(size: int) -> None:
        images = generator.integers(0, 256, (size + 8, 1, 8, 8), np.uint8)
        labels = np.arange(size + 8) % 2
        np.savez("own.npz", train_images=images[:size], train_labels=labels[:size], test_images=images[size:],
                 test_labels=labels[size:])  # fmt: skip

    save(40)
    cli("classify train --dataset npz:own.npz --arch feedforward --set widths=8 --batch-size 8 --steps 1 --run-dir run")
    assert "8 images of" in cli("classify evaluate run").out
    save(42)
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
    for folder in ("pets", "fewer"):
        assert "accuracy            1.0000" in cli(f"classify evaluate run --reference folder:{folder}").out
    refused("classify evaluate run --reference folder:others", "must be those of the run, ant, cat, dog; got zebra")
