"""Losses and weights that are not finite: they end a run before they are saved, by a message that says what helps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from reference.runs import CPU, classifier_config, gan_config, metrics_of, new_run, state_of, train_run
from torch import Tensor, nn

from snngan.config import Config
from snngan.data import Dataset
from snngan.objectives import Batch, Discriminator, NonSaturating, PixelEntanglement
from snngan.training.divergence import DivergedError, LossMonitor, advise
from snngan.training.ensemble import SequentialEnsemble, VectorizedEnsemble
from snngan.training.gan import GanTrainer
from snngan.training.run_folder import open_run


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_a_generators_run(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, network: str, value: float
) -> None:
    run = new_run("run", gan_config(dataset, objective="gan"))
    normal, calls = getattr(NonSaturating, f"{network}_loss"), []

    def breaks_at_step_5(*args: Any) -> Tensor:
        calls.append(None)
        return normal(*args) * (value if len(calls) == 5 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(NonSaturating, f"{network}_loss", breaks_at_step_5)
        message = f"^step 5: the {network}'s loss is {value}; all weights are finite, .* Try a lower --learning-rate$"
        with pytest.raises(DivergedError, match=message):
            train_run(run, dataset)
    state = state_of(run)
    assert state["step"] == 4
    assert all(bool(part.isfinite().all()) for part in state["networks"]["generator"].values())
    assert [line["step"] for line in metrics_of(run)] == [0, 1, 2, 3, 4]
    assert train_run(open_run(run.path, Config), dataset, state).finished


def test_a_gradient_that_is_not_finite_ends_the_run(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run("run", gan_config(dataset))
    normal, calls = PixelEntanglement.generator_loss, []

    def breaks_at_step_4(self: PixelEntanglement, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        calls.append(None)
        loss = normal(self, discriminator, real, fake)
        return loss + (fake.images - fake.images).sum().sqrt() if len(calls) == 4 else loss

    monkeypatch.setattr(PixelEntanglement, "generator_loss", breaks_at_step_4)
    with pytest.raises(DivergedError, match=r"step 4: \d+ of the \d+ values of the generator's .* are not finite"):
        train_run(run, dataset)
    assert state_of(run)["step"] == 2
    assert [line["step"] for line in metrics_of(run)] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [SequentialEnsemble, VectorizedEnsemble])
def test_a_loss_that_is_not_finite_ends_a_classifiers_run(
    labeled: Dataset, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    calls, normal = [], kind.backward

    def breaks_at_step_5(*arguments: Any) -> Any:
        calls.append(None)
        losses, cross_entropies = normal(*arguments)
        return losses * torch.tensor([1, math.nan if len(calls) == 5 else 1]), cross_entropies

    monkeypatch.setattr(kind, "backward", breaks_at_step_5)
    ensemble = "sequential" if kind is SequentialEnsemble else "vectorized"
    run = new_run("run", classifier_config(labeled, seeds="0:2", ensemble=ensemble))
    message = "step 5: the network of seed 1's loss is nan; all weights are finite.* or an --alpha nearer to 0$"
    with pytest.raises(DivergedError, match=message):
        train_run(run, labeled)
    assert state_of(run)["step"] == 4


@pytest.mark.parametrize("ensemble", ["sequential", "vectorized"])
def test_classifiers_weights_that_are_not_finite_end_the_run(
    labeled: Dataset, monkeypatch: pytest.MonkeyPatch, ensemble: str
) -> None:
    run = new_run("run", classifier_config(labeled, seeds="0:2", ensemble=ensemble, learning_rate=1.0))
    monkeypatch.setattr("snngan.training.classifier.interpolate_geometrically", lambda *_: math.inf)
    with pytest.raises(DivergedError, match=r"step 1: \d+ of the \d+ values of the network of seed 0's .* are not"):
        train_run(run, labeled)


@pytest.mark.parametrize("name", ["generator", "discriminator", "ema_generator"])
def test_a_weight_that_is_not_finite_is_named(dataset: Dataset, name: str) -> None:
    trainer = GanTrainer(gan_config(dataset, objective="gan"), dataset, CPU)
    trainer.check_weights(3)
    with torch.no_grad():
        list(trainer.networks()[name].parameters())[-1][0] = math.inf
    with pytest.raises(DivergedError, match=f"step 3: 1 of the .* values of the {name}'s .*bias are not finite"):
        trainer.check_weights(3)


def test_what_an_optimizer_keeps_must_be_finite(dataset: Dataset) -> None:
    """A weight whose squared gradient overflows never moves again."""
    trainer = GanTrainer(gan_config(dataset, objective="gan"), dataset, CPU)
    trainer.step(1)
    name, parts = next(iter(trainer.optimizer_states()["discriminator"].items()))
    parts["exp_avg_sq"].flatten()[0] = math.inf
    message = f"step 1: 1 of the .* values of exp_avg_sq of the discriminator's {name} are not finite"
    with pytest.raises(DivergedError, match=message):
        trainer.check_weights(1)


def test_images_of_the_average_must_be_finite(dataset: Dataset) -> None:
    trainer = GanTrainer(gan_config(dataset), dataset, CPU)
    with torch.no_grad():
        list(trainer.ema_generator.parameters())[-1][0] = math.nan
    with pytest.raises(DivergedError, match="step 2: the images of the EMA generator are not finite"):
        trainer.evaluate(2)


def test_data_that_are_not_finite_are_named(points: Dataset) -> None:
    broken = points.train_images.clone()
    broken[:, 0, 0, 0] = math.nan
    data = dataclasses.replace(points, train_images=broken)
    run = new_run("run", gan_config(data, objective="gan"))
    with pytest.raises(DivergedError, match=r"step 1: .* the real images hold NaN or infinity. Correct the data"):
        train_run(run, data)


def test_losses_are_kept_until_they_are_read() -> None:
    losses = LossMonitor()
    assert losses.read() == []
    losses.add(1, {"generator": torch.tensor(1.5)})
    losses.add(2, {"generator": torch.tensor(2.5, requires_grad=True), "classifier": torch.tensor([0.5, 0.25])})
    assert losses.read() == [(1, "generator", [1.5]), (2, "generator", [2.5]), (2, "classifier", [0.5, 0.25])]
    assert losses.read() == []


def test_advice(dataset: Dataset, labeled: Dataset) -> None:
    huge = nn.Linear(2, 1)
    nn.init.constant_(huge.weight, 1e5)
    gan, classifier = gan_config(dataset, precision="bf16"), classifier_config(labeled)
    assert advise(gan, {}) == "Try a lower --learning-rate, or --precision fp32"
    assert advise(classifier, {}) == "Try a lower --learning-rate, or an --alpha nearer to 0"
    assert advise(classifier_config(labeled, alpha=0.0), {}) == "Try a lower --learning-rate"
    assert advise(gan, {"discriminator": huge}).endswith("such as wgan-gp or hinge")
