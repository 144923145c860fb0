"""Figure 2: the same points moved to lower and to higher triplet and soft nearest neighbor loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from snngan.config import option
from snngan.evaluation.planes import planes
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.tables import markdown_table, record, summarize_nested
from snngan.experiments.toy_points import ToyExperiment, animate, mean_squared_distance, normalized_loss, sample_points
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.losses.triplet import triplet_loss

SIGNS = {"minimized": 1, "maximized": -1}
"""Factors of the loss that is minimized."""
CPU = {"seeds": 20, "steps": 200, "frames": 30}


@EXPERIMENTS.register("triplet-comparison")
@dataclass(frozen=True, kw_only=True)
class TripletComparison(ToyExperiment):
    """Move the points themselves, all by the same distance, which falls to 0 linearly; the loss gives the direction."""

    source = "Frosst et al. 2019, figure 2"
    summary = "Points moved by the triplet loss and by the soft nearest neighbor loss, down and up"

    step_length: float = option(0.025, "first step, as a share of the root mean squared distance", low=0, high=1)
    margin: float = option(0.25, "margin of the triplet loss, as a share of the mean squared distance", low=0)
    temperature: float = option(1.0, "temperature, as a share of the mean squared distance", low=0.001)

    presets = {"cpu": CPU, "paper": CPU}

    def run(self, context: ExperimentContext) -> ExperimentResult:
        measured: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        animations = []
        for seed in range(self.seeds):
            points, labels, _ = sample_points(self.num_points, self.num_classes, 1, seed)
            on_device = points.to(context.device)
            ends = {"start": points}
            for name, loss in self.losses(on_device, labels.to(context.device)).items():
                paths = {direction: self.move(on_device, loss, sign) for direction, sign in SIGNS.items()}
                ends |= {f"{name}, {direction}": path[-1] for direction, path in paths.items()}
                if seed == 0:
                    low, high = (path[-1] for path in paths.values())
                    for title, positions in (("minimized", low), ("start", points), ("maximized", high)):
                        panels[f"{name}: {title}"] = positions, labels
                    for direction, path in paths.items():
                        file = context.folder / f"{name.replace(' ', '-').lower()}-{direction}.gif"
                        animations.append(animate(path, labels, file))
            for row, positions in ends.items():
                for measure, value in measure_end(positions, points, labels).items():
                    record(measured, row, measure, value=value)
        numbers = summarize_nested(measured)
        measures = ("entanglement", "radius variance over area")
        text = [
            f"{self.num_points} points of one Gaussian, {self.num_classes} random classes, {self.seeds} sets, "
            f"{self.steps} steps in which all points move by the same distance, each in the direction of its gradient; "
            f"margin and T are {self.margin:g} and {self.temperature:g} of the first mean squared distance. At the "
            "optimal T points stay in place where it is infinite, since the gradient vanishes: a random set is at or "
            "near its maximum already. Still: the share of sets whose points end within a hundredth of the first root "
            "mean squared distance of their start. Entanglement: the loss at its optimal T, divided by the loss at an "
            "infinite T. Radius variance over area: variance of the distances from the mean, over the area of the "
            "convex hull; 0 for a ring and 0.018 for a full disc. Mean over sets (Student's 95 % interval).",
            *markdown_table(
                ("", *measures, "still"),
                ([name, *map(row.get, measures), row["still"]["mean"]] for name, row in numbers.items()),
            ),
        ]
        return ExperimentResult(numbers, text, [planes(panels, 3, context.folder / "points.png"), *animations])

    def losses(self, points: Tensor, labels: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return each loss () of positions (N, 2), scaled by the first distances so that no unit matters."""
        unit = mean_squared_distance(points)
        return {
            "triplet": lambda positions: triplet_loss(positions, labels, self.margin * unit),
            "SNNL": lambda positions: soft_nearest_neighbor_loss(positions, labels, self.temperature * unit),
            "SNNL at the optimal T": lambda positions: soft_nearest_neighbor_loss(positions, labels, "optimal"),
        }

    def move(self, points: Tensor, loss: Callable[[Tensor], Tensor], sign: int) -> list[Tensor]:
        """Return positions of points (N, 2) on their path to a lower ``sign`` times the loss: `follow_gradient`."""
        first = self.step_length * math.sqrt(mean_squared_distance(points))

        def update(gradient: Tensor, step: int) -> Tensor:
            remaining = 1 - (step - 1) / self.steps
            return -sign * first * remaining * F.normalize(gradient, dim=1)

        return self.follow_gradient(points, loss, update)


def measure_end(points: Tensor, start: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what is measured of points (N, 2) with labels (N,) that began at ``start``."""
    moved = float((points - start).square().sum(1).mean().sqrt())
    return {
        "entanglement": normalized_loss(points, labels),
        "radius variance over area": ringness(points),
        "still": float(moved < 0.01 * math.sqrt(mean_squared_distance(start))),
    }


def ringness(points: Tensor) -> float:
    """Return the variance of the distances of points (N, 2) from their mean, over the area of their convex hull."""
    from scipy.spatial import ConvexHull

    positions = points.double().cpu()
    hull = ConvexHull(positions.numpy(), qhull_options="QJ")  # joggled: points on one line have a hull, too
    return float((positions - positions.mean(0)).norm(dim=1).var()) / float(hull.volume)
