"""Figures 1 and 13: points of the plane, moved by gradient descent on their own entanglement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from snngan.config import check_options, option
from snngan.evaluation.planes import moving, planes
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.running import shown
from snngan.intervals import summary
from snngan.losses.pairs import mean_distance
from snngan.losses.snnl import soft_nearest_neighbor_loss

KINDS = {"one Gaussian, random labels": 1, "two Gaussians a class": 2}
"""Titles, and modes a class."""
RADIUS, SPREAD = 3.0, 0.9
"""Of the circle on which the centres of two modes a class lie, opposite each other, and of the points around each."""


@EXPERIMENTS.register("toy-gaussian")
@dataclass(frozen=True, kw_only=True)
class ToyGaussian(Experiment):
    """Moves the points themselves; there is no network."""

    source: ClassVar[str] = "Frosst et al. 2019, figures 1 and 13"
    summary: ClassVar[str] = "Gradient descent on points lowers their entanglement and keeps both modes of each class"
    presets: ClassVar[Mapping[str, Experiment]]

    num_points: int = option(200, "", low=40)
    num_classes: int = option(4, "", low=2, high=10)
    seeds: int = count()
    """Sets of points, each drawn anew."""
    steps: int = count()
    temperature: float = option(1.0, "", low=0.001)
    """Of the loss: this share of the mean squared distance at the start, and constant."""
    rate: float = option(0.25, "", low=0, high=1)
    """Of each step: it moves the points by this times N T times the gradient, so that no unit of length matters."""
    frames: int = option(30, "", low=2, high=200)
    """Of each animation, at most."""

    def __post_init__(self) -> None:
        check_options(self)

    def run(self, setting: Setting) -> Finding:
        numbers: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        figures = []
        for kind, modes in KINDS.items():
            rows: dict[str, list[float]] = {}
            for seed in range(self.seeds):
                points, labels, mode = drawn(self.num_points, self.num_classes, modes, seed)
                way = self.way(points.to(setting.device), labels.to(setting.device))
                for when, place in (("before", way[0]), ("after", way[-1])):
                    for name, value in measured(place, labels, mode).items():
                        rows.setdefault(f"{name} {when}", []).append(value)
                if seed == 0:
                    panels |= {f"{kind}: start": (way[0], labels), f"{kind}: end": (way[-1], labels)}
                    name = f"modes-{modes}.gif"
                    figures.append(moving([place - place.mean(0) for place in way], labels, setting.folder / name))
            numbers[kind] = {name: summary(values) for name, values in rows.items()}
        text = [
            f"{self.num_points} points, {self.num_classes} classes, {self.seeds} sets, {self.steps} steps at T = "
            f"{self.temperature:g} of the first mean squared distance. Entanglement: the loss at its optimal T over "
            "that at an infinite one. Clusters: HDBSCAN's, of each class. Modes kept: adjusted Rand index of the "
            "clusters of each class and its modes, 1: each mode is a cluster of its own. Mean over sets (Student's "
            "95 % interval).",
            "", "| | entanglement before | after | clusters a class before | after | modes kept before | after |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        columns = [
            f"{name} {when}" for name in ("entanglement", "clusters", "modes kept") for when in ("before", "after")
        ]
        for kind, row in numbers.items():
            cells = [shown(row[column]) if column in row else "" for column in columns]
            text.append(f"| {kind} | {' | '.join(cells)} |")
        return Finding(numbers, text, [planes(panels, 2, setting.folder / "points.png"), *figures])

    def way(self, points: Tensor, labels: Tensor) -> list[Tensor]:
        """Return places (N, 2), on the CPU, on the way of points from where they are to the last step.

        There are at most ``frames``, closer to one another at the start, where the points move most.
        """
        count = len(points)
        temperature = self.temperature * float(mean_distance(torch.cdist(points, points).square()))
        kept = {round(self.steps * (number / (self.frames - 1)) ** 3) for number in range(self.frames)}
        way = [points.cpu()]
        for step in range(1, self.steps + 1):
            points = points.detach().requires_grad_()
            loss = soft_nearest_neighbor_loss(points, labels, temperature)
            (slope,) = torch.autograd.grad(loss, points)
            points = points.detach() - self.rate * count * temperature * slope
            if step in kept:
                way.append(points.cpu())
        return way


def drawn(num_points: int, num_classes: int, modes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points (N, 2), labels (N,) and modes (N,): one Gaussian for all, or ``modes`` a class, round a circle."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_points) % num_classes
    points = torch.randn(num_points, 2, generator=generator)
    mode = torch.arange(num_points) // num_classes % modes
    if modes == 1:
        return points, labels, mode
    angle = 2 * math.pi * (labels + num_classes * mode) / (num_classes * modes)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1) + SPREAD * points, labels, mode


def measured(points: Tensor, labels: Tensor, mode: Tensor) -> dict[str, float]:
    """Return entanglement, clusters a class and, where there are modes, how well these are kept."""
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_rand_score

    value, most = (float(soft_nearest_neighbor_loss(points, labels, rule)) for rule in ("optimal", math.inf))
    clusters, kept = [], []
    for label in range(int(labels.max()) + 1):
        own = labels == label
        search = HDBSCAN(min_cluster_size=max(2, int(own.sum()) // 5), allow_single_cluster=True, copy=True)
        found = search.fit_predict(points[own].numpy())
        clusters.append(float(len({*found} - {-1})))
        kept.append(float(adjusted_rand_score(mode[own].numpy(), found)))
    result = {"entanglement": value / most, "clusters": sum(clusters) / len(clusters)}
    if int(mode.max()):
        result["modes kept"] = sum(kept) / len(kept)
    return result


ToyGaussian.presets = MappingProxyType(
    {
        "smoke": ToyGaussian(seeds=2, steps=40, frames=4),
        "cpu": ToyGaussian(seeds=20, steps=400),
        "paper": ToyGaussian(seeds=20, steps=400),
    }
)
