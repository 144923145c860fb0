"""Figures 1 and 13: points of the plane, moved by gradient descent on their own entanglement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from snngan.config import check_options, option
from snngan.evaluation.plots import plot_scatter_panels, save_scatter_gif
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.points import drawn, mean_squared_distance, relative_loss, way_of
from snngan.experiments.running import shown
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.stats import summarize

KINDS = {"one Gaussian, random labels": 1, "two Gaussians a class": 2}
"""Titles, and modes a class."""


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
                    path = setting.folder / f"modes-{modes}.gif"
                    figures.append(save_scatter_gif([place - place.mean(0) for place in way], labels, path))
            numbers[kind] = {name: summarize(values) for name, values in rows.items()}
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
        return Finding(numbers, text, [plot_scatter_panels(panels, 2, setting.folder / "points.png"), *figures])

    def way(self, points: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the places of points (N, 2) on their way to lower entanglement, see :func:`way_of`."""
        temperature = self.temperature * mean_squared_distance(points)
        rate = self.rate * len(points) * temperature
        return way_of(
            points,
            lambda place: soft_nearest_neighbor_loss(place, labels, temperature),
            lambda slope, step: -rate * slope,
            self.steps,
            self.frames,
        )


def measured(points: Tensor, labels: Tensor, mode: Tensor) -> dict[str, float]:
    """Return entanglement, clusters a class and, where there are modes, how well these are kept."""
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_rand_score

    clusters, kept = [], []
    for label in range(int(labels.max()) + 1):
        own = labels == label
        search = HDBSCAN(min_cluster_size=max(2, int(own.sum()) // 5), allow_single_cluster=True, copy=True)
        found = search.fit_predict(points[own].numpy())
        clusters.append(float(len({*found} - {-1})))
        kept.append(float(adjusted_rand_score(mode[own].numpy(), found)))
    result = {"entanglement": relative_loss(points, labels), "clusters": sum(clusters) / len(clusters)}
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
