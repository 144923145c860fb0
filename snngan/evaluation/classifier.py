"""Metrics of trained classifiers on a labeled data set, with a record of how they were computed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snngan.checkpoint import load_newest
from snngan.config import ClassifyConfig
from snngan.data import Dataset
from snngan.data.datasets import Notify
from snngan.evaluation.attack_evaluation import AttackProtocol, evaluate_attacks, select_queries
from snngan.evaluation.sources import Reader
from snngan.stats import summarize
from snngan.training.classifier import (
    NUM_ENTANGLED,
    classification_metrics,
    compute_logits,
    fixed_permutation,
    measure_layers,
)
from snngan.training.ensemble import Ensemble, build_ensemble
from snngan.training.run_folder import RunFolder, open_run
from snngan.version import __version__


def load_classifier(
    path: str | Path, seed: int | None = None, *, device: torch.device | str = "cpu", notify: Notify = lambda line: None
) -> nn.Module:
    """Return the trained network of a classifier's run: a module in evaluation mode that maps images to logits.

    Images are (N, C, H, W) in [-1, 1]; logits are (N, K).

    Args:
        path: folder of the run.
        seed: which network of a run of several seeds; default: the first.
        device: device of the network.
        notify: called with a line for each damaged checkpoint that was skipped.

    Raises:
        ValueError: the folder is not a classifier's run, holds no sound checkpoint, or has no network of that seed.

    Example:
        >>> classifier = load_classifier("runs/0001-mnist-cnn")  # doctest: +SKIP
        >>> classes = classifier(images).argmax(1)  # doctest: +SKIP
    """
    run = open_run(Path(path), ClassifyConfig)
    seeds = run.config.seed_list
    if seed is not None and seed not in seeds:
        raise ValueError(f"seed must be one of the seeds of {path}, {', '.join(map(str, seeds))}, got {seed}")
    networks = load_ensemble(run, torch.device(device), notify)[0].networks()
    return networks[0 if seed is None else seeds.index(seed)].to(device).eval()


def load_ensemble(
    run: RunFolder[ClassifyConfig], device: torch.device, notify: Notify = lambda line: None
) -> tuple[Ensemble, int]:
    """Return the networks of a run's newest sound checkpoint, and its step; raises ``ValueError`` if there is none."""
    state = load_newest(run.checkpoints, notify)
    ensemble = build_ensemble(run.config, None, device, state["networks"])
    ensemble.load_state_dict(state)
    return ensemble, int(state["step"])


def evaluate_classifier(
    run: RunFolder[ClassifyConfig],
    *,
    reference: str | None = None,
    split: str = "test",
    data_dir: str | None = None,
    device: torch.device,
    attack_protocol: AttackProtocol | None = None,
    source: RunFolder[ClassifyConfig] | None = None,
    notify: Notify = lambda line: None,
) -> dict[str, Any]:
    """Return ``metrics`` (mean, best, interval and values over the run's seeds, by name) and their ``protocol``.

    With an ``attack_protocol`` there is also ``attack_evaluation``, a list: see :func:`evaluate_attacks`.

    Args:
        run: run of a classifier, with one seed or several.
        reference: name of a labeled data set, ``folder:PATH`` or ``npz:PATH``; default: that of the run.
        split: "train" or "test".
        data_dir: folder of data sets; default: that of the run.
        device: device of the networks.
        attack_protocol: attacks on the classifiers, DkNN, or both.
        source: run whose networks the attacks are made on, seed by seed; default: ``run``.
        notify: called with each note for the user.

    Raises:
        ValueError: no sound checkpoint, data without labels or with another shape, or a source that does not match.
    """
    config = run.config
    uses_dknn = attack_protocol is not None and attack_protocol.dknn
    if source is not None and (attack_protocol is None or attack_protocol.attack is None):
        raise ValueError("source (--source) is the run that an attack is made on: give --attack and --epsilon too")
    ensemble, step = load_ensemble(run, device, notify)
    sources = None if source is None else _load_sources(run, source, device, notify)

    reader = Reader(split, data_dir=data_dir or config.data_dir, skip_broken=config.skip_broken, notify=notify)

    def load(name: str) -> Dataset:
        return reader.load(name, config.image_shape[1] if name.startswith("folder:") else config.image_size)

    dataset = load(reference or config.dataset)
    own = load(config.dataset) if reference and uses_dknn else dataset
    if (own is not dataset or reference is None) and own.labeled_digest() != config.data_digest:
        raise ValueError(
            f"{own.name} has changed since {run.path} was trained on it; to evaluate on the present data, without "
            f"--dknn, give --reference {own.name}"
        )
    is_own = dataset.labeled_digest() == config.data_digest
    if uses_dknn and is_own and split == "train":
        raise ValueError("split must be test with --dknn, which searches among the training images: leave out --split")
    images, labels = _select_split(run, dataset, split)
    values = classification_metrics(compute_logits(ensemble, images, device), labels)
    layers = measure_layers(ensemble, images, labels, device)
    values |= {f"entanglement/{layer}": value for layer, value in layers.items()}
    protocol: dict[str, Any] = {
        "dataset": dataset.name, "data_digest": dataset.labeled_digest(), "split": split, "num_images": len(images),
        "num_entanglement": min(NUM_ENTANGLED, len(images)), "arch": config.arch, "alpha": config.alpha,
        "seeds": list(config.seed_list), "step": step, "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    best = {name: max if name == "accuracy" else min for name in values}
    metrics = {name: summarize(each.double().tolist(), best=best[name]) for name, each in values.items()}
    content: dict[str, Any] = {"metrics": metrics, "protocol": protocol}
    if attack_protocol is not None:
        queries = select_queries(own) if uses_dknn and is_own else (images, labels)
        protocol["attack_evaluation"] = asdict(attack_protocol) | {
            "source": None if source is None else str(source.path),
            "num_images": min(attack_protocol.count, len(queries[0])),
        }
        networks = [network.to(device) for network in ensemble.networks()]
        arguments = networks, sources or networks, config.layer_names, own, queries, device
        content["attack_evaluation"] = evaluate_attacks(attack_protocol, *arguments)
    return content


def _select_split(run: RunFolder[ClassifyConfig], dataset: Dataset, split: str) -> tuple[Tensor, Tensor]:
    """Return the images of one split, and their labels as the run numbers its classes."""
    config = run.config
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    if labels is None:
        raise ValueError(f"{dataset.missing_labels}, and accuracy needs them")
    if dataset.class_names and config.class_names:
        if unknown := [name for name in dataset.class_names if name not in config.class_names]:
            raise ValueError(
                f"classes of {dataset.name} must be those of the run, {', '.join(config.class_names)}; "
                f"got {', '.join(unknown)}"
            )
        labels = torch.tensor([config.class_names.index(name) for name in dataset.class_names])[labels]
    if dataset.image_shape != config.image_shape or int(labels.max()) >= config.num_classes:
        raise ValueError(
            f"{run.path} classifies images {config.image_shape} into {config.num_classes} classes; {dataset.name} has "
            f"images {dataset.image_shape} of {dataset.num_classes}"
        )
    order = fixed_permutation(images)
    return images[order], labels[order]


def _load_sources(
    run: RunFolder[ClassifyConfig], source: RunFolder[ClassifyConfig], device: torch.device, notify: Notify
) -> list[nn.Module]:
    """Return, for each network of ``run``, the network of ``source`` that attacks on it are made on."""
    networks = [network.to(device) for network in load_ensemble(source, device, notify)[0].networks()]
    expected, got = (f"images {each.config.image_shape} of {each.config.num_classes} classes" for each in (run, source))
    if got != expected:
        raise ValueError(f"source must classify {expected}, as {run.path} does; {source.path} classifies {got}")
    count = len(run.config.seed_list)
    if len(networks) not in (1, count):
        raise ValueError(
            f"source must have 1 or {count} networks to attack {run.path}; {source.path} has {len(networks)}"
        )
    return networks * (count // len(networks))
