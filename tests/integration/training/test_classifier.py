"""The trainer of classifiers: its loss, its schedules, and what it measures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference.runs import CPU, classifier_config, metrics_of, new_run, state_of, train_run
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.checkpoint import CheckpointError
from snngan.config import Config
from snngan.data import Dataset
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.losses.triplet import triplet_loss
from snngan.models import CLASSIFIERS
from snngan.robustness.attacks import parse_attack
from snngan.training.classifier import (
    ClassifierTrainer,
    calibration_error,
    interpolate_geometrically,
    interpolate_linearly,
)
from snngan.training.ensemble import SequentialEnsemble
from snngan.training.run_folder import open_run

SMALL = {"cnn": "width=4", "cnn-small": "width=4", "feedforward": "widths=16-8", "resnet15": "width=2"}
"""An option that keeps a network tiny; torchvision's have none."""


def as_images(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def hidden_layers(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what the two hidden layers of a feedforward network put out."""
    first = network[1](network[0](images))
    return [first, network[2](first)]


def layer_losses(data: Dataset, size: int, **options: Any) -> list[tuple[Tensor, nn.Module, Tensor, Tensor]]:
    """Return loss - cross-entropy, network, images and labels of each network at one step with alpha 2."""
    trainer = ClassifierTrainer(classifier_config(data, **options), data, CPU)
    count = len(trainer.config.seed_list)
    assert data.train_labels is not None
    images = as_images(data.train_images[: count * size]).view(count, size, *data.image_shape)
    labels = data.train_labels[: count * size].view(count, size)
    losses, cross_entropies = trainer.ensemble.backward(images, labels, 2.0)
    return list(zip(losses - cross_entropies, trainer.ensemble.networks(), images, labels, strict=True))


def test_the_triplet_loss_replaces_entanglement(labeled: Dataset) -> None:
    ((loss, network, images, labels),) = layer_losses(labeled, 24, regularizer="triplet:0.5", distance="cosine")
    by_hand = sum(triplet_loss(layer, labels, 0.5, "cosine") for layer in hidden_layers(network, images))
    torch.testing.assert_close(loss, 2 * by_hand)


@pytest.mark.parametrize("ensemble", ["sequential", "vectorized"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "min"])
def test_reductions_over_layers(labeled: Dataset, ensemble: str, reduction: str) -> None:
    options = {"seeds": "0:2", "ensemble": ensemble, "temperature": "absolute:1", "layer_reduction": reduction}
    for loss, network, images, labels in layer_losses(labeled, 24, **options):
        values = torch.stack(
            [soft_nearest_neighbor_loss(layer, labels, 1.0) for layer in hidden_layers(network, images)]
        )
        torch.testing.assert_close(
            loss, 2 * {"sum": values.sum(), "mean": values.mean(), "min": values.min()}[reduction]
        )


@pytest.mark.parametrize("arch", CLASSIFIERS.names())
def test_every_classifier_trains_and_its_hidden_layers_are_measured(labeled: Dataset, arch: str) -> None:
    config = classifier_config(labeled, arch=arch, set=(SMALL[arch],) if arch in SMALL else (), steps=1)
    trainer = ClassifierTrainer(config, labeled, CPU)
    (network,) = trainer.ensemble.networks()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    trainer.step(1)
    assert [name for name, weight in network.named_parameters() if torch.equal(weight, before[name])] == []
    found = trainer.evaluate(1)
    assert trainer.config.layer_names
    for half in ("train", "test"):
        assert all(0 <= found[f"entanglement/{half}/{layer}"] < 3 for layer in trainer.config.layer_names)
        assert {f"accuracy/{half}", f"cross_entropy/{half}", f"calibration_error/{half}"} <= found.keys()


def test_it_learns_and_the_metrics_are_right(labeled: Dataset) -> None:
    config = classifier_config(labeled, steps=150, log_every=150, learning_rate=0.01)
    trainer = ClassifierTrainer(config, labeled, CPU)
    for step in range(1, 151):
        trainer.step(step)
    found = trainer.evaluate(150)
    assert found["accuracy/test"] > 0.95
    (network,) = trainer.ensemble.networks()
    halves = {
        "train": (labeled.train_images, labeled.train_labels),
        "test": (labeled.test_images, labeled.test_labels),
    }
    for half, (images, labels) in halves.items():
        assert labels is not None
        with torch.no_grad():
            logits, layers = network.eval()(as_images(images)), hidden_layers(network, as_images(images))
        assert found[f"cross_entropy/{half}"] == pytest.approx(float(F.cross_entropy(logits, labels)))
        assert found[f"accuracy/{half}"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
        for name, layer in zip(("fc1", "fc2"), layers, strict=True):
            value = soft_nearest_neighbor_loss(layer, labels, "optimal")
            assert found[f"entanglement/{half}/{name}"] == pytest.approx(float(value), rel=1e-4)
    assert f"held out      accuracy {found['accuracy/test']:.2%}" in trainer.summarize(found)[1]


def test_adversarial_training_makes_it_robust(labeled: Dataset) -> None:
    attack, accuracies = parse_attack("pgd:0.2:10"), []
    assert labeled.test_labels is not None
    for adversarial_training in (None, "pgd:0.2:3"):
        config = classifier_config(
            labeled, steps=150, alpha=0.0, adversarial_training=adversarial_training, learning_rate=0.01
        )
        trainer = ClassifierTrainer(config, labeled, CPU)
        for step in range(1, 151):
            trainer.step(step)
        (network,) = trainer.ensemble.networks()
        random = torch.Generator().manual_seed(0)
        attacked = attack(network.eval(), as_images(labeled.test_images), labeled.test_labels, generator=random)
        accuracies.append(float((network(attacked).argmax(1) == labeled.test_labels).double().mean()))
    assert accuracies[1] > accuracies[0] + 0.2


def test_metrics_of_several_seeds_and_their_mean(labeled: Dataset) -> None:
    together = ClassifierTrainer(classifier_config(labeled, seeds="1,5"), labeled, CPU).evaluate(0)
    for seed in (1, 5):
        alone = ClassifierTrainer(classifier_config(labeled, seed=seed), labeled, CPU).evaluate(0)
        for tag, value in alone.items():
            assert together[f"seed-{seed}/{tag}"] == pytest.approx(value, rel=1e-6)
    for tag in ("cross_entropy/test", "entanglement/train/fc2"):
        assert together[tag] == pytest.approx((together[f"seed-1/{tag}"] + together[f"seed-5/{tag}"]) / 2)


def test_alpha_and_learning_rate_follow_their_schedules_and_stay_at_the_end(
    labeled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    backward = SequentialEnsemble.backward

    def note(ensemble: SequentialEnsemble, images: Any, labels: Any, alpha: float) -> Any:
        seen.append((alpha, ensemble.optimizer.param_groups[0]["lr"]))
        return backward(ensemble, images, labels, alpha)

    monkeypatch.setattr(SequentialEnsemble, "backward", note)
    options = {"alpha": -0.3, "alpha_final": 0.1, "learning_rate": 0.4, "learning_rate_final": 0.004}
    run = new_run("run", classifier_config(labeled, steps=3, **options))
    train_run(run, labeled)
    again = open_run(run.path, Config)
    again.set_steps(5)
    train_run(again, labeled, state_of(run))
    expected = [(-0.3, 0.4), (-0.1, 0.04), (0.1, 0.004), (0.1, 0.004), (0.1, 0.004)]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))


def test_schedules() -> None:
    assert [interpolate_linearly(-2.0, 2.0, step, 5) for step in (1, 2, 3, 4, 5)] == [-2, -1, 0, 1, 2]
    assert [interpolate_geometrically(0.4, 0.004, step, 3) for step in (1, 2, 3)] == pytest.approx([0.4, 0.04, 0.004])
    assert interpolate_geometrically(0.4, 0.0, 3, 3) == 0
    assert interpolate_linearly(1.0, 5.0, 1, 1) == interpolate_geometrically(1.0, 5.0, 1, 1) == 1
    assert interpolate_linearly(3.0, None, 2, 5) == interpolate_geometrically(3.0, None, 2, 5) == 3


def test_bf16_is_near_fp32_and_differs(labeled: Dataset) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = ClassifierTrainer(classifier_config(labeled, precision=precision), labeled, CPU)
        losses.append(trainer.step(1)["classifier"].item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_calibration_error() -> None:
    sure = torch.tensor([[9.0, -9.0]] * 4)
    assert float(calibration_error(sure, torch.tensor([0, 0, 0, 0]))) == pytest.approx(0, abs=1e-6)
    assert float(calibration_error(sure, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.5, abs=1e-6)
    # 0.6 and 0.8 sure, in two bins: |1 - 0.6| / 2 + |0 - 0.8| / 2
    mixed = torch.tensor([[0.6, 0.4], [0.8, 0.2]]).log()
    assert float(calibration_error(mixed, torch.tensor([0, 1]))) == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "0:2"}, "its seeds differ"),
        ({"seed": 7}, "its seeds differ"),
        ({"set": ("widths=32",)}, "its network differs"),
        ({"optimizer": "rmsprop"}, "its optimizer differs"),
    ],
)
def test_a_checkpoint_of_other_networks_is_refused(labeled: Dataset, options: dict[str, Any], message: str) -> None:
    run = new_run("run", classifier_config(labeled))
    train_run(run, labeled)
    with pytest.raises(CheckpointError, match=rf"does not fit the run's config\.json: {message}"):
        ClassifierTrainer(classifier_config(labeled, **options), labeled, CPU, state_of(run))


def test_the_description(labeled: Dataset) -> None:
    options = {"alpha_final": 1.0, "adversarial_training": "pgd:0.1:2", "seeds": "0:2", "learning_rate_final": 1e-4}
    trainer = ClassifierTrainer(classifier_config(labeled, **options), labeled, CPU)
    assert trainer.describe() == [
        "data       rows: 96 images 1x8x8 of 3 classes, 48 held out",
        "network    feedforward (widths=16-8)",
        "loss       cross-entropy + (-0.1 to 1) * entanglement of fc1, fc2 (sqeuclidean, T optimal), "
        "on images attacked by pgd:0.1:2",
        "training   6 steps of 24, adam, learning rate 0.001 to 0.0001, seeds 0, 1, fp32 on cpu",
    ]


def test_metrics_are_written(labeled: Dataset) -> None:
    run = new_run("run", classifier_config(labeled, steps=2))
    outcome = train_run(run, labeled)
    last = metrics_of(run)[-1]
    assert outcome.metrics == {tag: value for tag, value in last.items() if tag != "step"}
    assert {"loss/classifier", "loss/cross_entropy", "accuracy/train", "entanglement/test/fc2"} <= last.keys()
    assert math.isclose(metrics_of(run)[0]["cross_entropy/test"], math.log(3), rel_tol=0.5)
