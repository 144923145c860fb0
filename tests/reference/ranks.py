"""Runs that are trained on one process and on several: what they are, and one rank of them.

    torchrun --standalone --nproc-per-node 2 tests/reference/ranks.py FOLDER STEPS NAME...

Each NAME is a key of ``CASES``; its run is in FOLDER/NAME, made there by rank 0 or, where it lies there, gone on with.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from snngan.config import ClassifyConfig, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.distributed import is_distributed
from snngan.training import classifier, gan
from snngan.training.checkpoint import load_newest
from snngan.training.classifier import train_classifier
from snngan.training.classifier_plan import make_classify_plan
from snngan.training.distributed import broadcast_from_rank0, is_main_process, process_group
from snngan.training.gan import train_gan
from snngan.training.plan import make_plan
from snngan.training.run_folder import ClassifierRun, GanRun

CPU = torch.device("cpu")
MADE: list[Any] = []
"""The players or members of the last run."""
GAN: dict[str, Any] = {"arch": "dcgan", "set": ("width=4", "latent_dim=8"), "batch_size": 16}
BATCH_NORM = ("width=16", "latent_dim=8", "discriminator_norm=batch")
CLASSIFIER: dict[str, Any] = {
    "arch": "feedforward", "set": ("widths=16-8",), "alpha": -0.05, "batch_size": 24, "learning_rate": 1e-3,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    **{name: GAN | {"objective": name} for name in ("gan", "wgan-gp", "mmd", "snnl-projected")},
    "snnl-pixel": GAN | {"objective": "snnl-pixel", "arch": "mlp", "set": ("width=16", "latent_dim=8")},
    "wgan-gp, batch": GAN | {"objective": "wgan-gp", "arch": "mlp", "set": BATCH_NORM},
    "hinge, batch": GAN | {"objective": "hinge", "arch": "mlp", "set": (*BATCH_NORM, "spectral_norm=true")},
    "many points": GAN | {"objective": "snnl-pixel", "arch": "mlp", "set": ("width=16",), "batch_size": 300},
    "mixed": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=0.3+1", "distance=cosine")},
    "annealed": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=annealed:1")},
    "learned": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=learned:1")},
    "classifier": CLASSIFIER | {"seeds": "0:2", "temperature": "learned:1"},
    "batch-norm": CLASSIFIER | {"arch": "resnet15", "set": ("width=2",), "seed": 3},
    "in one": CLASSIFIER | {"seeds": "0:2", "ensemble": "vectorized"},
    "sgd": CLASSIFIER | {"optimizer": "sgd", "layer_reduction": "mean", "alpha_final": 0.05},
    "triplet": CLASSIFIER | {"regularizer": "triplet:0.5", "distance": "cosine"},
}


def digits() -> Dataset:
    return load_dataset("digits", keep=False)


def new_run(folder: Path, name: str, dataset: Dataset, steps: int) -> GanRun | ClassifierRun:
    """Return the run of a case in ``folder``, made now."""
    options = CASES[name] | {"dataset": "digits", "steps": steps, "checkpoint_every": steps, "log_every": steps}
    if "objective" in options:
        plan = make_plan(TrainConfig(**options, sample_every=steps, metrics_every=0), dataset)
        return GanRun.create(folder / name, plan, CPU)
    return ClassifierRun.create(folder / name, make_classify_plan(ClassifyConfig(**options), dataset), CPU)


def train(run: GanRun | ClassifierRun, dataset: Dataset, start: dict[str, Any] | None = None) -> list[list[float]]:
    """Train, and return the losses of each step, which only the first rank is told."""
    losses: list[list[float]] = []

    def report(step: int, scalars: dict[str, float]) -> None:
        losses.append([value for tag, value in sorted(scalars.items()) if tag.startswith("loss/")])

    if isinstance(run, GanRun):
        train_gan(run, dataset, CPU, start=start, report=report)
    else:
        train_classifier(run, dataset, CPU, start=start, report=report)
    return losses


def remember(owner: Any, name: str) -> None:
    """Keep what the function ``name`` of a module makes in ``MADE``."""
    make = getattr(owner, name)

    def made(*given: Any) -> Any:
        MADE[:] = [make(*given)]
        return MADE[0]

    setattr(owner, name, made)


def check_alike() -> None:
    """Compare what the ranks hold, to the bit."""
    state = io.BytesIO()
    torch.save([MADE[0].state_dict(), torch.get_rng_state()], state)
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state.getvalue())
    assert all(each == states[0] for each in states), "the ranks hold different networks"


def of_rank(folder: Path, steps: int, names: list[str]) -> None:
    remember(gan, "build_players")
    remember(classifier, "build_ensemble")
    with process_group("cpu"):
        assert is_distributed()
        fault = os.environ.get("FAULT") if not is_main_process() else None
        dataset = digits()
        for name in names:
            known = (folder / name).exists()
            broadcast_from_rank0(None)  # all have looked
            if is_main_process() and not known:
                new_run(folder, name, dataset, steps)
            broadcast_from_rank0(None)
            kind = GanRun if "objective" in CASES[name] else ClassifierRun
            run = kind.open(folder / name)
            run.set_steps(steps)
            holds = "players" if kind is GanRun else "members"
            start = load_newest(run.checkpoints, holds=holds) if known else None
            if fault == "data":
                dataset = dataclasses.replace(dataset, train_images=255 - dataset.train_images)
            losses = train(run, dataset, None if fault == "checkpoint" else start)
            check_alike()
            if is_main_process():
                torch.save(losses, folder / f"{name}.losses")


if __name__ == "__main__":
    torch.set_num_threads(1)
    of_rank(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
