"""The trainer of generators: its networks, its average, and what it measures."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from reference.runs import CPU, gan_config, metrics_of, new_run, state_of, train_run
from reference.states import differences
from torch import Tensor, nn
from torch.testing import assert_close

from snngan.config import TrainConfig
from snngan.data import Dataset
from snngan.losses.snnl import entanglement, soft_nearest_neighbor_loss
from snngan.objectives import OBJECTIVES, Batch
from snngan.training.gan import GanTrainer
from snngan.training.resolve import check_config
from snngan.training.run_folder import RunFolder
from snngan.training.trainer import train

ON_OBJECTIVES = pytest.mark.parametrize("objective", OBJECTIVES.names())


def gan(data: Dataset, *settings: str, **options: Any) -> GanTrainer:
    return GanTrainer(gan_config(data, *settings, **options), data, CPU)


def weights_of(trainer: GanTrainer) -> dict[str, Any]:
    return copy.deepcopy(trainer.state_dict()["networks"])


@ON_OBJECTIVES
def test_weights_follow_from_the_seed(dataset: Dataset, objective: str) -> None:
    states = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        trainer = gan(dataset, objective=objective, seed=seed)
        states.append([weights_of(trainer)["generator"], trainer.step(1), weights_of(trainer)])
    assert differences(states[0], states[1]) == []
    assert all(differences(first, third) for first, third in zip(states[0], states[2], strict=True))


@ON_OBJECTIVES
def test_networks_and_embeddings(dataset: Dataset, objective: str) -> None:
    trainer = gan(dataset, objective=objective)
    dim = trainer.objective.discriminator_dim
    assert ("discriminator" in trainer.networks()) == (dim is not None)
    assert trainer.sample(torch.randn(5, 8)).shape == (5, 1, 8, 8)
    embeddings = trainer.embed(Batch(torch.zeros(5, 1, 8, 8)))
    assert (None if embeddings is None else embeddings.shape) == (None if dim in (None, 1) else (5, dim))
    assert trainer.discriminator.training


@ON_OBJECTIVES
def test_every_network_learns(dataset: Dataset, objective: str) -> None:
    trainer = gan(dataset, objective=objective)
    before = weights_of(trainer)
    for step in (1, 2):
        trainer.step(step)
    after = weights_of(trainer)
    for network in before:
        assert differences(before[network], after[network]) or network == "objective"


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.999])
def test_the_average_equals_a_loop_over_the_generators_weights(dataset: Dataset, decay: float) -> None:
    trainer = gan(dataset, "generator_norm=batch", objective="gan", ema_decay=decay)
    average = weights_of(trainer)["generator"]
    assert differences(average, weights_of(trainer)["ema_generator"]) == []
    for step in range(1, 6):
        trainer.step(step)
        kept = min(decay, step / (step + 10))
        for name, new in weights_of(trainer)["generator"].items():
            # A count of batches is copied.
            average[name] = kept * average[name] + (1 - kept) * new if new.is_floating_point() else new
        assert_close(weights_of(trainer)["ema_generator"], average)
    assert not trainer.ema_generator.training
    assert not any(weight.requires_grad for weight in trainer.ema_generator.parameters())


def test_a_discriminator_learning_rate_of_0_leaves_it_alone(dataset: Dataset) -> None:
    trainer = gan(dataset, "discriminator_learning_rate=0", objective="gan")
    before = copy.deepcopy([dict(each.named_parameters()) for each in (trainer.discriminator, trainer.generator)])
    trainer.step(1)
    assert differences(before[0], dict(trainer.discriminator.named_parameters())) == []
    assert differences(before[1], dict(trainer.generator.named_parameters()))


def test_the_critic_is_clipped_after_its_update(dataset: Dataset) -> None:
    trainer = gan(dataset, "clip=0.005", objective="wgan")
    trainer.step(1)
    assert max(float(weight.detach().abs().max()) for weight in trainer.discriminator.parameters()) <= 0.0051


def test_several_discriminator_steps_take_several_batches(dataset: Dataset) -> None:
    positions = []
    for steps in (1, 3):
        trainer = gan(dataset, f"discriminator_steps={steps}", objective="gan")
        trainer.step(1)
        positions.append(trainer.state_dict()["batches"]["position"])
    assert positions == [16, 48]


@ON_OBJECTIVES
def test_in_bf16_losses_and_weights_stay_float32(dataset: Dataset, objective: str) -> None:
    trainer = gan(dataset, objective=objective, precision="bf16")
    losses = [loss for step in (1, 2) for loss in trainer.step(step).values()]
    # Means of 16 bf16 numbers that were taken in bf16 have 8 digits; some loss of float32 numbers has more.
    assert any(loss != loss.bfloat16() for loss in losses)
    assert all(weight.dtype == torch.float32 for weight in trainer.generator.parameters())


@pytest.mark.parametrize("arch", ["dcgan", "sngan"])
@pytest.mark.parametrize("objective", ["gan", "wgan-gp", "snnl-projected"])
def test_channels_last_changes_nothing(
    colors: Dataset, monkeypatch: pytest.MonkeyPatch, arch: str, objective: str
) -> None:
    """As networks lie on a GPU in bf16 and TF32."""
    losses = []
    for layout in (torch.contiguous_format, torch.channels_last):
        monkeypatch.setattr("snngan.training.gan.choose_layout", lambda device, precision, own=layout: own)
        trainer = gan(colors, objective=objective, arch=arch, set=("width=8",))
        losses.append([float(loss) for step in (1, 2) for loss in trainer.step(step).values()])
    weights = [each for each in trainer.generator.parameters() if each.dim() == 4]
    assert any(not each.is_contiguous() for each in weights)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def everything(trainer: GanTrainer) -> dict[str, Any]:
    """Return the trainer's state, the modes of its networks, and every generator that could be drawn from."""
    networks = trainer.networks().values()
    return {
        "state": copy.deepcopy(trainer.state_dict()),
        "modes": [module.training for network in networks for module in network.modules()],
        "grads": [weight.requires_grad for network in networks for weight in network.parameters()],
        "numpy": np.random.get_state()[1].tolist(),
        "python": repr(random.getstate()),
    }


@pytest.mark.parametrize("objective", ["snnl-pixel", "gan", "snnl-projected", "mmd"])
def test_measuring_entanglement_changes_nothing_and_repeats(dataset: Dataset, objective: str) -> None:
    norms = [] if objective == "snnl-pixel" else ["spectral_norm=true", "discriminator_norm=batch"]
    config = gan_config(dataset, "generator_norm=batch", *norms, objective=objective)
    trainer, run = GanTrainer(config, dataset, CPU), new_run("run", config)
    before = everything(trainer)
    first = trainer.evaluate(6)
    trainer.log_artifacts(run, 6)
    assert differences(before, everything(trainer)) == []
    assert trainer.evaluate(6) == first
    assert GanTrainer(config, dataset, CPU).evaluate(6) == first
    assert ("entanglement/projection" in first) == (objective in ("snnl-projected", "mmd"))


def test_the_entanglement_is_that_of_held_out_and_synthetic_images(dataset: Dataset) -> None:
    trainer = gan(dataset)
    held_out = dataset.test_images.float() / 127.5 - 1

    class Memory(nn.Module):
        """A generator that returns the held-out images."""

        def forward(self, latents: Tensor) -> Tensor:
            return held_out[torch.arange(len(latents)) % len(held_out)]

    far = trainer.evaluate(1)
    trainer.ema_generator = Memory()
    near = trainer.evaluate(1)
    assert near["entanglement/input_score"] > 0.9 > far["entanglement/input_score"]
    for found in (near, far):
        anchors = (found["entanglement/real_anchors"] + found["entanglement/fake_anchors"]) / 2
        assert_close(anchors, found["entanglement/input"])
    both = torch.cat([held_out, held_out]).flatten(1)
    value = soft_nearest_neighbor_loss(both, torch.arange(32) // 16, near["entanglement/temperature"])
    assert near["entanglement/input"] == pytest.approx(float(value), rel=1e-4)


def test_metrics_are_measured_at_their_interval_and_at_the_end(dataset: Dataset) -> None:
    shapes = []

    def measure(trainer: GanTrainer, number: int) -> dict[str, float]:
        shapes.append(trainer.sample(torch.zeros(3, trainer.latent_dim)).shape)
        return {"metrics/count": float(len(shapes))}

    config = gan_config(dataset, steps=5, metrics_every=2, log_every=3)
    run: RunFolder[TrainConfig] = new_run("run", config)
    outcome = train(GanTrainer(config, dataset, CPU, metrics=measure), run)
    assert shapes == [(3, 1, 8, 8)] * 3
    found = {line["step"]: line.get("metrics/count") for line in metrics_of(run)}
    assert found == {0: None, 2: 1.0, 3: None, 4: 2.0, 5: 3.0}
    assert outcome.metrics["metrics/count"] == 3


def test_ranks_without_metrics_read_losses_at_the_same_steps(dataset: Dataset) -> None:
    """Reading losses is a collective operation, and only the main process has metrics."""
    config = gan_config(dataset, steps=5, metrics_every=2, log_every=3)
    assert GanTrainer(config, dataset, CPU).metrics_every == 2
    run = new_run("run", config)
    train(GanTrainer(config, dataset, CPU), run)
    assert [line["step"] for line in metrics_of(run)] == [0, 3, 5]


def test_a_compiled_run_equals_the_plain_one(dataset: Dataset) -> None:
    states = []
    for name, compiles in (("plain", False), ("compiled", True)):
        run = new_run(name, gan_config(dataset, compile=compiles, steps=3))
        train_run(run, dataset)
        states.append(state_of(run)["networks"])
    assert list(states[0]["generator"]) == list(states[1]["generator"])  # a checkpoint is one of both
    for part in ("generator", "ema_generator"):
        assert_close(states[1][part], states[0][part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "factors"),
    [
        ("none", [1, 1, 1, 1, 1, 1]),
        ("linear", [1, 1, 1, 1, 2 / 3, 1 / 3]),  # over the second half
        ("cosine", [1, 0.933, 0.75, 0.5, 0.25, 0.067]),
    ],
)
def test_learning_rates_decay(dataset: Dataset, how: str, factors: list[float]) -> None:
    settings = ("discriminator_learning_rate=0.01", f"learning_rate_decay={how}")
    config = gan_config(dataset, *settings, objective="gan", steps=6)
    trainer, rates = GanTrainer(config, dataset, CPU), []
    for number in range(1, 9):  # two steps longer than planned
        trainer.step(number)
        optimizers = trainer.generator_optimizer, trainer.discriminator_optimizer
        rates.append([each.param_groups[0]["lr"] for each in optimizers if each is not None])
    last = [1.0] * 2 if how == "none" else [0.02] * 2
    expected = torch.tensor([[1e-3, 0.01]]) * torch.tensor([*factors, *last])[:, None]
    assert_close(torch.tensor(rates), expected, rtol=1e-2, atol=0)


def test_a_cuda_graph_needs_a_constant_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snngan.training.resolve.choose_device", lambda name: torch.device("cuda"))
    with pytest.raises(ValueError, match=r"--cuda-graph needs a learning rate that does not change"):
        check_config(TrainConfig(cuda_graph=True, learning_rate_decay="cosine"))
    check_config(TrainConfig(cuda_graph=True))


def test_entanglement_is_tracked_in_each_class_and_each_space(labeled: Dataset) -> None:
    named = dataclasses.replace(labeled, class_names=("dark", "gray", "bright"))
    config = gan_config(named, objective="snnl-features", batch_size=18, conditional=True)
    trainer = GanTrainer(config, named, CPU)
    trainer.prepare()
    found = trainer.evaluate(1)
    assert trainer.held_out_labels is not None
    fake = trainer.sample(trainer.fixed_latents[: len(trainer.held_out)], trainer.held_out_labels)
    for label, name in enumerate(named.class_names):
        rows = trainer.held_out_labels == label
        assert found[f"entanglement/class/{name}"] == entanglement(trainer.held_out[rows], fake[rows]).score
    features = [trainer.objective.embed(images)["classifier/fc"] for images in (trainer.held_out, fake)]
    assert found["entanglement/space/classifier.fc"] == entanglement(*features).score
