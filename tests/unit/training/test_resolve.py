"""From options to a resolved config: who decides what, what is refused, and the way through config.json and back."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from reference.runs import classifier_config, gan_config

from snngan.config import ClassifyConfig, TrainConfig, option_names
from snngan.data import Dataset
from snngan.models import ARCHITECTURES, CLASSIFIERS
from snngan.objectives import OBJECTIVES
from snngan.training.resolve import check_config, check_same_data, list_settings, resolve


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_a_resolved_config_survives_json(objective: str, arch: str) -> None:
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    given = TrainConfig(
        dataset="npz:a.npz", data_dir="d", image_size=32, objective=objective, arch=arch, seed=2**60, betas=(0.1, 0.2),
        batch_size=4, set=("width=4", "optimizer=adam"), skip_broken=True, precision="bf16",
    )  # fmt: skip
    config = resolve(given, Dataset("npz:a.npz", images[:18], None, images[18:], None))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert (config.betas, config.arch_options["width"], config.seed, config.set) == ((0.1, 0.2), 4, 2**60, ())
    assert (config.image_shape, config.is_points) == ((3, 32, 32), False)
    assert config.dataset.startswith("npz:/")


@pytest.mark.parametrize("arch", CLASSIFIERS.names())
def test_a_resolved_classifier_config_survives_json(labeled: Dataset, arch: str) -> None:
    config = classifier_config(labeled, arch=arch, set=(), seeds="0:3", learning_rate_final=0.0, alpha_final=2)
    assert ClassifyConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert (config.num_classes, config.schedule_steps, config.seed_list) == (3, 6, (0, 1, 2))


def test_resolving_twice_changes_nothing(dataset: Dataset, labeled: Dataset) -> None:
    for config, data in (
        (gan_config(dataset, objective="snnl-projected"), dataset),
        (classifier_config(labeled), labeled),
    ):
        assert resolve(config, data) == config


def test_what_belongs_to_one_start_is_not_saved(dataset: Dataset) -> None:
    saved = gan_config(dataset, device="cpu", run_dir="x").to_json()
    assert not {"device", "run_dir", "download", "dry_run", "set"} & saved.keys()


def many(data: Dataset) -> Dataset:
    """Return the data with its training images 20 times, enough for default batches."""
    labels = None if data.train_labels is None else data.train_labels.repeat(20)
    return dataclasses.replace(data, train_images=data.train_images.repeat(20, 1, 1, 1), train_labels=labels)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("arch", [None, "dcgan"])
def test_recommendations_of_the_objective_fill_deferred_options(
    objective: str, arch: str | None, labeled: Dataset
) -> None:
    config = resolve(TrainConfig(objective=objective, arch=arch), many(labeled))
    expected = dict(OBJECTIVES[objective].recommended)
    expected |= {"arch": arch} if arch else {}
    expected |= {"batch_size": 258} if config.conditional else {}  # a multiple of the classes
    found = {**dataclasses.asdict(config), **config.arch_options}
    assert {name: found[name] for name in expected if name in found} == {
        name: value for name, value in expected.items() if name in found
    }


@pytest.mark.parametrize("objective", ["snnl-pixel", "mmd", "snnl-features"])
def test_batches_have_as_many_images_of_each_class(objective: str, labeled: Dataset) -> None:
    config = resolve(TrainConfig(objective=objective, conditional=True), many(labeled))
    assert config.class_counts == (640, 640, 640)
    assert config.batch_size % 3 == config.real_batch_size % 3 == 0
    for name in ("batch_size", "real_batch_size"):
        if objective == "mmd" and name == "real_batch_size":
            continue
        with pytest.raises(
            ValueError, match=f"--{name.replace('_', '-')} of a .* must be a multiple of the 3 classes.*use 27"
        ):
            resolve(TrainConfig(objective=objective, conditional=True, **{name: 25}), many(labeled))
    assert resolve(TrainConfig(objective="gan", conditional=True, batch_size=25), many(labeled)).batch_size == 25


def test_what_a_conditional_generator_needs(labeled: Dataset, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="random has no labels, and a conditional generator needs them"):
        resolve(TrainConfig(conditional=True), dataset)
    gap = dataclasses.replace(labeled, train_labels=2 * torch.as_tensor(labeled.train_labels))
    with pytest.raises(ValueError, match="has no training image of class 1: number the classes"):
        resolve(TrainConfig(conditional=True), gap)
    with pytest.raises(ValueError, match=r"gan has a discriminator, .*: leave out real_batch_size"):
        resolve(TrainConfig(objective="gan", real_batch_size=30), labeled)


def test_snnl_features_is_conditional_only_where_labels_suit_it(labeled: Dataset, dataset: Dataset) -> None:
    def features(data: Dataset, **options: Any) -> tuple[bool, str]:
        config = resolve(TrainConfig(objective="snnl-features", **options), data)
        return config.conditional, config.objective_options["features"]

    assert features(many(labeled)) == (True, "pixels,classifier")
    assert features(many(labeled), conditional=False) == (False, "pixels,classifier")
    assert features(many(dataset)) == (False, "pixels")
    gap = dataclasses.replace(many(labeled), train_labels=2 * torch.as_tensor(many(labeled).train_labels))
    assert features(gap) == (False, "pixels,classifier")


def test_labels_count_as_data_of_a_conditional_run(labeled: Dataset) -> None:
    other = dataclasses.replace(labeled, train_labels=torch.as_tensor(labeled.train_labels).flip(0))
    for conditional in (False, True):
        config = gan_config(labeled, conditional=conditional, batch_size=18)
        if conditional:
            with pytest.raises(ValueError, match="and their labels differ from those the run was started with"):
                check_same_data(config, other)
        else:
            check_same_data(config, other)


def test_the_user_decides_before_the_objective(dataset: Dataset) -> None:
    recommended = OBJECTIVES["wgan"].recommended
    assert recommended["learning_rate"] != 1e-3
    config = gan_config(dataset, objective="wgan")
    assert (config.learning_rate, config.discriminator_steps) == (1e-3, recommended["discriminator_steps"])
    settings = ("learning_rate=0.5", "discriminator_steps=3", "clip=0.2", "width=24")
    config = gan_config(dataset, *settings, objective="wgan")
    assert (config.learning_rate, config.discriminator_steps) == (0.5, 3)
    assert (config.objective_options["clip"], config.arch_options["width"]) == (0.2, 24)


def test_zero_is_a_value(dataset: Dataset) -> None:
    config = gan_config(dataset, "discriminator_learning_rate=0", objective="gan", learning_rate=0.0, ema_decay=0.0)
    assert (config.learning_rate, config.ema_decay, config.discriminator_learning_rate) == (0, 0, 0)


def test_a_given_learning_rate_is_for_both_networks(dataset: Dataset) -> None:
    recommended = OBJECTIVES["snnl-projected"].recommended["discriminator_learning_rate"]
    for given, expected in (
        ({"learning_rate": None}, recommended),
        ({"learning_rate": 0.01}, None),
        ({"learning_rate": 0.01, "discriminator_learning_rate": 0.02}, 0.02),
    ):
        config = gan_config(dataset, objective="snnl-projected", **given)
        assert config.discriminator_learning_rate == expected


def test_networks_follow_the_size_of_the_images(colors: Dataset, points: Dataset) -> None:
    config = TrainConfig(objective="gan", batch_size=4)
    assert resolve(config, colors).arch == "dcgan"
    assert resolve(config, points).arch == "mlp"


def test_resolving_draws_nothing_from_the_global_generator(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    gan_config(dataset, objective="snnl-projected")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "hing"}, "unknown objective 'hing'; did you mean 'hinge'"),
        ({"arch": "mpl"}, "unknown architecture 'mpl'; did you mean 'mlp'"),
        ({"set": ("widht=3",)}, r"unknown option of --set 'widht'; did you mean 'width'\? \(known: .*width\)"),
        ({"set": ("hidden_layers=3",), "arch": "dcgan"}, "unknown option of --set 'hidden_layers'"),
        ({"set": ("clip=0.1",), "objective": "gan"}, "unknown option of --set 'clip'"),
        ({"set": ("set=a",)}, "unknown option of --set 'set'"),
        ({"set": ("width",)}, "--set must be NAME=VALUE, got 'width'; --list-settings lists the names"),
        ({"set": ("width=wide",)}, "width must be a whole number, got 'wide'"),
        ({"set": ("width=0",)}, r"width must be in \[1, 16384\], got 0"),
        ({"set": ("learning_rate=nan",)}, r"learning_rate must be in \[0, 10\], got nan"),
        ({"set": ("form=free",)}, r"unknown value for form 'free' \(known: .*literal"),
        ({"set": ("temperature=hot",)}, "temperature .*'hot'"),
        ({"set": ("spectral_norm=true",)}, "snnl-features has no discriminator, so spectral_norm has no effect"),
        ({"set": ("discriminator_norm=batch",)}, "snnl-features has no discriminator, so discriminator_norm"),
        ({"set": ("discriminator_learning_rate=0.1",)}, "snnl-features has no discriminator, so discriminator_l"),
        ({"discriminator_steps": 2}, "snnl-features has no discriminator, so discriminator_steps has no effect"),
        ({"objective": "wgan", "betas": (0.5, 0.9)}, "betas are options of Adam, and wgan uses rmsprop: add --opt"),
        ({"cuda_graph": True, "device": "cpu"}, "--cuda-graph needs a CUDA device"),
        ({"compile": True, "objective": "wgan-gp"}, "wgan-gp differentiates its networks twice"),
        ({"seeds": "0:2", "seed": 3}, "--seed 3 and --seeds 0:2: give one of them"),
    ],
)
def test_what_is_refused_before_there_are_data(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_config(TrainConfig(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "cnm"}, "unknown classifier 'cnm'; did you mean 'cnn'"),
        ({"set": ("width=3",), "arch": "feedforward"}, "unknown option of --set 'width'; did you mean 'widths'"),
        ({"set": ("widths=3-x",), "arch": "feedforward"}, "widths .*3-x"),
        ({"temperature": "hot"}, "temperature .*'hot'"),
        ({"regularizer": "triplet"}, "regularizer must be snnl or triplet:MARGIN such as triplet:0.5, got 'triplet'"),
        ({"regularizer": "triplet:-1"}, "regularizer must be snnl or triplet:MARGIN"),
        ({"adversarial_training": "pdg:0.1"}, ".*pdg"),
        ({"seeds": "4:4"}, "--seeds must be 0:4"),
        ({"seeds": "0:2", "seed": 7}, "--seed 7 and --seeds 0:2: give one of them"),
        ({"alpha": math.inf}, r"alpha must be in \[-1e\+09, 1e\+09\], got inf"),
        ({"learning_rate": -1.0}, "learning_rate must be in"),
    ],
)
def test_what_is_refused_of_a_classifier(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_config(ClassifyConfig(**options))


def test_options_of_any_network_pass_while_the_data_are_unknown() -> None:
    for setting in ("hidden_layers=3", "discriminator_norm=batch"):
        check_config(TrainConfig(objective="gan", set=(setting,)))
    check_config(TrainConfig(objective="wgan", optimizer="adam", betas=(0.5, 0.9)))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    with pytest.raises(ValueError, match="--compile needs a C\\+\\+ compiler"):
        check_config(TrainConfig(compile=True))


def test_data_that_are_refused(dataset: Dataset, labeled: Dataset, points: Dataset) -> None:
    gan_config(dataset, batch_size=64)
    with pytest.raises(ValueError, match="batch of 65 is larger than the 64 training images; use --batch-size 64"):
        gan_config(dataset, batch_size=65)
    with pytest.raises(ValueError, match="larger than the 96 training images"):
        classifier_config(labeled, batch_size=97)
    with pytest.raises(ValueError, match="only 1 image is held out, entanglement needs 2"):
        gan_config(dataclasses.replace(dataset, test_images=dataset.test_images[:1]))
    for wrong, message in (
        (dataclasses.replace(labeled, train_labels=None), "has no labels"),
        (dataclasses.replace(labeled, test_labels=None), "has no labels"),
        (dataclasses.replace(labeled, train_labels=torch.zeros(96, dtype=torch.int64)), "of 2 classes or more"),
        (dataclasses.replace(labeled, train_labels=torch.arange(96) + 10**12), "number the classes from 0 on"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier_config(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": None}, "optimizer is missing"),
        ({"image_shape": None}, "image_shape is missing"),
        ({"image_shape": 8}, "image_shape must be .*, got 8"),
        ({"image_shape": [1, 8, 8000]}, r"image_shape must be \(C, H, W\) of 1 to 4096"),
        ({"betas": [0.5]}, "betas must be two comma-separated numbers"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"seed": 1 << 63}, "seed must be in .* and below 2\\^63"),
        ({"arch_options": [1]}, "arch_options must be a mapping"),
        ({"another": 1}, "unknown option 'another'"),
    ],
)
def test_a_saved_config_that_no_run_has_is_refused(dataset: Dataset, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        TrainConfig.from_json(gan_config(dataset).to_json() | change)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_the_list_of_settings_names_every_option(objective: str, arch: str) -> None:
    lines = list_settings(TrainConfig(objective=objective, arch=arch))
    named = {line.split("=")[0].strip() for line in lines if line.startswith("  ")}
    own = {*option_names(OBJECTIVES[objective].Options), *option_names(ARCHITECTURES[arch])}
    assert named == own | {"discriminator_learning_rate"}
    assert f"{arch}:" in lines
    for name, value in OBJECTIVES[objective].recommended.items():
        if name in own:
            assert any(line.startswith(f"  {name}={value} ") for line in lines)


@pytest.mark.parametrize("arch", CLASSIFIERS.names())
def test_the_list_of_settings_of_a_classifier(arch: str) -> None:
    lines = list_settings(ClassifyConfig(arch=arch))
    named = {line.split("=")[0].strip() for line in lines if line.startswith("  ")}
    assert named == {*option_names(CLASSIFIERS[arch]), "regularizer"}
