"""Experiments on classifiers: the options they share, and how a baseline and an entangled variant are trained."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from snngan.config import option, option_names
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.experiments import Experiment, ExperimentContext
from snngan.experiments.runs import ClassifierRun, Log, load_networks, seed_logs, train_classifiers
from snngan.models import CLASSIFIERS

CPU = MappingProxyType(
    {
        "dataset": "mnist",
        "seeds": 4,
        "steps": 1000,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "log_every": 250,
        "options": ("width=16", "units=128"),
    }
)
PAPER = MappingProxyType(
    {
        "dataset": "mnist",
        "seeds": 4,
        "steps": 14000,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "log_every": 1000,
        "options": (),
    }
)
"""What the presets of several experiments have in common."""


def default_architecture(data: Dataset) -> str:
    """Return the paper's network for a data set: cnn for gray images, resnet15 for color images."""
    return "cnn" if data.image_shape[0] == 1 else "resnet15"


@dataclass(frozen=True, kw_only=True)
class ClassifierExperiment(Experiment):
    """An experiment that trains classifiers with the seeds 0 to ``seeds - 1``."""

    dataset: str = option("digits", "data set that the classifiers are trained on")
    seeds: int = option(2, "number of seeds", low=1)
    steps: int = option(6, "number of optimizer steps", low=1)
    batch_size: int = option(32, "images per step", low=1)
    learning_rate: float = option(1e-3, "learning rate at the start")
    log_every: int = option(2, "steps between two measurements", low=1)
    arch: str | None = option(None, "network [the paper's for the kind of images]")
    optimizer: str = option("adam", "optimizer")
    learning_rate_final: float | None = option(None, "learning rate at the end [the same]")
    options: tuple[str, ...] = option(("width=4", "units=16", "widths=16-16-32"), "options of networks that have them")

    def load_data(self, context: ExperimentContext) -> Dataset:
        """Return the data set that the classifiers are trained on."""
        return load_dataset(self.dataset, data_dir=context.data_dir, notify=context.notify)

    def train(self, name: str, data: Dataset, context: ExperimentContext, arch: str, **options: Any) -> ClassifierRun:
        """Return the finished run ``name`` of these classifiers, of the network ``self.arch`` or else ``arch``."""
        arch = self.arch or arch
        known = option_names(CLASSIFIERS[arch])
        return train_classifiers(
            name,
            data,
            context,
            dataset=self.dataset,
            arch=arch,
            seeds=f"0:{self.seeds}",
            steps=self.steps,
            set=tuple(each for each in self.options if each.partition("=")[0] in known),
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            learning_rate_final=self.learning_rate_final,
            log_every=self.log_every,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class BaselineComparison(ClassifierExperiment):
    """An experiment on a baseline and on an entangled classifier, with the same seeds and steps."""

    alpha: float = option(-0.1, "weight of the layer loss of entangled classifiers; negative values entangle classes")
    temperature: str = option("optimal", "temperature rule of the layer loss")

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Options of each variant's run, by its name."""
        return {
            name: {"alpha": alpha, "temperature": self.temperature}
            for name, alpha in (("baseline", 0.0), ("entangled", self.alpha))
        }

    def train_variants(self, data: Dataset, context: ExperimentContext) -> dict[str, ClassifierRun]:
        """Return the finished run of each variant."""
        arch = default_architecture(data)
        return {name: self.train(name, data, context, arch, **options) for name, options in self.variants.items()}

    def train_logs(self, context: ExperimentContext) -> tuple[str, dict[str, list[Log]]]:
        """Return the network's name, and the logs of each variant, one per seed."""
        runs = self.train_variants(self.load_data(context), context)
        return runs["baseline"].config.arch, {name: seed_logs(run) for name, run in runs.items()}

    def train_networks(
        self, data: Dataset, context: ExperimentContext
    ) -> tuple[dict[tuple[str, int], nn.Module], tuple[str, ...]]:
        """Return the trained networks by variant and seed, and the names of their hidden layers."""
        runs = self.train_variants(data, context)
        networks = {
            (name, seed): network
            for name, run in runs.items()
            for seed, network in enumerate(load_networks(run, context.device))
        }
        return networks, runs["baseline"].config.layer_names
