"""The figures of trained classifiers on a labeled data set, and how they were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from snngan.data import Dataset
from snngan.data.datasets import Notify, load_dataset
from snngan.evaluation.attack_evaluation import Trial, queries_of, trial_of
from snngan.stats import summarize
from snngan.training.checkpoint import load_newest
from snngan.training.classifier import READ, figures_of, layers_of, logits_of, reading_order
from snngan.training.ensemble import Ensemble, build_ensemble
from snngan.training.run_folder import ClassifierRun
from snngan.version import __version__


def evaluate_classifier(
    run: ClassifierRun,
    *,
    against: str | None = None,
    split: str = "test",
    data_dir: str | None = None,
    device: torch.device,
    trial: Trial | None = None,
    source: ClassifierRun | None = None,
    notify: Notify = lambda line: None,
) -> dict[str, Any]:
    """Return ``figures`` (mean, best, interval and values over the run's seeds, by name) and their ``protocol``.

    With a ``trial`` there is also ``trial``, a list: see :func:`trial_of`.

    Args:
        run: of one seed or several.
        against: a labeled data set, ``folder:PATH`` or ``npz:PATH``; default: the run's own.
        split: which half of it, "train" or "test".
        data_dir: where data sets are kept; default: where the run found its own.
        device: where the networks are put.
        trial: attacks to put them to, DkNN to judge them by, or both.
        source: the run whose networks the attacks are made on, seed by seed; default: ``run``.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: no sound checkpoint, data without labels or of another shape, or a source that does not fit.
    """
    plan = run.plan
    members, step = load_members(run, device, notify)
    sources = None if source is None else sources_of(run, source, device, notify)

    def loaded(name: str) -> Dataset:
        return load_dataset(
            name, data_dir=data_dir or plan.data_dir, skip_broken=plan.skip_broken, keep=False, notify=notify,
            image_size=plan.image_shape[1] if name.startswith("folder:") else plan.image_size,
        )  # fmt: skip

    dataset = loaded(against or plan.dataset)
    own = loaded(plan.dataset) if against and trial is not None and trial.dknn else dataset
    if (own is not dataset or against is None) and own.labeled_digest() != plan.data_digest:
        raise ValueError(
            f"{own.name} is not what {run.path} was trained on any more; to judge it by what is there now, "
            f"without --dknn: --against {own.name}"
        )
    seen = dataset.labeled_digest() == plan.data_digest
    if trial is not None and trial.dknn and seen and split == "train":
        raise ValueError("--dknn looks among the training images, and cannot judge them: leave out --split")
    images, labels = labeled_half(run, dataset, split)
    values = figures_of(logits_of(members, images, device), labels)
    layers = layers_of(members, images, labels, device)
    values |= {f"entanglement/{layer}": value for layer, value in layers.items()}
    protocol: dict[str, Any] = {
        "dataset": dataset.name, "data_digest": dataset.labeled_digest(), "split": split, "num_images": len(images),
        "num_entanglement": min(READ, len(images)), "arch": plan.arch, "alpha": plan.alpha, "seeds": list(plan.seeds),
        "step": step, "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    figures = {name: summarize(each.double().tolist(), best=min if name != "accuracy" else max)
               for name, each in values.items()}  # fmt: skip
    content: dict[str, Any] = {"figures": figures, "protocol": protocol}
    if trial is not None:
        queries = queries_of(own) if trial.dknn and seen else (images, labels)
        queries = queries[0][: trial.count], queries[1][: trial.count]
        where = None if source is None else str(source.path)
        protocol["trial"] = asdict(trial) | {"source": where, "num_images": len(queries[0])}
        networks = [network.to(device) for network in members.networks()]
        content["trial"] = trial_of(trial, networks, sources or networks, plan.layers, own, queries, device)
    return content


def labeled_half(run: ClassifierRun, dataset: Dataset, split: str) -> tuple[Tensor, Tensor]:
    """Return images and labels of one half of ``dataset``, in reading order, the labels as the run numbers classes.

    Raises:
        ValueError: it has no labels, or the run does not classify the like.
    """
    plan = run.plan
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    if labels is None:
        raise ValueError(f"{dataset.missing_labels}, and accuracy needs them")
    labels = renamed(labels, dataset.class_names, plan.class_names, dataset.name)
    if dataset.image_shape != plan.image_shape or int(labels.max()) >= plan.num_classes:
        raise ValueError(
            f"{run.path} classifies images {plan.image_shape} into {plan.num_classes} classes; {dataset.name} has "
            f"images {dataset.image_shape} of {dataset.num_classes}"
        )
    order = reading_order(images)
    return images[order], labels[order]


def sources_of(run: ClassifierRun, source: ClassifierRun, device: torch.device, notify: Notify) -> list[nn.Module]:
    """Return the network of ``source`` that attacks on each network of ``run`` are made on.

    Raises:
        ValueError: the source is of other images or classes, or has neither one network nor as many.
    """
    networks = [network.to(device) for network in load_members(source, device, notify)[0].networks()]
    known, own = (f"images {each.plan.image_shape} of {each.plan.num_classes} classes" for each in (run, source))
    if own != known:
        raise ValueError(f"{source.path} classifies {own}; attacks on {run.path} need {known}")
    count = len(run.plan.seeds)
    if len(networks) not in (1, count):
        raise ValueError(f"{source.path} has {len(networks)} networks; attacks on {run.path} need 1 or {count}")
    return networks * (count // len(networks))


def renamed(labels: Tensor, names: Sequence[str], known: Sequence[str], dataset: str) -> Tensor:
    """Return labels (N,) of classes called ``names`` as numbers of the same among ``known``; as they are if unnamed.

    Raises:
        ValueError: one of them is not known.
    """
    if not names or not known:
        return labels
    strange = [name for name in names if name not in known]
    if strange:
        raise ValueError(f"{dataset} has the classes {', '.join(strange)}; the run knows {', '.join(known)}")
    return torch.tensor([known.index(name) for name in names])[labels]


def load_members(run: ClassifierRun, device: torch.device, notify: Notify = lambda line: None) -> tuple[Ensemble, int]:
    """Return the networks of a run's newest sound checkpoint, and its step.

    Raises:
        CheckpointError: there is none.
    """
    state = load_newest(run.checkpoints, notify, holds="members")
    members = build_ensemble(run.plan, device, state["members"])
    members.load_state_dict(state["members"])
    return members, int(state["step"])
