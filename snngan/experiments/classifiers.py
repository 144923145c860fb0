"""Experiments on classifiers: the options they share, and how a baseline and an entangled variant are trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from snngan.config import option, option_names
from snngan.data import Dataset
from snngan.evaluation.classifier import load_ensemble
from snngan.experiments import Experiment, ExperimentContext
from snngan.experiments.runs import ClassifierRun, train_classifiers
from snngan.models import CLASSIFIERS

CPU = {
    "dataset": "mnist", "seeds": 4, "steps": 1000, "batch_size": 256, "learning_rate": 1e-3, "log_every": 250,
    "options": ("width=16", "units=128"),
}  # fmt: skip
PAPER = {**CPU, "steps": 14000, "learning_rate": 1e-4, "log_every": 1000, "options": ()}
"""What the presets of several experiments have in common."""


def default_architecture(data: Dataset) -> str:
    """Return the paper's network for a data set: cnn for gray images, resnet15 for color images."""
    return "cnn" if data.image_shape[0] == 1 else "resnet15"


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

    def train(self, name: str, data: Dataset, context: ExperimentContext, arch: str, **options: Any) -> ClassifierRun:
        """Return the finished run ``name`` of these classifiers, of the network ``self.arch`` or else ``arch``."""
        arch = self.arch or arch
        known = option_names(CLASSIFIERS[arch])
        shared = ("dataset", "steps", "batch_size", "optimizer", "learning_rate", "learning_rate_final", "log_every")
        options |= {key: getattr(self, key) for key in shared}
        options["set"] = tuple(each for each in self.options if each.partition("=")[0] in known)
        return train_classifiers(name, data, context, arch=arch, seeds=f"0:{self.seeds}", **options)


class BaselineComparison(ClassifierExperiment):
    """An experiment on a baseline and on an entangled classifier, with the same seeds and steps."""

    alpha: float = option(-0.1, "weight of the layer loss of entangled classifiers; negative values entangle classes")
    temperature: str = option("optimal", "temperature rule of the layer loss")

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Options of each variant's run, by its name."""
        alphas = {"baseline": 0.0, "entangled": self.alpha}
        return {name: {"alpha": alpha, "temperature": self.temperature} for name, alpha in alphas.items()}

    def train_variants(self, data: Dataset, context: ExperimentContext) -> dict[str, ClassifierRun]:
        """Return the finished run of each variant."""
        arch = default_architecture(data)
        return {name: self.train(name, data, context, arch, **options) for name, options in self.variants.items()}

    def train_networks(
        self, data: Dataset, context: ExperimentContext
    ) -> tuple[dict[tuple[str, int], nn.Module], tuple[str, ...]]:
        """Return the trained networks by variant and seed, and the names of their hidden layers."""
        runs = self.train_variants(data, context)
        networks = {
            (name, seed): network.to(context.device).eval()
            for name, run in runs.items()
            for seed, network in enumerate(load_ensemble(run, context.device)[0].networks())
        }
        return networks, runs["baseline"].config.layer_names
