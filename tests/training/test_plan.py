"""Plans: who has the last word, what is refused, and the way through config.json and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from snngan.config import Optimization, Plan, TrainConfig
from snngan.data import Dataset
from snngan.models import ARCHITECTURES
from snngan.objectives import OBJECTIVES
from snngan.training.plan import check_config, describe_settings, make_plan, option_names, plan_from_json


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_a_plan_comes_back_from_json(objective: str, arch: str) -> None:
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    config = TrainConfig(
        dataset="npz:a.npz", data_dir="d", image_size=32, objective=objective, arch=arch, seed=2**60, betas=(0.1, 0.2),
        batch_size=4, set=("width=4", "optimizer=adam"), skip_broken=True, precision="bf16",
    )  # fmt: skip
    plan = make_plan(config, Dataset("npz:a.npz", images[:18], None, images[18:], None))
    assert plan_from_json(dataclasses.asdict(plan)) == plan
    assert plan_from_json(json.loads(json.dumps(dataclasses.asdict(plan)))) == plan
    assert (plan.optimization.betas, plan.arch_options["width"], plan.seed) == ((0.1, 0.2), 4, 2**60)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_what_an_objective_recommends_fills_the_gaps(objective: str, dataset: Dataset) -> None:
    images = dataset.train_images.repeat(20, 1, 1, 1)
    plan = make_plan(TrainConfig(objective=objective), dataclasses.replace(dataset, train_images=images))
    for name, value in OBJECTIVES[objective].recommended.items():
        owners: list[Any] = [plan, plan.optimization, plan.objective_options, plan.arch_options]
        found = [each.get(name) if isinstance(each, dict) else getattr(each, name, None) for each in owners]
        assert value in found, name


def test_the_user_has_the_last_word(plan_of: Callable[..., Plan]) -> None:
    recommended = OBJECTIVES["wgan"].recommended
    assert recommended["learning_rate"] != 1e-3
    plan = plan_of(objective="wgan", learning_rate=1e-3)
    assert plan.optimization.learning_rate == 1e-3
    assert plan.optimization.discriminator_steps == recommended["discriminator_steps"]
    plan = plan_of("learning_rate=0.5", "discriminator_steps=3", "clip=0.2", objective="wgan", learning_rate=1e-3)
    assert (plan.optimization.learning_rate, plan.optimization.discriminator_steps) == (0.5, 3)
    assert plan.objective_options["clip"] == 0.2


def test_zero_is_a_value(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("discriminator_learning_rate=0", objective="gan", learning_rate=0.0, ema_decay=0.0)
    options = plan.optimization
    assert (options.learning_rate, options.ema_decay, options.discriminator_learning_rate) == (0, 0, 0)


def test_networks_follow_the_size_of_the_images(dataset: Dataset, points: Dataset) -> None:
    config = TrainConfig(objective="gan", batch_size=4)
    wide = dataclasses.replace(dataset, train_images=torch.zeros(9, 3, 32, 32, dtype=torch.uint8))
    assert make_plan(config, wide).arch == "dcgan"
    assert make_plan(config, points).arch == "mlp"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["widht=3"], r"unknown option of --set 'widht'; did you mean 'width'\? \(known: .*width\)"),
        (["width"], "--set takes NAME=VALUE, not 'width'"),
        (["width=wide"], "width takes a whole number, not 'wide'"),
        (["width=2.5"], "width takes a whole number, not '2.5'"),
        (["width=0"], r"width must lie in \[1, 16384\], not 0"),
        (["learning_rate=fast"], "learning_rate takes a number, not 'fast'"),
        (["learning_rate=nan"], r"learning_rate must lie in \[0, 10\], not nan"),
        (["spectral_norm=perhaps"], "spectral_norm takes true or false, not 'perhaps'"),
        (["betas=0.5"], "betas takes two numbers with a comma between, not '0.5'"),
        (["betas=0.5,1"], r"betas must lie in \[0, 0.9999\], not 1"),
        (["form=free"], r"unknown value for form 'free' \(known: .*literal"),
        (["optimizer=adm"], "unknown value for optimizer 'adm'; did you mean 'adam'"),
        (["temperature=hot"], "temperature must be .*, got 'hot'"),
    ],
)
def test_settings_that_are_refused(plan_of: Callable[..., Plan], settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(*settings)


def test_options_that_would_do_nothing_are_refused(plan_of: Callable[..., Plan]) -> None:
    for idle in ("spectral_norm=true", "discriminator_norm=batch", "discriminator_learning_rate=0.1"):
        with pytest.raises(ValueError, match=r"snnl-pixel has no discriminator, so .* would do nothing"):
            plan_of(idle)
        plan_of(idle, objective="gan")
    with pytest.raises(ValueError, match="betas are Adam's, and wgan uses rmsprop"):
        plan_of(objective="wgan", betas=(0.5, 0.9))
    plan_of("optimizer=adam", objective="wgan", betas=(0.5, 0.9))


def test_a_learning_rate_of_the_user_s_is_for_both_players(plan_of: Callable[..., Plan]) -> None:
    assert OBJECTIVES["snnl-projected"].recommended["discriminator_learning_rate"]
    plan = plan_of(objective="snnl-projected", learning_rate=0.01)
    assert plan.optimization.discriminator_learning_rate is None
    plan = plan_of("discriminator_learning_rate=0.02", objective="snnl-projected", learning_rate=0.01)
    assert plan.optimization.discriminator_learning_rate == 0.02


def test_names_that_are_refused(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(ValueError, match="unknown objective 'hing'; did you mean 'hinge'"):
        plan_of(objective="hing")
    with pytest.raises(ValueError, match="unknown architecture 'mpl'; did you mean 'mlp'"):
        plan_of(arch="mpl")


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "hing"},
        {"arch": "mpl"},
        {"set": ("widht=3",)},
        {"set": ("hidden_layers=3",), "arch": "dcgan"},
        {"set": ("form=free",)},
        {"set": ("steps=0",)},
        {"set": ("clip=0.1",), "objective": "gan"},
    ],
)
def test_what_no_data_can_mend_is_refused_before_there_is_any(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown|must lie in"):
        check_config(TrainConfig(**options))


def test_an_option_of_any_network_passes_while_the_data_is_unknown() -> None:
    check_config(TrainConfig(objective="gan", set=("hidden_layers=3",)))
    check_config(TrainConfig(objective="gan", set=("discriminator_norm=batch",)))


def test_data_that_do_not_suffice(plan_of: Callable[..., Plan], dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="batch of 65 is larger than the 64 training images; use --batch-size 64"):
        plan_of(batch_size=65)
    plan_of(batch_size=64)
    with pytest.raises(ValueError, match="only 1 image is held out, entanglement needs 2"):
        plan_of(data=dataclasses.replace(dataset, test_images=dataset.test_images[:1]))


def test_networks_that_do_not_fit_the_images_are_refused(plan_of: Callable[..., Plan], points: Dataset) -> None:
    with pytest.raises(ValueError, match="dcgan"):
        plan_of(arch="dcgan", set=(), data=points)


def test_planning_draws_nothing_from_the_global_generator(plan_of: Callable[..., Plan]) -> None:
    before = torch.get_rng_state()
    plan_of(objective="snnl-projected")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "change",
    [
        {"optimization": None},
        {"optimization": {"betas": [0.5, 0.9], "speed": 3}},
        {"objective": "another"},
        {"arch": "another"},
        {"objective_options": {"another": 1}},
        {"arch_options": {"width": 0}},
        {"image_shape": 8},
        {"another": 1},
    ],
)
def test_a_plan_of_another_kind_is_refused(plan_of: Callable[..., Plan], change: dict[str, Any]) -> None:
    values = dataclasses.asdict(plan_of())
    with pytest.raises(ValueError, match=r"not one that this version reads|unknown|must lie in"):
        plan_from_json(values | change)
    del values["seed"]
    with pytest.raises(ValueError, match=r"not one that this version reads: .*seed"):
        plan_from_json(values)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_the_table_of_settings_names_every_option(objective: str, arch: str) -> None:
    lines = describe_settings(objective, arch).splitlines()
    named = [line.split("=")[0].strip() for line in lines if line.startswith("  ")]
    owners = (OBJECTIVES[objective], ARCHITECTURES[arch], Optimization)
    assert named == [name for owner in owners for name in option_names(owner)]
