"""Figure 2: the same points moved to lower and to higher triplet and soft nearest neighbor loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from snngan.config import check_options, option
from snngan.evaluation.plots import plot_scatter_panels, save_scatter_gif
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.points import drawn, mean_squared_distance, relative_loss, way_of
from snngan.experiments.running import shown
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.losses.triplet import triplet_loss
from snngan.stats import summarize

WAYS = {"minimized": 1, "maximized": -1}
"""And the sign with which the loss is lowered then."""


@EXPERIMENTS.register("triplet-comparison")
@dataclass(frozen=True, kw_only=True)
class TripletComparison(Experiment):
    """Moves the points themselves, all by the same length at each step: only the direction is the loss's."""

    source: ClassVar[str] = "Frosst et al. 2019, figure 2"
    summary: ClassVar[str] = "Points moved by the triplet loss and by the soft nearest neighbor loss, down and up"
    presets: ClassVar[Mapping[str, Experiment]]

    num_points: int = option(200, "", low=40)
    num_classes: int = option(4, "", low=2, high=10)
    seeds: int = count()
    """Sets of points, each drawn anew."""
    steps: int = count()
    length: float = option(0.025, "", low=0, high=1)
    """Of the first step: this share of the root of the mean squared distance at the start; it falls to 0 in a line."""
    margin: float = option(0.25, "", low=0)
    """Of the triplet loss: this share of the mean squared distance at the start."""
    temperature: float = option(1.0, "", low=0.001)
    """Of the soft nearest neighbor loss: likewise."""
    frames: int = option(30, "", low=2, high=200)
    """Of each animation, at most."""

    def __post_init__(self) -> None:
        check_options(self)

    def run(self, setting: Setting) -> Finding:
        found: dict[str, dict[str, list[float]]] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        figures = []
        for seed in range(self.seeds):
            points, labels, _ = drawn(self.num_points, self.num_classes, 1, seed)
            note(found.setdefault("start", {}), points, points, labels)
            for name, loss in self.losses(points.to(setting.device), labels.to(setting.device)).items():
                ways = {}
                for direction, sign in WAYS.items():
                    ways[direction] = way = self.way(points.to(setting.device), loss, sign)
                    note(found.setdefault(f"{name}, {direction}", {}), way[-1], points, labels)
                if seed == 0:
                    low, high = (way[-1] for way in ways.values())
                    for title, place in (("minimized", low), ("start", points), ("maximized", high)):
                        panels[f"{name}: {title}"] = place, labels
                    for direction, way in ways.items():
                        path = setting.folder / f"{name.replace(' ', '-').lower()}-{direction}.gif"
                        figures.append(save_scatter_gif([place - place.mean(0) for place in way], labels, path))
        numbers: dict[str, Any] = {
            row: {measure: summarize(values) for measure, values in measures.items()} for row, measures in found.items()
        }
        text = [
            f"{self.num_points} points of one Gaussian, {self.num_classes} random classes, {self.seeds} sets, "
            f"{self.steps} steps in which all points move alike far, in the direction that the gradient gives each; "
            f"margin and T are {self.margin:g} and {self.temperature:g} of the first mean squared distance. At the "
            "optimal T points stay where they are once it is infinite, since there is no gradient then: a random set "
            "is at or near its maximum already. Still: the share of sets whose points end within a hundredth of the "
            "first root mean squared distance of where they began. Entanglement: the loss at its optimal T over that "
            "at an infinite one. Radius variance over area: of the distances from the mean, and of the convex hull; 0 "
            "for a ring and 0.018 for a full disc, of any size. Mean over sets (Student's 95 % interval).",
            "", "| | entanglement | radius variance over area | still |", "|---|---|---|---|",
            *(
                f"| {row} | {shown(measures['entanglement'])} | {shown(measures['radius variance over area'])} | "
                f"{measures['still']['mean']:.2g} |"
                for row, measures in numbers.items()
            ),
        ]  # fmt: skip
        return Finding(numbers, text, [plot_scatter_panels(panels, 3, setting.folder / "points.png"), *figures])

    def losses(self, points: Tensor, labels: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return each loss () of places (N, 2); what depends on a unit of length is a share of the first distances."""
        unit = mean_squared_distance(points)
        return {
            "triplet": lambda place: triplet_loss(place, labels, self.margin * unit),
            "SNNL": lambda place: soft_nearest_neighbor_loss(place, labels, self.temperature * unit),
            "SNNL at the optimal T": lambda place: soft_nearest_neighbor_loss(place, labels, "optimal"),
        }

    def way(self, points: Tensor, loss: Callable[[Tensor], Tensor], sign: int) -> list[Tensor]:
        """Return the places of points (N, 2) on their way to a lower ``sign`` times the loss, see :func:`way_of`."""
        first = self.length * math.sqrt(mean_squared_distance(points))

        def moved_by(slope: Tensor, step: int) -> Tensor:
            rest = 1 - (step - 1) / self.steps
            return -sign * first * rest * F.normalize(slope, dim=1)

        return way_of(points, loss, moved_by, self.steps, self.frames)


def note(measures: dict[str, list[float]], points: Tensor, start: Tensor, labels: Tensor) -> None:
    """Add to the lists of ``measures`` what is measured of points (N, 2) with labels (N,) that began at ``start``."""
    measures.setdefault("entanglement", []).append(relative_loss(points, labels))
    measures.setdefault("radius variance over area", []).append(ringness(points))
    moved = float((points - start).square().sum(1).mean().sqrt())
    measures.setdefault("still", []).append(float(moved < 0.01 * math.sqrt(mean_squared_distance(start))))


def ringness(points: Tensor) -> float:
    """Return the variance of the distances of points (N, 2) from their mean, over the area of their convex hull."""
    from scipy.spatial import ConvexHull

    place = points.double().cpu()
    hull = ConvexHull(place.numpy(), qhull_options="QJ")  # joggled: points on one line have a hull, too
    return float((place - place.mean(0)).norm(dim=1).var()) / float(hull.volume)


TripletComparison.presets = MappingProxyType(
    {
        "smoke": TripletComparison(seeds=2, steps=20, frames=4),
        "cpu": TripletComparison(seeds=20, steps=200),
        "paper": TripletComparison(seeds=20, steps=200),
    }
)
