"""From what the user said to a complete config: options are checked, defaults filled in, facts of the data added."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from snngan.config import (
    ClassifyConfig,
    Config,
    TrainConfig,
    make_config,
    option_names,
    option_values,
    parse_settings,
    range_text,
)
from snngan.data import Dataset, ImageShape
from snngan.data.augment import AUGMENTATIONS, DIFF_AUGMENTATIONS, FLIP, parse_names
from snngan.data.batches import check_batch_size
from snngan.data.datasets import absolute_name, data_folder
from snngan.losses.entangled import LayerLoss
from snngan.losses.pairwise import Distance
from snngan.losses.temperature import parse_temperature
from snngan.losses.triplet import triplet_loss
from snngan.models import ARCHITECTURES, CLASSIFIERS, Architecture, Classifier
from snngan.models.layers import base_and_doublings
from snngan.objectives import OBJECTIVES, Objective, has_penalties
from snngan.robustness.attacks import Attack, parse_attack
from snngan.training.device import choose_device

C = TypeVar("C", bound=Config)


def check_config(config: C) -> C:
    """Return ``config`` with its ``set`` texts in the fields they name, checked without any data.

    Raises:
        ValueError: a name, an option or a value is unknown, out of range or without effect.
    """
    config = _apply_settings(config)
    check_names(config)
    if isinstance(config, TrainConfig):
        _check_effects(config)
    return config


def check_names(config: Config) -> None:
    """Raise ``ValueError`` if a name, an option or a rule in ``config`` is unknown or wrong."""
    config.seed_list  # noqa: B018
    parse_augmentations(config)
    if isinstance(config, TrainConfig):
        objective = OBJECTIVES[config.objective]
        objective.make_options(config.objective_options)
        parse_diff_augment(config)
        arch = config.arch or objective.recommended.get("arch")
        if arch is not None:
            make_config(ARCHITECTURES[arch], config.arch_options)
    elif isinstance(config, ClassifyConfig):
        parse_temperature(config.temperature)
        parse_regularizer(config.regularizer, "sqeuclidean")
        parse_adversarial_training(config.adversarial_training)
        make_config(CLASSIFIERS[config.fill_defaults().arch], config.arch_options)


def resolve(config: C, dataset: Dataset) -> C:
    """Return the resolved config of a run on ``dataset``: every option has a value, and it holds facts of the data.

    Raises:
        ValueError: as :func:`check_config`, or something does not fit the data.
    """
    config = check_config(config)
    found: Config
    if isinstance(config, TrainConfig):
        found = _resolve_train_config(config, dataset)
    else:
        assert isinstance(config, ClassifyConfig)
        found = _resolve_classify_config(config, dataset)
    for size in (found.batch_size, getattr(found, "real_batch_size", None)):
        check_batch_size(size or found.batch_size, len(dataset.train_images))
    if dataset.is_points and parse_augmentations(found):
        raise ValueError(f"--augment changes images, and {dataset.name} has points: leave it out")
    return dataclasses.replace(
        found,
        dataset=absolute_name(config.dataset),
        data_dir=str(data_folder(config.data_dir).absolute()),
        data_digest=digest_for(found, dataset),
        image_shape=dataset.image_shape,
        is_points=dataset.is_points,
        class_names=tuple(dataset.class_names),
        schedule_steps=found.steps,
    )  # type: ignore[return-value]


def digest_for(config: Config, dataset: Dataset) -> str:
    """Return the fingerprint of what a run of a resolved config sees of ``dataset``: images, and labels if it does."""
    return dataset.labeled_digest() if _uses_labels(config) else dataset.digest()


def _uses_labels(config: Config) -> bool:
    return config.conditional if isinstance(config, TrainConfig) else True


def check_same_data(config: Config, dataset: Dataset) -> None:
    """Raise ``ValueError`` unless ``dataset`` is what the resolved ``config`` was made for, image by image."""
    is_same = digest_for(config, dataset) == config.data_digest and dataset.image_shape == config.image_shape
    if isinstance(config, ClassifyConfig):
        is_same = is_same and dataset.num_classes == config.num_classes
    if not is_same:
        labels = " and their labels" if _uses_labels(config) else ""
        raise ValueError(
            f"{dataset.name}: these {len(dataset.train_images)} training images {dataset.image_shape}{labels} differ "
            "from those the run was started with; resume with the same data (--dataset or --data-dir say where it is "
            "now)"
        )


def build_objective(config: TrainConfig) -> Objective:
    """Return the objective of a resolved config."""
    kind = OBJECTIVES[config.objective]
    objective = kind(kind.make_options(config.objective_options))
    objective.set_up(config)
    return objective


def build_architecture(config: TrainConfig) -> Architecture:
    """Return the architecture of a resolved config."""
    architecture: Architecture = make_config(ARCHITECTURES[config.arch], config.arch_options)
    return architecture


def build_generator(config: TrainConfig) -> nn.Module:
    """Return the generator of a resolved config, untrained."""
    return build_architecture(config).generator(config.image_shape, *_classes(config))


def build_discriminator(config: TrainConfig, output_dim: int) -> nn.Module:
    """Return the discriminator of a resolved config, untrained."""
    return build_architecture(config).discriminator(config.image_shape, output_dim, *_classes(config))


def _classes(config: TrainConfig) -> tuple[int, ...]:
    """Return the number of classes as an argument for a network, none for one without labels."""
    return (config.num_classes,) if config.conditional else ()


def build_classifier(config: ClassifyConfig) -> Classifier:
    """Return the classifier's architecture of a resolved config."""
    classifier: Classifier = make_config(CLASSIFIERS[config.arch], config.arch_options)
    return classifier


def parse_regularizer(text: str, distance: Distance) -> LayerLoss | None:
    """Return the loss of layers written as ``triplet:MARGIN``, or None for ``snnl``, the soft nearest neighbor loss.

    Raises:
        ValueError: the text is neither.
    """
    if text == "snnl":
        return None
    name, _, margin = text.partition(":")
    try:
        size = float(margin)
    except ValueError:
        size = math.nan
    if name != "triplet" or not 0 <= size < math.inf:
        raise ValueError(f"regularizer must be snnl or triplet:MARGIN such as triplet:0.5, got {text!r}")
    return partial(triplet_loss, margin=size, distance=distance)


def parse_augmentations(config: Config) -> tuple[str, ...]:
    """Return the random changes of training images; raises ``ValueError``."""
    known = AUGMENTATIONS if isinstance(config, ClassifyConfig) else (FLIP,)
    return parse_names("--augment", config.augment or "none", known)


def parse_diff_augment(config: TrainConfig) -> tuple[str, ...]:
    """Return the random changes of a discriminator's inputs; raises ``ValueError``."""
    return parse_names("--diff-augment", config.diff_augment or "none", DIFF_AUGMENTATIONS)


def parse_adversarial_training(text: str | None) -> Attack | None:
    """Return the attack on the training images, if any; raises ``ValueError``."""
    return None if text is None else parse_attack(text)


def list_settings(config: Config) -> list[str]:
    """Return the lines of ``--list-settings``: each name that ``--set`` knows, with default, help and range."""
    config = _apply_settings(config)
    lines: list[str] = []
    if isinstance(config, TrainConfig):
        objective = OBJECTIVES[config.objective]
        arch = config.arch or objective.recommended.get("arch", "dcgan")
        lines += _list_options(config.objective, objective.Options, objective.make_options({}), objective.recommended)
        lines += _list_options(arch, ARCHITECTURES[arch], ARCHITECTURES[arch](), objective.recommended)
        known, recommended = ARCHITECTURES.names(), objective.recommended
    else:
        arch = config.fill_defaults().arch
        lines += _list_options(arch, CLASSIFIERS[arch], CLASSIFIERS[arch](), {})
        known, recommended = CLASSIFIERS.names(), {}
    lines += _list_options("training", type(config), config.fill_defaults(recommended), {}, flags=False)
    return [*lines, f"architectures: {', '.join(known)}"]


def _list_options(
    title: str, owner: Any, instance: Any, recommended: Mapping[str, Any], *, flags: bool = True
) -> list[str]:
    lines = [f"{title}:"]
    for field in dataclasses.fields(owner):
        meta = field.metadata
        if "help" not in meta or (meta["has_flag"] and not flags):
            continue
        limits = "|".join(meta["choices"]) if meta["choices"] else "" if meta["low"] is None else range_text(meta)
        value = recommended.get(field.name, getattr(instance, field.name))
        lines.append(f"  {field.name}={'' if value is None else value}  {meta['help']} {limits}".rstrip())
    return lines if len(lines) > 1 else [f"{title}: no options"]


def is_discriminator_option(name: str) -> bool:
    """Return whether the option ``name`` concerns the discriminator only."""
    return name.startswith(("discriminator_", "spectral_", "diff_augment"))


def _apply_settings(config: C) -> C:
    """Return ``config`` with its ``set`` texts as values of its options, or those of objective and architecture."""
    owners: dict[str, list[type]]
    if isinstance(config, TrainConfig):
        objective = OBJECTIVES[config.objective]
        arch = config.arch or objective.recommended.get("arch")
        architectures: list[type] = [ARCHITECTURES[name] for name in ([arch] if arch else ARCHITECTURES.names())]
        owners = {"objective_options": [objective.Options], "arch_options": architectures}
    else:
        owners = {"arch_options": [CLASSIFIERS[config.fill_defaults().arch]]}
    owner_of: dict[str, type] = {name: type(config) for name in option_names(type(config)) if name != "set"}
    field_of: dict[str, str] = {}  # the field of the config that holds an option of objective or architecture
    for field, kinds in owners.items():
        for kind in kinds:
            for name in option_names(kind):
                owner_of[name], field_of[name] = kind, field
    changed: dict[str, Any] = {field: dict(getattr(config, field)) for field in owners}
    for name, value in parse_settings(config.set, owner_of).items():
        if name in field_of:
            changed[field_of[name]][name] = value
        else:
            changed[name] = value
    return dataclasses.replace(config, set=(), **changed)


def _check_effects(config: TrainConfig) -> None:
    """Raise ``ValueError`` for an option that has no effect on the objective, or that this machine cannot do."""
    objective = OBJECTIVES[config.objective]
    decay = config.fill_defaults(objective.recommended).learning_rate_decay
    if not config.data_digest:  # a resolved config has a value for every option
        options = objective.make_options(config.objective_options)
        has_discriminator = getattr(options, "discriminator_dim", objective.discriminator_dim) is not None
        given = [name for name in option_names(TrainConfig) if getattr(config, name) is not None]
        for name in (*given, *config.objective_options, *config.arch_options):
            if not has_discriminator and is_discriminator_option(name):
                raise ValueError(f"{config.objective} has no discriminator, so {name} has no effect; leave it out")
            if has_discriminator and name == "real_batch_size":
                raise ValueError(
                    f"{config.objective} has a discriminator, which takes as many real as synthetic images: leave out "
                    "real_batch_size"
                )
        optimizer = config.fill_defaults(objective.recommended).optimizer
        if config.betas is not None and optimizer != "adam":
            raise ValueError(
                f"betas are options of Adam, and {config.objective} uses {optimizer}: add --optimizer adam"
            )
    if config.compile:
        options = objective.make_options(config.objective_options)
        _check_compile(config.objective, objective.differentiates_twice or has_penalties(options))
    if config.cuda_graph and choose_device(config.device).type != "cuda":
        raise ValueError("--cuda-graph needs a CUDA device; leave it out on a CPU")
    if config.cuda_graph and decay != "none":
        raise ValueError(
            f"--cuda-graph needs a learning rate that does not change: add --learning-rate-decay none, not {decay}"
        )


def _check_compile(name: str, differentiates_twice: bool) -> None:
    """Raise ``ValueError`` where the networks cannot be compiled."""
    if differentiates_twice:
        raise ValueError(
            f"{name} differentiates its networks twice, for a gradient penalty, which compiled ones do not allow; drop "
            "--compile"
        )
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if not any(compiler and shutil.which(compiler) for compiler in compilers):
        raise ValueError("--compile needs a C++ compiler, and none is found (g++, clang++, or what $CXX names)")


def _resolve_train_config(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    objective = OBJECTIVES[config.objective]
    recommended = objective.recommended
    arch = config.arch or recommended.get("arch") or _choose_architecture(dataset.image_shape)
    known = option_names(ARCHITECTURES[arch])
    suited = {name: value for name, value in recommended.items() if name in known}
    architecture = make_config(ARCHITECTURES[arch], {**suited, **config.arch_options})
    if len(dataset.test_images) < 2:
        raise ValueError(
            f"{dataset.name}: only {len(dataset.test_images)} image is held out, entanglement needs 2; give 20 training"
            " images or more, or a test half of 2 or more"
        )
    rate = config.discriminator_learning_rate
    if rate is None and config.learning_rate is None:  # a learning rate of the user's is for both networks
        rate = recommended.get("discriminator_learning_rate")
    filled = config.fill_defaults(recommended)
    if filled.conditional and config.conditional is None and not _suits_conditional(dataset, filled.batch_size):
        filled = dataclasses.replace(filled, conditional=False)
    counts = _count_classes(dataset) if filled.conditional else ()
    if counts and objective.needs_balanced_classes:
        filled = _balance(config, filled, len(counts))
    options = objective.make_options({**objective.recommend_options(dataset), **config.objective_options})
    return dataclasses.replace(
        filled,
        real_batch_size=filled.real_batch_size or filled.batch_size,
        objective_options=option_values(options),
        arch=arch,
        arch_options=option_values(architecture),
        discriminator_learning_rate=rate,
        class_counts=counts,
    )


def _suits_conditional(dataset: Dataset, batch_size: int) -> bool:
    """Return whether a generator of ``dataset`` may be conditional where the user has not asked for it."""
    labels = dataset.train_labels
    if dataset.is_points or labels is None or dataset.test_labels is None or int(labels.min()) < 0:
        return False
    counts = torch.bincount(labels)
    return 2 <= len(counts) <= batch_size // 2 and bool(counts.all()) and dataset.num_classes == len(counts)


def _count_classes(dataset: Dataset) -> tuple[int, ...]:
    """Return how many training images each class has; raises ``ValueError`` without labels, or if one has none."""
    check_labels(dataset, "a conditional generator")
    assert dataset.train_labels is not None
    counts = tuple(torch.bincount(dataset.train_labels, minlength=dataset.num_classes).tolist())
    if 0 in counts:
        raise ValueError(
            f"{dataset.name} has no training image of class {counts.index(0)}: number the classes from 0 on, or leave "
            "out --conditional"
        )
    return counts


def _balance(given: TrainConfig, filled: TrainConfig, num_classes: int) -> TrainConfig:
    """Return ``filled`` with as many images of each class per batch: a default batch size is rounded up.

    Raises:
        ValueError: a batch size that was ``given`` is not a multiple of the number of classes.
    """
    sizes = {}
    for name in ("batch_size", "real_batch_size"):
        size = getattr(filled, name)
        fitting = size and max(2, -(-size // num_classes)) * num_classes
        if getattr(given, name) is not None and size != fitting:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} of a conditional generator must be a multiple of the {num_classes} classes, 2 images of "
                f"each or more, got {size}: use {fitting}, or add --no-conditional"
            )
        sizes[name] = fitting
    return dataclasses.replace(filled, **sizes)


def _choose_architecture(image_shape: ImageShape) -> str:
    """Return dcgan where the images' size allows it, else mlp."""
    try:
        base_and_doublings(image_shape, "dcgan")
    except ValueError:
        return "mlp"
    return "dcgan"


def _resolve_classify_config(config: ClassifyConfig, dataset: Dataset) -> ClassifyConfig:
    filled = config.fill_defaults()
    check_labels(dataset)
    classifier = make_config(CLASSIFIERS[filled.arch], config.arch_options)
    return dataclasses.replace(
        filled,
        arch_options=option_values(classifier),
        num_classes=dataset.num_classes,
    )


def check_labels(dataset: Dataset, user: str = "a classifier") -> None:
    """Raise ``ValueError`` unless both halves of ``dataset`` have labels from 0 on, of two classes or more."""
    labels = dataset.train_labels
    if labels is None or dataset.test_labels is None:
        raise ValueError(
            f"{dataset.missing_labels}, and {user} needs them; a folder with one folder per class has labels"
        )
    if int(labels.min()) < 0 or int(labels.min()) == int(labels.max()):
        raise ValueError(f"{dataset.name}: {user} needs labels from 0 on, of 2 classes or more")
    if dataset.num_classes > len(labels):
        raise ValueError(
            f"{dataset.name} has labels up to {dataset.num_classes - 1} for {len(labels)} training images: number the "
            "classes from 0 on"
        )
