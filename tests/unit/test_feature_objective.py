"""The objective in feature spaces: its loss, the features of real images, its classifier, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.runs import CPU, classifier_config, gan_config, new_run, train_run
from torch import Tensor
from torch.testing import assert_close

from snngan.data import Dataset, to_unit_range
from snngan.data.datasets import load_dataset
from snngan.evaluation import load_classifier
from snngan.evaluation.features import choose_extractor
from snngan.evaluation.sources import Reader
from snngan.objectives import Batch, FeatureEntanglement
from snngan.objectives.encoder import load_or_train_encoder, summarize_maps, train_encoder
from snngan.objectives.snnl import PixelEntanglement
from snngan.training.gan import GanTrainer
from snngan.training.resolve import build_objective

ROWS = torch.arange(18)


def build(data: Dataset, **options: Any) -> FeatureEntanglement:
    """Return the objective, with an untrained classifier."""
    given = {"form": "log-odds", "temperature": "0.2", **options}
    config = gan_config(data, objective="snnl-features", batch_size=18, objective_options=given)
    objective = build_objective(config)
    assert isinstance(objective, FeatureEntanglement)
    return objective


def batches(data: Dataset) -> tuple[Batch, Batch]:
    assert data.train_labels is not None
    real, labels = to_unit_range(data.train_images[ROWS]), data.train_labels[ROWS]
    generator = torch.Generator().manual_seed(0)
    fake = (2 * torch.rand(18, 1, 8, 8, generator=generator) - 1).requires_grad_()
    return Batch(real, labels, ROWS), Batch(fake, labels)


def no_discriminator(batch: Batch) -> Tensor:
    raise AssertionError


def double(images: Tensor) -> Tensor:
    return 2 * images.flatten(1)


def test_the_loss_is_the_weighted_sum_over_the_spaces(labeled: Dataset) -> None:
    objective = build(labeled, features="pixels,classifier", layers="conv1,fc", pixel_weight=2.5)
    real, fake = batches(labeled)
    alone = PixelEntanglement(PixelEntanglement.make_options({"form": "log-odds", "temperature": "0.2"}))
    alone.num_classes = 3
    encoder = objective.encoders["1"]
    expected = 2.5 * alone.generator_loss(no_discriminator, real, fake)
    for layers in ((), ("conv1",), ("conv1", "flat", "fc"))[1:]:
        sides = []
        for batch in (real, fake):
            output = encoder.blocks(batch.images)
            for name in layers:
                output = encoder.get_submodule(name)(output)
            sides.append(Batch(summarize_maps(output), batch.labels))
        expected = expected + alone.generator_loss(no_discriminator, *sides)
    loss = objective.generator_loss(no_discriminator, real, fake)
    assert_close(loss, expected)
    loss.backward()
    assert fake.images.grad is not None and fake.images.grad.any()
    assert all(weight.grad is None for weight in objective.parameters())


def test_pixels_alone_are_the_objective_in_pixels(labeled: Dataset) -> None:
    real, fake = batches(labeled)
    options = {"form": "chance-capped", "temperature": "0.1"}
    alone = PixelEntanglement(PixelEntanglement.make_options(options))
    alone.num_classes = 3
    objective = build(labeled, features="pixels", pixel_weight=1.0, **options)
    losses = [each.generator_loss(no_discriminator, real, fake) for each in (objective, alone)]
    assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize("fits", [True, False])
def test_remembered_features_of_real_images_change_nothing(
    labeled: Dataset, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snngan.objectives.spaces.free_bytes", lambda device: 1e9 if fits else 0.0)
    objective = build(labeled, features="classifier,pixels", layers="conv?,fc")
    real, fake = batches(labeled)
    direct = objective.generator_loss(no_discriminator, dataclasses.replace(real, rows=None), fake)
    objective.remember(labeled.train_images)
    calls: list[int] = []
    objective.encoders["0"].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    for _ in range(3):
        assert_close(objective.generator_loss(no_discriminator, real, fake), direct)
    assert calls.count(18) == (3 if fits else 6)  # the synthetic images of each step, and the real ones


def test_maps_are_summarized_by_mean_deviation_and_cells() -> None:
    maps = torch.arange(2 * 3 * 64.0).view(2, 3, 8, 8)
    found = summarize_maps(maps)
    assert found.shape == (2, 3 + 3 + 3 * 16)
    assert_close(found[:, :3], maps.mean((2, 3)))
    assert_close(found[:, 3:6], maps.flatten(2).std(2, unbiased=False), rtol=1e-4, atol=1e-3)
    assert_close(found[0, 6], maps[0, 0, :2, :2].mean())
    constant = torch.zeros(1, 1, 2, 2, requires_grad=True)
    summarize_maps(constant).sum().backward()
    assert constant.grad is not None and constant.grad.isfinite().all()
    assert_close(summarize_maps(torch.ones(2, 5)), torch.ones(2, 5))


def test_the_classifier_is_trained_once_and_kept(labeled: Dataset, tmp_path: Path) -> None:
    said: list[str] = []
    first, second = (load_or_train_encoder(labeled, tmp_path, CPU, said.append) for _ in range(2))
    assert len(said) == 1 and "training a small classifier of rows" in said[0]
    assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not first.training and not any(weight.requires_grad for weight in first.parameters())
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"does not hold an encoder of rows: delete it"):
        load_or_train_encoder(labeled, tmp_path, CPU, said.append)


def test_the_classifier_learns() -> None:
    digits = load_dataset("digits")
    guesses = train_encoder(digits, CPU, steps=600).eval()(to_unit_range(digits.test_images)).argmax(1)
    assert (guesses == digits.test_labels).float().mean() > 0.9


def test_a_new_run_trains_it_and_keeps_it_in_its_state(labeled: Dataset) -> None:
    config = gan_config(labeled, objective="snnl-features", batch_size=18)
    said: list[str] = []
    trainer = GanTrainer(config, labeled, CPU, notify=said.append)
    trainer.prepare()
    trained = {name: value.clone() for name, value in trainer.objective.state_dict().items()}
    assert len(said) == 1
    trainer.step(1)
    again = GanTrainer(config, labeled, CPU, trainer.state_dict(), notify=pytest.fail)
    restored = again.objective.state_dict()
    names = [name for name in trained if name.startswith("encoders")]
    assert names and all(torch.equal(trained[name], restored[name]) for name in names)


def test_a_function_of_the_users_is_a_space(labeled: Dataset, tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text("def double(images):\n    return 2 * images.flatten(1)\n")
    objective = build(labeled, features="spaces:double")
    real, fake = batches(labeled)
    assert_close(objective.embed(real.images)["spaces:double"], double(real.images))
    alone = build(labeled, features="pixels", pixel_weight=1.0)
    losses = [each.generator_loss(no_discriminator, real, fake) for each in (objective, alone)]
    assert_close(*losses)  # temperatures are relative


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": "pixel"},
            r"features must be pixels, classifier, classifier:NAME, .*RUN or module:function, got 'pixel'",
        ),
        ({"features": "pixels,"}, "got ''"),
        ({"features": "classifier:"}, "got 'classifier:'"),
        ({"features": "pixels,pixels"}, "features must differ, got pixels,pixels"),
        ({"features": "nowhere:f"}, "features nowhere: it cannot be imported"),
        ({"features": "math:nothing"}, "features math:nothing: the module math has no function nothing"),
        ({"features": "classifier", "layers": "conv9"}, "no layer matches 'conv9'; the model has: .*conv1"),
        ({"pixel_weight": -1.0}, "pixel_weight must be in"),
    ],
)
def test_wrong_options(labeled: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(labeled, **options)


def test_a_classifier_needs_labels(dataset: Dataset) -> None:
    config = gan_config(dataset, objective="snnl-features", objective_options={"features": "classifier"})
    with pytest.raises(ValueError, match=r"random: a classifier .* needs pictures .*use --set features=pixels"):
        GanTrainer(config, dataset, CPU).prepare()


def test_a_classifier_of_another_data_set_takes_images_of_its_shape(colors: Dataset) -> None:
    given = {"features": "classifier:digits"}
    trainer = GanTrainer(gan_config(colors, objective="snnl-features", objective_options=given), colors, CPU)
    with pytest.raises(ValueError, match=r"features: the images of digits are \(1, 8, 8\), not \(3, 16, 16\)"):
        trainer.prepare()


def test_features_of_mirror_images_are_remembered(labeled: Dataset) -> None:
    objective = build(labeled, features="classifier,pixels")
    real, fake = batches(labeled)
    mirrored = dataclasses.replace(real, images=real.images.flip(3), rows=ROWS + len(labeled.train_images))
    direct = objective.generator_loss(no_discriminator, dataclasses.replace(mirrored, rows=None), fake)
    objective.remember(labeled.train_images, flips=True)
    assert_close(objective.generator_loss(no_discriminator, mirrored, fake), direct)
    assert not torch.allclose(objective.generator_loss(no_discriminator, real, fake), direct)


def test_features_of_a_trained_classifier(labeled: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of its layers, in training and in evaluation; the objective's state holds the network."""
    run = new_run("classifier", classifier_config(labeled))
    train_run(run, labeled)
    network = load_classifier(run.path)
    images = to_unit_range(labeled.test_images[:5])
    hidden = network[:-1](images)
    config = gan_config(
        labeled, objective="snnl-features", batch_size=18,
        objective_options={"features": f"pixels,classifier:{run.path}", "layers": "fc2"},
    )  # fmt: skip
    trainer = GanTrainer(config, labeled, CPU)
    trainer.prepare()
    (name,) = trainer.objective.embed(images)
    assert name == f"classifier:{run.path.absolute()}/fc2"
    assert_close(trainer.objective.embed(images)[name], hidden)
    assert_close(choose_extractor(f"classifier:{run.path}", Reader())(labeled.test_images[:5]), hidden)
    with pytest.raises(ValueError, match=r"the classifier of .* takes images \(1, 8, 8\), got \(1, 4, 4\)"):
        choose_extractor(f"classifier:{run.path}", Reader())(labeled.test_images[:5, :, :4, :4])
    monkeypatch.setattr("snngan.objectives.encoder.load_newest", None)  # resuming needs no checkpoint of it
    again = GanTrainer(config, labeled, CPU, state=trainer.state_dict())
    assert_close(again.objective.embed(images)[name], hidden)


def test_a_folder_without_a_run_is_refused(labeled: Dataset) -> None:
    with pytest.raises(ValueError, match=r"features classifier:no/run: no/run is not the folder of a classifier's run"):
        build(labeled, features="classifier:no/run")


def test_features_of_a_generator_are_refused(labeled: Dataset) -> None:
    run = new_run("generator", gan_config(labeled, objective="gan"))
    with pytest.raises(ValueError, match=r"generator must be the folder of a classifier's run, from snngan classify"):
        build(labeled, features=f"pixels,classifier:{run.path}")
