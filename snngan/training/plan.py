"""From what the user says to a complete plan: recommended values fill the gaps, unknown names are refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from snngan.config import ClassifyConfig, ClassifyPlan, Optimization, Plan, TrainConfig, parse_value, range_text
from snngan.data import Dataset, ImageShape
from snngan.data.batches import check_batch_size
from snngan.data.datasets import absolute_name, data_folder
from snngan.distributed import is_distributed
from snngan.losses.backends import MAX_DENSE_SAMPLES
from snngan.models import ARCHITECTURES, Architecture
from snngan.objectives import OBJECTIVES, Objective
from snngan.registry import unknown_name
from snngan.training.device import choose_device

LARGEST_SIDE = 4096
"""Pixels: no run is read that has larger images."""


def make_plan(config: TrainConfig, dataset: Dataset) -> Plan:
    """Return the plan of a run of ``config`` on ``dataset``.

    Raises:
        ValueError: a name, a ``--set`` option or a value is unknown or out of range, or does not fit the images.
    """
    kind = OBJECTIVES[config.objective]
    arch = config.arch or _default_architecture(kind, dataset.image_shape)
    owners = (kind, ARCHITECTURES[arch], Optimization)
    said = _said(config, owners)
    chosen = {name: value for name, value in kind.recommended.items() if name != "arch"}
    if "learning_rate" in said:  # the user's is for both players
        chosen.pop("discriminator_learning_rate", None)
    chosen.update(said)
    objective, architecture, optimization = (_build(owner, chosen) for owner in owners)
    _refuse_idle(config.objective, objective, optimization, said)
    plan = Plan(
        dataset=absolute_name(config.dataset),
        data_dir=str(data_folder(config.data_dir).absolute()),
        data_digest=dataset.digest(),
        image_size=config.image_size,
        skip_broken=config.skip_broken,
        image_shape=dataset.image_shape,
        is_points=dataset.is_points,
        objective=config.objective,
        objective_options=option_values(objective),
        arch=arch,
        arch_options=option_values(architecture),
        optimization=optimization,
        seed=config.seed,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every,
        sample_every=config.sample_every,
        log_every=config.log_every,
        metrics_every=config.metrics_every,
        compile=config.compile,
        cuda_graph=config.cuda_graph,
        deterministic=config.deterministic,
    )
    check_batch_size(plan.optimization.batch_size, len(dataset.train_images))
    if len(dataset.test_images) < 2:
        raise ValueError(
            f"{dataset.name}: only {len(dataset.test_images)} image is held out, entanglement needs 2; give 20 training"
            " images or more, or a test half of 2 or more"
        )
    if config.cuda_graph:
        _check_cuda_graph(plan, objective, choose_device(config.device))
    with torch.random.fork_rng(devices=[]):  # networks that do not fit the images are refused before a run begins
        architecture.generator(plan.image_shape)
        if objective.discriminator_dim is not None:
            architecture.discriminator(plan.image_shape, objective.discriminator_dim)
    return plan


def check_config(config: TrainConfig) -> None:
    """Raise ``ValueError`` for what is wrong on any data set: asked before one is read, built or fetched."""
    kind = OBJECTIVES[config.objective]
    arch = config.arch or kind.recommended.get("arch")
    architectures = [ARCHITECTURES[name] for name in ([arch] if arch else ARCHITECTURES.names())]
    said = _said(config, (kind, *architectures, Optimization))
    chosen = dict(kind.recommended) | said
    objective = _build(kind, chosen)
    _refuse_idle(config.objective, objective, _build(Optimization, chosen), said)
    if config.compile:
        _check_compile(config.objective, objective)
    if config.cuda_graph and choose_device(config.device).type != "cuda":
        raise ValueError("--cuda-graph needs a CUDA device; leave it out on a CPU")


def _check_compile(name: str, objective: Objective) -> None:
    """Raise ``ValueError`` where the networks cannot be compiled."""
    if objective.differentiates_twice:
        raise ValueError(f"{name} differentiates its networks twice, which compiled ones do not allow; drop --compile")
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if not any(name and shutil.which(name) for name in compilers):
        raise ValueError("--compile needs a C++ compiler, and none is found (g++, clang++, or what $CXX names)")


def _check_cuda_graph(plan: Plan, objective: Objective, device: torch.device) -> None:
    """Raise ``ValueError`` where a step cannot be a CUDA graph."""
    if objective.waits(plan.batch_size, plan.image_shape, device):
        raise ValueError(
            "--cuda-graph: a step would read values, for a learned or optimal temperature or for a loss over tiles; "
            f"give another temperature or a --batch-size up to {MAX_DENSE_SAMPLES // 2}, or leave it out"
        )
    if is_distributed():
        raise ValueError("--cuda-graph is for one process; leave it out under torchrun")


def check_same_data(plan: Plan, dataset: Dataset) -> None:
    """Raise ``ValueError`` unless ``dataset`` is what the plan was made for, picture by picture."""
    if dataset.digest() != plan.data_digest:
        raise ValueError(
            f"{dataset.name}: these {len(dataset.train_images)} training images {dataset.image_shape} are not the ones"
            " the run was started with; resume with the same data (--dataset or --data-dir say where it is now)"
        )


def plan_from_json(values: Mapping[str, Any]) -> Plan:
    """Return the plan that ``dataclasses.asdict`` turned into ``values``.

    Raises:
        ValueError: a field is missing, unknown or out of range.
    """
    try:
        optimization = dict(values["optimization"], betas=tuple(values["optimization"]["betas"]))
        shape = read_shape(values["image_shape"])
        plan = Plan(**{**values, "optimization": Optimization(**optimization), "image_shape": shape})
        check_written(plan, TrainConfig)
        build_objective(plan), build_architecture(plan)
        return plan
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the run's plan is not one that this version reads: {error}") from error


def read_shape(sizes: Any) -> ImageShape:
    """Return the shape of images that was written as ``sizes``; raises ``TypeError`` or ``ValueError``."""
    channels, height, width = sizes
    for size in (channels, height, width):
        if type(size) is not int or not 1 <= size <= LARGEST_SIDE:
            raise ValueError(f"image_shape {sizes!r}; expected (C, H, W) of 1 to {LARGEST_SIDE}")
    return channels, height, width


def check_written(plan: Plan | ClassifyPlan, config: type[TrainConfig | ClassifyConfig], *apart: str) -> None:
    """Raise ``ValueError`` for what a plan holds that no ``config`` could ask for; fields that differ are ``apart``."""
    options = {field.name for field in dataclasses.fields(config)} & {field.name for field in dataclasses.fields(plan)}
    config(**{name: getattr(plan, name) for name in options - {*apart}})
    if not isinstance(plan.data_digest, str):
        raise ValueError("data_digest is no text")


def build_objective(plan: Plan) -> Objective:
    """Return the plan's objective with its options."""
    return OBJECTIVES[plan.objective](**plan.objective_options)


def build_architecture(plan: Plan) -> Architecture:
    """Return the plan's architecture with its options."""
    return ARCHITECTURES[plan.arch](**plan.arch_options)


def option_names(owner: type) -> list[str]:
    """Return the names of the fields of a dataclass that a user may set."""
    return [field.name for field in dataclasses.fields(owner) if field.metadata and field.init]


def option_values(instance: Any) -> dict[str, Any]:
    """Return the user's options of a dataclass instance by name."""
    return {name: getattr(instance, name) for name in option_names(type(instance))}


def parse_settings(settings: Iterable[str], owners: Iterable[type]) -> dict[str, Any]:
    """Return the ``NAME=VALUE`` texts as values of the options of ``owners``.

    Raises:
        ValueError: a text has no equals sign, a name is unknown (the nearest is named), or a value does not read.
    """
    owner_of = {name: owner for owner in owners for name in option_names(owner)}
    return read_settings(settings, owner_of, "option of --set", "--set help lists the names")


def read_settings(settings: Iterable[str], owner_of: Mapping[str, type], kind: str, hint: str) -> dict[str, Any]:
    """Return the ``NAME=VALUE`` texts as values of the fields of dataclasses, ``owner_of`` by name.

    Raises:
        ValueError: a text has no equals sign, a name is unknown, or a value does not read; the message names the
            ``kind`` of setting, or ends with the ``hint``.
    """
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, not {setting!r}; {hint}")
        if name not in owner_of:
            raise unknown_name(kind, name, owner_of)
        values[name] = parse_value(owner_of[name], name, text)
    return values


def describe_plan(plan: Plan, dataset: Dataset, device: torch.device) -> list[str]:
    """Return what a run will do, a line each for data, objective, networks and training."""
    samples = describe_samples(dataset)
    has_discriminator = build_objective(plan).discriminator_dim is not None
    optimization = option_values(plan.optimization)
    if plan.optimization.discriminator_learning_rate is None or not has_discriminator:
        del optimization["discriminator_learning_rate"]
    if plan.optimization.optimizer != "adam":
        del optimization["betas"]

    def text(options: Mapping[str, Any]) -> str:
        played = (name for name in options if has_discriminator or not is_discriminators(name))
        return ", ".join(f"{name}={options[name]}" for name in played)

    chosen = text(plan.objective_options)
    ways = ", compiled" * plan.compile + ", CUDA graph" * plan.cuda_graph
    return [
        f"data       {plan.dataset}: {len(dataset.train_images)} {samples}, {len(dataset.test_images)} held out",
        f"objective  {plan.objective}" + (f" ({chosen})" if chosen else ""),
        f"networks   {plan.arch} ({text(plan.arch_options)})",
        f"training   {text(optimization)}, seed={plan.seed}, {plan.precision}{ways} on {device}",
    ]


def describe_samples(dataset: Dataset) -> str:
    """Return what the samples of a data set are, such as ``images 1x28x28``."""
    return "points of the plane" if dataset.is_points else f"images {'x'.join(map(str, dataset.image_shape))}"


def is_discriminators(name: str) -> bool:
    """Return whether the option ``name`` is of the discriminator only."""
    return name.startswith(("discriminator_", "spectral_"))


def describe_settings(objective: str, arch: str | None) -> str:
    """Return a table of every ``--set`` option of an objective and an architecture: name, default and help."""
    kind = OBJECTIVES[objective]
    arch = arch or kind.recommended.get("arch", "dcgan")
    lines: list[str] = []
    owners: list[tuple[str, Any]] = [(objective, kind), (arch, ARCHITECTURES[arch]), ("training", Optimization)]
    for title, owner in owners:
        lines += describe_options(title, owner, kind.recommended)
    return "\n".join(lines)


def describe_options(title: str, owner: Any, recommended: Mapping[str, Any]) -> list[str]:
    """Return a line for each option of the dataclass ``owner``: name, default, help and range."""
    lines = [f"{title}:"]
    for field in dataclasses.fields(owner):
        if field.name in option_names(owner):
            value, meta = recommended.get(field.name, field.default), field.metadata
            limits = "|".join(meta["choices"]) if meta["choices"] else ""
            if meta["low"] is not None:
                limits = range_text(meta)
            lines.append(f"  {field.name}={value}  {meta['help']}" + (f" {limits}" if limits else ""))
    return lines if len(lines) > 1 else [f"{title}: nothing to set"]


def _default_architecture(kind: type[Objective], image_shape: ImageShape) -> str:
    """Return the objective's own choice, else dcgan where the images' size allows it, else mlp."""
    if "arch" in kind.recommended:
        return str(kind.recommended["arch"])
    try:
        ARCHITECTURES["dcgan"]().generator(image_shape)
    except ValueError:
        return "mlp"
    return "dcgan"


def _said(config: TrainConfig, owners: Iterable[type]) -> dict[str, Any]:
    """Return the options of ``owners`` that the user gave a value, by flag or by --set."""
    flags = {name: getattr(config, name, None) for name in option_names(Optimization)}
    return {name: value for name, value in flags.items() if value is not None} | parse_settings(config.set, owners)


def _refuse_idle(name: str, objective: Objective, optimization: Optimization, said: Iterable[str]) -> None:
    """Raise ``ValueError`` for an option that the user gave and that nothing would come of."""
    for option in said:
        if objective.discriminator_dim is None and is_discriminators(option):
            raise ValueError(f"{name} has no discriminator, so {option} would do nothing; leave it out")
        if option == "betas" and optimization.optimizer != "adam":
            raise ValueError(f"betas are Adam's, and {name} uses {optimization.optimizer}: add --set optimizer=adam")


def _build(owner: type, chosen: Mapping[str, Any]) -> Any:
    return owner(**{name: chosen[name] for name in option_names(owner) if name in chosen})
