"""Figures 1 and 13: points of the plane, moved by gradient descent on their own entanglement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snngan.config import option
from snngan.evaluation.plots import plot_scatter_panels
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.tables import markdown_table, record, summarize_nested
from snngan.experiments.toy_points import ToyExperiment, animate, mean_squared_distance, normalized_loss, sample_points
from snngan.losses.snnl import soft_nearest_neighbor_loss

NUM_MODES = {"one Gaussian, random labels": 1, "two Gaussians a class": 2}
"""Modes per class, by the name of the distribution."""
CPU = {"seeds": 20, "steps": 400, "frames": 30}
MEASURES = ("entanglement", "clusters", "modes kept")


@EXPERIMENTS.register("toy-gaussian")
@dataclass(frozen=True, kw_only=True)
class ToyGaussian(ToyExperiment):
    """move the points themselves, without a network."""

    source = "Frosst et al. 2019, figures 1 and 13"
    summary = "Gradient descent on points lowers their entanglement and keeps both modes of each class"

    temperature: float = option(1.0, "temperature, as a share of the mean squared distance at the start", low=0.001)
    step_size: float = option(0.25, "length of a step, as a share of N T times the gradient", low=0, high=1)

    presets = {"smoke": {"steps": 40}, "cpu": CPU, "paper": CPU}

    def run(self, context: ExperimentContext) -> ExperimentResult:
        values: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        animations = []
        for title, num_modes in NUM_MODES.items():
            for seed in range(self.seeds):
                points, labels, modes = sample_points(self.num_points, self.num_classes, num_modes, seed)
                path = self.descend(points.to(context.device), labels.to(context.device))
                for when, positions in (("before", path[0]), ("after", path[-1])):
                    for name, value in measure(positions, labels, modes).items():
                        record(values, title, f"{name} {when}", value=value)
                if seed == 0:
                    panels |= {f"{title}: start": (path[0], labels), f"{title}: end": (path[-1], labels)}
                    animations.append(animate(path, labels, context.folder / f"modes-{num_modes}.gif"))
        numbers = summarize_nested(values)
        columns = [f"{name} {when}" for name in MEASURES for when in ("before", "after")]
        header = ("", "entanglement before", "after", "clusters a class before", "after", "modes kept before", "after")
        text = [
            f"{self.num_points} points, {self.num_classes} classes, {self.seeds} sets, {self.steps} steps at T = "
            f"{self.temperature:g} of the first mean squared distance. Entanglement: the loss at its optimal T, "
            "divided by the loss at an infinite T. Clusters: those that HDBSCAN finds in each class. Modes kept: "
            "adjusted Rand index of the clusters and the modes of each class, 1 if each mode is a cluster. Mean over "
            "sets (Student's 95 % interval).",
            *markdown_table(header, ([title, *map(row.get, columns)] for title, row in numbers.items())),
        ]
        return ExperimentResult(
            numbers, text, [plot_scatter_panels(panels, 2, context.folder / "points.png"), *animations]
        )

    def descend(self, points: Tensor, labels: Tensor) -> list[Tensor]:
        """Return positions of points (N, 2) on their path to lower entanglement, see :meth:`follow_gradient`."""
        temperature = self.temperature * mean_squared_distance(points)
        rate = self.step_size * len(points) * temperature
        return self.follow_gradient(
            points,
            lambda positions: soft_nearest_neighbor_loss(positions, labels, temperature),
            lambda gradient, step: -rate * gradient,
        )


def measure(points: Tensor, labels: Tensor, modes: Tensor) -> dict[str, float]:
    """Return entanglement, clusters per class and, for several modes, how well these are kept."""
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_rand_score

    num_clusters, agreement = [], []
    for label in range(int(labels.max()) + 1):
        own = labels == label
        search = HDBSCAN(min_cluster_size=max(2, int(own.sum()) // 5), allow_single_cluster=True, copy=True)
        clusters = search.fit_predict(points[own].numpy())
        num_clusters.append(float(len({*clusters} - {-1})))
        agreement.append(float(adjusted_rand_score(modes[own].numpy(), clusters)))
    result = {"entanglement": normalized_loss(points, labels), "clusters": sum(num_clusters) / len(num_clusters)}
    if int(modes.max()):
        result["modes kept"] = sum(agreement) / len(agreement)
    return result
