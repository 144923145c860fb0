"""The figures of trained classifiers on a labelled data set, and how they were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from snngan.data import Dataset
from snngan.data.datasets import Notify, load_dataset
from snngan.evaluation.credibility import Trial, queries_of, trial_of
from snngan.intervals import summary
from snngan.training.checkpoint import load_newest
from snngan.training.classifier import READ, figures_of, layers_of, logits_of, reading_order
from snngan.training.members import Members, build_members
from snngan.training.runlog import ClassifierFolder
from snngan.version import __version__


def evaluate_classifier(
    run: ClassifierFolder,
    *,
    against: str | None = None,
    split: str = "test",
    data_dir: str | None = None,
    device: torch.device,
    trial: Trial | None = None,
    source: ClassifierFolder | None = None,
    notify: Notify = lambda line: None,
) -> dict[str, Any]:
    """Return ``figures`` (mean, best, interval and values over the run's seeds, by name) and their ``protocol``.

    With a ``trial`` there is also ``trial``, a list: see :func:`trial_of`.

    Args:
        run: of one seed or several.
        against: a labelled data set, ``folder:PATH`` or ``npz:PATH``; default: the run's own.
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

    def loaded(name: str) -> Dataset:
        return load_dataset(
            name, data_dir=data_dir or plan.data_dir, image_size=plan.image_size, skip_broken=plan.skip_broken,
            notify=notify,
        )  # fmt: skip

    dataset = loaded(against or plan.dataset)
    if against is None and dataset.labelled_digest() != plan.data_digest:
        raise ValueError(
            f"{dataset.name} is not what {run.path} was trained on any more; to judge it by what is there now: "
            f"--against {dataset.name}"
        )
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    if labels is None:
        raise ValueError(f"{dataset.name} has no labels to judge by")
    labels = renamed(labels, dataset.class_names, plan.class_names, dataset.name)
    if dataset.image_shape != plan.image_shape or int(labels.max()) >= plan.num_classes:
        raise ValueError(
            f"{run.path} classifies images {plan.image_shape} into {plan.num_classes} classes; {dataset.name} has "
            f"images {dataset.image_shape} of {dataset.num_classes}"
        )
    order = reading_order(images)
    images, labels = images[order], labels[order]
    values = figures_of(logits_of(members, images, device), labels)
    layers = layers_of(members, images, labels, device)
    values |= {f"entanglement/{layer}": value for layer, value in layers.items()}
    protocol = {
        "dataset": dataset.name, "data_digest": dataset.labelled_digest(), "split": split, "num_images": len(images),
        "num_entanglement": min(READ, len(images)), "arch": plan.arch, "alpha": plan.alpha, "seeds": list(plan.seeds),
        "step": step, "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    figures = {name: summary(each.double().tolist(), best=min if name != "accuracy" else max)
               for name, each in values.items()}  # fmt: skip
    content = {"figures": figures, "protocol": protocol}
    if trial is not None:
        if trial.dknn and against is None:
            if split == "train":
                raise ValueError("--dknn looks among the training images, and cannot judge them: leave out --split")
            images, labels = queries_of(dataset)
        own = loaded(plan.dataset) if trial.dknn and against else dataset
        protocol["trial"] = asdict(trial) | {"source": None if source is None else str(source.path)}
        content["trial"] = trial_of(
            trial, members.networks(), sources_of(run, source, device, notify), plan.layers, own, (images, labels),
            device,
        )  # fmt: skip
    return content


def sources_of(
    run: ClassifierFolder, source: ClassifierFolder | None, device: torch.device, notify: Notify
) -> list[nn.Module]:
    """Return the network that attacks on each network of ``run`` are made on: its own, or the ``source``'s.

    Raises:
        ValueError: the source is of other images or classes, or has neither one network nor as many.
    """
    chosen = run if source is None else source
    networks = [network.to(device) for network in load_members(chosen, device, notify)[0].networks()]
    known, own = (f"images {each.plan.image_shape} of {each.plan.num_classes} classes" for each in (run, chosen))
    if own != known:
        raise ValueError(f"{chosen.path} classifies {own}; attacks on {run.path} need {known}")
    count = len(run.plan.seeds)
    if len(networks) not in (1, count):
        raise ValueError(f"{chosen.path} has {len(networks)} networks; attacks on {run.path} need 1 or {count}")
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


def load_members(
    run: ClassifierFolder, device: torch.device, notify: Notify = lambda line: None
) -> tuple[Members, int]:
    """Return the networks of a run's newest sound checkpoint, and its step.

    Raises:
        CheckpointError: there is none.
    """
    state = load_newest(run.checkpoints, notify, holds="members")
    members = build_members(run.plan, device)
    members.load_state_dict(state["members"])
    return members, int(state["step"])
