"""From what the user says to a complete plan: recommended values fill the gaps, unknown names are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from snngan.config import Optimization, Plan, TrainConfig, parse_value, range_text
from snngan.data import Dataset, ImageShape
from snngan.data.batches import check_batch_size
from snngan.models import ARCHITECTURES, Architecture
from snngan.objectives import OBJECTIVES, Objective
from snngan.registry import unknown_name


def make_plan(config: TrainConfig, dataset: Dataset) -> Plan:
    """Return the plan of a run of ``config`` on ``dataset``.

    Raises:
        ValueError: a name, a ``--set`` option or a value is unknown or out of range, or does not fit the images.
    """
    kind = OBJECTIVES[config.objective]
    arch = config.arch or _default_architecture(kind, dataset.image_shape)
    owners = (kind, ARCHITECTURES[arch], Optimization)
    chosen = {name: value for name, value in kind.recommended.items() if name != "arch"}
    flags = {name: getattr(config, name, None) for name in option_names(Optimization)}
    chosen.update({name: value for name, value in flags.items() if value is not None})
    chosen.update(parse_settings(config.set, owners))
    objective, architecture, optimization = (_build(owner, chosen) for owner in owners)
    plan = Plan(
        dataset=config.dataset,
        data_dir=config.data_dir,
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
        track_every=config.track_every,
    )
    check_batch_size(plan.optimization.batch_size, len(dataset.train_images))
    if len(dataset.test_images) < 2:
        raise ValueError(
            f"{dataset.name}: only 1 image would be held out, entanglement needs 2; give 20 images or more"
        )
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
    chosen = parse_settings(config.set, (kind, *architectures, Optimization))
    _build(kind, chosen), _build(Optimization, chosen)


def plan_from_json(values: Mapping[str, Any]) -> Plan:
    """Return the plan that ``dataclasses.asdict`` turned into ``values``.

    Raises:
        ValueError: a field is missing, unknown or out of range.
    """
    try:
        optimization = dict(values["optimization"], betas=tuple(values["optimization"]["betas"]))
        shape = tuple(int(size) for size in values["image_shape"])
        plan = Plan(**{**values, "optimization": Optimization(**optimization), "image_shape": shape})
        build_objective(plan), build_architecture(plan)
        return plan
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the run's plan is not one that this version reads: {error}") from error


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
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, not {setting!r}; --set help lists the names")
        if name not in owner_of:
            raise unknown_name("option of --set", name, owner_of)
        values[name] = parse_value(owner_of[name], name, text)
    return values


def describe_settings(objective: str, arch: str | None) -> str:
    """Return a table of every ``--set`` option of an objective and an architecture: name, default and help."""
    kind = OBJECTIVES[objective]
    arch = arch or kind.recommended.get("arch", "dcgan")
    lines = []
    owners: list[tuple[str, Any]] = [(objective, kind), (arch, ARCHITECTURES[arch]), ("training", Optimization)]
    for title, owner in owners:
        lines.append(f"{title}:")
        for field in dataclasses.fields(owner):
            if field.name in option_names(owner):
                value, meta = kind.recommended.get(field.name, field.default), field.metadata
                limits = "|".join(meta["choices"]) if meta["choices"] else ""
                if meta["low"] is not None:
                    limits = range_text(meta)
                lines.append(f"  {field.name}={value}  {meta['help']}" + (f" {limits}" if limits else ""))
    return "\n".join(lines)


def _default_architecture(kind: type[Objective], image_shape: ImageShape) -> str:
    """Return the objective's own choice, else dcgan where the images' size allows it, else mlp."""
    if "arch" in kind.recommended:
        return str(kind.recommended["arch"])
    try:
        ARCHITECTURES["dcgan"]().generator(image_shape)
    except ValueError:
        return "mlp"
    return "dcgan"


def _build(owner: type, chosen: Mapping[str, Any]) -> Any:
    return owner(**{name: chosen[name] for name in option_names(owner) if name in chosen})
