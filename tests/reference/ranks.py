"""Runs that are trained on one process and on several: their options, and one rank of them.

    torchrun --standalone --nproc-per-node 2 tests/reference/ranks.py JOBS

JOBS is a JSON list of [folder, steps, names, fault]. Each name is a key of ``CASES``; its run is in folder/name, which
rank 0 makes, or which is continued if it is there. The error that a fault of the second rank causes is written to
folder/error.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from snngan.api import load_state, lock_run, make_trainer
from snngan.config import ClassifyConfig, Config, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.distributed import is_distributed
from snngan.objectives import encoder
from snngan.training.distributed import (
    broadcast_from_rank0,
    exit_without_finalizing,
    is_main_process,
    process_group,
    run_on_all_ranks,
)
from snngan.training.resolve import resolve
from snngan.training.run_folder import RunFolder, open_run
from snngan.training.trainer import Trainer, train

CPU = torch.device("cpu")
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
    "large batch": GAN | {"objective": "snnl-pixel", "arch": "mlp", "set": ("width=16",), "batch_size": 300},
    "mixed": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=0.3+1", "distance=cosine")},
    "annealed": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=annealed:1")},
    "learned": GAN | {"objective": "snnl-projected", "set": (*GAN["set"], "temperature=learned:1")},
    **{
        f"conditional {name}": GAN | {"objective": name, "conditional": True, "batch_size": 40}
        for name in ("gan", "wgan-gp", "mmd", "snnl-projected")
    },
    "conditional sngan": GAN | {"objective": "hinge", "conditional": True, "arch": "sngan"},
    "features": GAN
    | {
        "objective": "snnl-features",
        "batch_size": 40,
        "real_batch_size": 60,
    },
    "drifting": GAN | {"objective": "drifting", "conditional": True, "batch_size": 40},
    "penalties": GAN
    | {
        "objective": "snnl-projected",
        "set": (*GAN["set"], "r1=1", "r2=0.5"),
        "augment": "flip",
        "diff_augment": "color,translation,cutout",
    },
    "rpgan": GAN | {"objective": "rpgan", "conditional": True},
    "classifier": CLASSIFIER | {"seeds": "0:2", "temperature": "learned:1"},
    "batch norm": CLASSIFIER | {"arch": "resnet15", "set": ("width=2",), "seed": 3},
    "vectorized": CLASSIFIER | {"seeds": "0:2", "ensemble": "vectorized"},
    "sgd": CLASSIFIER | {"optimizer": "sgd", "layer_reduction": "mean", "alpha_final": 0.05},
    "triplet": CLASSIFIER | {"regularizer": "triplet:0.5", "distance": "cosine"},
}


def digits() -> Dataset:
    return load_dataset("digits", keep=False)


def make_config(name: str, dataset: Dataset, steps: int) -> Config:
    """Return the resolved config of a case."""
    options = CASES[name] | {"dataset": "digits", "steps": steps, "checkpoint_every": steps, "log_every": steps}
    if "objective" in options:
        return resolve(TrainConfig(**options, sample_every=steps, metrics_every=0), dataset)
    return resolve(ClassifyConfig(**options), dataset)


def train_to_end(trainer: Trainer, run: RunFolder[Any]) -> list[list[float]]:
    """Train, and return the losses of each step, which only the main process knows."""
    losses: list[list[float]] = []

    def note(step: int, metrics: dict[str, float]) -> None:
        losses.append([value for tag, value in sorted(metrics.items()) if tag.startswith("loss/")])

    train(trainer, run, on_step=note)
    return losses


def train_alone(folder: Path, name: str, dataset: Dataset, steps: int) -> list[list[float]]:
    """Train a case in the new folder ``folder``/``name`` on one process."""
    config = make_config(name, dataset, steps)
    run = RunFolder.create(folder / name, config, CPU)
    return train_to_end(make_trainer(config, dataset, CPU), run)


def check_equal_states(trainer: Trainer) -> None:
    """Compare the states of all ranks, to the bit."""
    state = io.BytesIO()
    torch.save(trainer.state_dict(), state)
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state.getvalue())
    assert all(each == states[0] for each in states), "the ranks hold different networks"


def run_rank(folder: Path, steps: int, names: list[str], fault: str) -> None:
    dataset = digits()
    fault = "" if is_main_process() else fault
    for name in names:
        exists = (folder / name).exists()
        broadcast_from_rank0(None)  # all have looked
        if is_main_process() and not exists:
            RunFolder.create(folder / name, make_config(name, dataset, steps), CPU)
        broadcast_from_rank0(None)
        run = open_run(folder / name, Config)
        if fault == "checkpoint":
            run = RunFolder(folder / "elsewhere", run.config)
        run.set_steps(steps)
        with lock_run(run):
            state = load_state(run) if exists else None
            if fault == "data":
                dataset = dataclasses.replace(dataset, train_images=255 - dataset.train_images)
            trainer = run_on_all_ranks(lambda: make_trainer(run.config, dataset, CPU, state))  # noqa: B023
            losses = train_to_end(trainer, run)
        check_equal_states(trainer)
        if is_main_process():
            torch.save(losses, folder / f"{name}.losses")


if __name__ == "__main__":
    encoder.STEPS = 20  # as in the tests
    torch.set_num_threads(1)
    with process_group("cpu"):
        assert is_distributed()
        for where, steps, names, fault in json.loads(sys.argv[1]):
            try:
                run_rank(Path(where), steps, names, fault)
            except ValueError as error:
                if not fault:
                    raise
                if is_main_process():
                    (Path(where) / "error").write_text(str(error))
    exit_without_finalizing(0)
