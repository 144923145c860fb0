"""From what the user says of a classifier's training to a complete plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from snngan.config import ClassifyConfig, ClassifyPlan
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import check_batch_size
from snngan.data.datasets import absolute_name, data_folder
from snngan.losses.entangled import EntangledLoss, LayerLoss
from snngan.losses.pairwise import Distance
from snngan.losses.temperature import parse_temperature
from snngan.losses.triplet import triplet_loss
from snngan.models import CLASSIFIERS, Classifier
from snngan.robustness.attacks import Attack, parse_attack
from snngan.training.plan import check_written, describe_samples, option_values, parse_settings, read_shape

MOST_SEEDS = 1000


def make_classify_plan(config: ClassifyConfig, dataset: Dataset) -> ClassifyPlan:
    """Return the plan of a classifier's run of ``config`` on ``dataset``.

    Raises:
        ValueError: a name, an option or a value is unknown or out of range, or the data have no labels or do not fit.
    """
    classifier = check_classify_config(config)
    check_labels(dataset)
    check_batch_size(config.batch_size, len(dataset.train_images))
    rate, alpha = config.learning_rate, config.alpha
    return ClassifyPlan(
        dataset=absolute_name(config.dataset),
        data_dir=str(data_folder(config.data_dir).absolute()),
        image_size=config.image_size,
        skip_broken=config.skip_broken,
        data_digest=dataset.labeled_digest(),
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        class_names=dataset.class_names,
        arch=config.arch,
        arch_options=option_values(classifier),
        layers=layers_run(classifier, config.layers, dataset),
        regularizer=config.regularizer,
        layer_reduction=config.layer_reduction,
        adversarial_training=config.adversarial_training,
        deterministic=config.deterministic,
        alpha=alpha,
        alpha_final=alpha if config.alpha_final is None else config.alpha_final,
        temperature=config.temperature,
        distance="cosine" if config.distance == "cosine" else "sqeuclidean",
        steps=config.steps,
        schedule_steps=config.steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        learning_rate=rate,
        learning_rate_final=rate if config.learning_rate_final is None else config.learning_rate_final,
        seeds=seeds_of(config),
        ensemble=config.ensemble,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )


def check_classify_config(config: ClassifyConfig) -> Classifier:
    """Return the architecture, or raise ``ValueError`` for what is wrong on any data set: asked before one is read."""
    kind = CLASSIFIERS[config.arch]
    parse_temperature(config.temperature)
    parse_regularizer(config.regularizer, "sqeuclidean")
    parse_adversarial_training(config.adversarial_training)
    seeds_of(config)
    return kind(**parse_settings(config.set, (kind,)))


def check_labels(dataset: Dataset) -> None:
    """Raise ``ValueError`` unless both halves of ``dataset`` are pictures or points with labels of two classes."""
    labels = dataset.train_labels
    if labels is None or dataset.test_labels is None:
        raise ValueError(f"{dataset.missing_labels}, and a classifier learns from them; a folder of class folders has")
    if int(labels.min()) < 0 or int(labels.min()) == int(labels.max()):
        raise ValueError(f"{dataset.name}: a classifier takes labels from 0 on, of 2 classes or more")
    if dataset.num_classes > len(labels):
        raise ValueError(
            f"{dataset.name} has labels up to {dataset.num_classes - 1} for {len(labels)} training images: number the "
            "classes from 0 on"
        )


def layers_run(classifier: Classifier, layers: str, dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the layers that ``layers`` means, as one pass over two images runs them; not the logits.

    Raises:
        ValueError: there is none, one is unknown or does not put out a point an image, or the images do not fit.
    """
    chosen = classifier.hidden if layers == "*" else tuple(part.strip() for part in layers.split(","))
    with torch.random.fork_rng(devices=[]):
        network = classifier.network(dataset.image_shape, dataset.num_classes).eval()
        images = to_unit_range(dataset.train_images[:2])
        _, values = EntangledLoss(network, chosen).read(images, torch.arange(len(images)))
    return tuple(values)


def seeds_of(config: ClassifyConfig) -> tuple[int, ...]:
    """Return the seeds that a user asks for, by ``seeds`` or by ``seed``; raises ``ValueError``."""
    if config.seeds is None:
        return (config.seed,)
    if config.seed:
        raise ValueError(f"--seed {config.seed} and --seeds {config.seeds}: give one of them")
    return parse_seeds(config.seeds)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds written as ``0:4`` (0 to 3), ``0,3,5`` or ``7``.

    Raises:
        ValueError: the text is none of these forms, or names a seed twice or none.
    """
    first, colon, last = text.partition(":")
    try:
        counted = range(int(first), int(last)) if colon else [int(part) for part in text.split(",")]
    except ValueError:
        counted = []
    if len(counted) > MOST_SEEDS:
        raise ValueError(f"--seeds {text}: {len(counted)} networks side by side; at most {MOST_SEEDS}")
    seeds = tuple(counted)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds takes 0:4 (that is 0 to 3), 0,3,5 or 7, none twice, not {text!r}")
    return seeds


def classify_plan_from_json(values: Mapping[str, Any]) -> ClassifyPlan:
    """Return the plan that ``dataclasses.asdict`` turned into ``values``.

    Raises:
        ValueError: a field is missing, unknown or out of range.
    """
    try:
        shape = read_shape(values["image_shape"])
        listed = {name: tuple(values[name]) for name in ("layers", "seeds", "class_names")}
        plan = ClassifyPlan(**{**values, **listed, "image_shape": shape})
        _check_plan(plan)
        return plan
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the run's plan is not one that this version reads: {error}") from error


def _check_plan(plan: ClassifyPlan) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what no user could have asked for."""
    check_written(plan, ClassifyConfig, "layers", "seeds")
    if not all(isinstance(name, str) for name in (*plan.layers, *plan.class_names)):
        raise TypeError("layers and class_names are texts")
    parse_temperature(plan.temperature)
    parse_regularizer(plan.regularizer, plan.distance)
    parse_adversarial_training(plan.adversarial_training)
    parse_seeds(",".join(map(str, plan.seeds)))
    if type(plan.num_classes) is not int:
        raise TypeError("num_classes is no whole number")
    if not plan.layers or plan.num_classes < 2 or plan.schedule_steps < 1:
        wrong = f"layers {plan.layers}, num_classes {plan.num_classes}, schedule_steps {plan.schedule_steps}"
        raise ValueError(f"the run's plan has {wrong}; expected some layers, 2 classes and 1 step or more")
    build_classifier(plan)


def parse_regularizer(text: str, distance: Distance) -> LayerLoss | None:
    """Return the loss of layers written as ``triplet:MARGIN``, or None for ``snnl``: the soft nearest neighbor loss.

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
        raise ValueError(f"--regularizer takes snnl or triplet:MARGIN such as triplet:0.5, not {text!r}")
    return partial(triplet_loss, margin=size, distance=distance)


def parse_adversarial_training(text: str | None) -> Attack | None:
    """Return the attack that the training images go through, if any; raises ``ValueError``."""
    return None if text is None else parse_attack(text)


def build_classifier(plan: ClassifyPlan) -> Classifier:
    """Return the plan's architecture with its options."""
    return CLASSIFIERS[plan.arch](**plan.arch_options)


def describe_classify_plan(plan: ClassifyPlan, dataset: Dataset, device: torch.device) -> list[str]:
    """Return what a run will do, a line each for data, network, loss and training."""
    options = ", ".join(f"{name}={value}" for name, value in plan.arch_options.items())
    loss = "cross-entropy"
    if plan.alpha or plan.alpha_final:
        alpha = f"{plan.alpha:g}" if plan.alpha == plan.alpha_final else f"({plan.alpha:g} to {plan.alpha_final:g})"
        how = ("entanglement", f", T {plan.temperature}") if plan.regularizer == "snnl" else (plan.regularizer, "")
        over = "" if plan.layer_reduction == "sum" else f"{plan.layer_reduction} "
        loss += f" + {alpha} * {over}{how[0]} of {', '.join(plan.layers)} ({plan.distance}{how[1]})"
    if plan.adversarial_training is not None:
        loss += f", of {'points' if dataset.is_points else 'images'} moved by {plan.adversarial_training}"
    rate = f"{plan.learning_rate:g}"
    if plan.learning_rate_final != plan.learning_rate:
        rate += f" to {plan.learning_rate_final:g}"
    seeds = ", ".join(map(str, plan.seeds))
    return [
        f"data       {plan.dataset}: {len(dataset.train_images)} {describe_samples(dataset)} of {plan.num_classes} "
        f"classes, {len(dataset.test_images)} held out",
        f"network    {plan.arch}" + (f" ({options})" if options else ""),
        f"loss       {loss}",
        f"training   {plan.steps} steps of {plan.batch_size}, {plan.optimizer}, learning rate {rate}, "
        f"seed{'s' * (len(plan.seeds) > 1)} {seeds}, {plan.precision} on {device}",
    ]
