"""Runs that are trained on one process and on several: what they are, and one rank of them.

    torchrun --standalone --nproc-per-node 2 tests/reference/ranks.py FOLDER STEPS NAME...

Each NAME is a key of ``CASES``; its run is in FOLDER/NAME, made there by rank 0 or, where it lies there, gone on with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from snngan.config import ClassifyConfig, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.losses.gather import across_ranks
from snngan.training.checkpoint import load_newest
from snngan.training.classifier import train_classifier
from snngan.training.classifier_plan import make_classify_plan
from snngan.training.distributed import is_first, joined, told_by_first
from snngan.training.gan import train_gan
from snngan.training.plan import make_plan
from snngan.training.runlog import ClassifierFolder, RunFolder

CPU = torch.device("cpu")
GAN: dict[str, Any] = {"arch": "dcgan", "set": ("width=4", "latent_dim=8"), "batch_size": 16}
CLASSIFIER: dict[str, Any] = {
    "arch": "feedforward", "set": ("widths=16-8",), "alpha": -0.05, "batch_size": 24, "learning_rate": 1e-3,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    **{name: GAN | {"objective": name} for name in ("gan", "wgan-gp", "mmd", "snnl-projected")},
    "wgan-gp, batch": GAN | {"objective": "wgan-gp", "set": (*GAN["set"], "discriminator_norm=batch")},
    "snnl-pixel": {"objective": "snnl-pixel", "arch": "mlp", "set": ("width=16", "latent_dim=8"), "batch_size": 16},
    "learned": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=learned:1")},
    "classifier": CLASSIFIER | {"seeds": "0:2", "temperature": "learned:1"},
    "batch-norm": CLASSIFIER | {"arch": "resnet15", "set": ("width=2",), "seed": 3},
    "triplet": CLASSIFIER | {"regularizer": "triplet:0.5", "distance": "cosine"},
}


def digits() -> Dataset:
    return load_dataset("digits", keep=False)


def new_run(folder: Path, name: str, dataset: Dataset, steps: int) -> RunFolder | ClassifierFolder:
    """Return the run of a case in ``folder``, made now."""
    options = CASES[name] | {"dataset": "digits", "steps": steps, "checkpoint_every": steps, "track_every": steps}
    if "objective" in options:
        plan = make_plan(TrainConfig(**options, sample_every=steps, evaluate_every=0), dataset)
        return RunFolder.create(folder / name, plan, CPU)
    return ClassifierFolder.create(folder / name, make_classify_plan(ClassifyConfig(**options), dataset), CPU)


def train(
    run: RunFolder | ClassifierFolder, dataset: Dataset, start: dict[str, Any] | None = None
) -> list[list[float]]:
    """Train, and return the losses of each step, which only the first rank is told."""
    losses: list[list[float]] = []

    def report(step: int, scalars: dict[str, float]) -> None:
        losses.append([value for tag, value in sorted(scalars.items()) if tag.startswith("loss/")])

    if isinstance(run, RunFolder):
        train_gan(run, dataset, CPU, start=start, report=report)
    else:
        train_classifier(run, dataset, CPU, start=start, report=report)
    return losses


def of_rank(folder: Path, steps: int, names: list[str]) -> None:
    with joined("cpu"):
        assert across_ranks()
        dataset = digits()
        for name in names:
            known = (folder / name).exists()
            told_by_first(None)  # all have looked
            if is_first() and not known:
                new_run(folder, name, dataset, steps)
            told_by_first(None)
            kind = RunFolder if "objective" in CASES[name] else ClassifierFolder
            run = kind.open(folder / name)
            run.set_steps(steps)
            holds = "players" if kind is RunFolder else "members"
            losses = train(run, dataset, load_newest(run.checkpoints, holds=holds) if known else None)
            if is_first():
                torch.save(losses, folder / f"{name}.losses")


if __name__ == "__main__":
    torch.set_num_threads(1)
    of_rank(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
