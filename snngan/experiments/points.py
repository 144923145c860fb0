"""Points of the plane, moved along the gradients of losses without a network: figures 1, 2 and 13, and drift."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.config import option
from snngan.evaluation.plots import plot_fields, plot_scatter_panels, save_scatter_gif
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.experiments.tables import markdown_table, record, summarize_all
from snngan.losses.drifting import drift_field
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import build_real_fake_batch, mean_distance
from snngan.losses.snnl import soft_nearest_neighbor_loss
from snngan.losses.triplet import triplet_loss

RADIUS, DEVIATION = 3.0, 0.9
"""Radius of the circle of mode centers, and standard deviation of the points around each."""
WHEN = ("before", "after")
Loss = Callable[[Tensor], Tensor]
"""Maps positions (N, 2) to a scalar."""


class PointsExperiment(Experiment):
    """An experiment on random sets of labeled points."""

    num_points: int = option(200, "number of points", low=40)
    num_classes: int = option(4, "number of classes", low=2, high=10)
    seeds: int = option(2, "number of random sets of points", low=1)
    steps: int = option(20, "number of steps", low=1)
    frames: int = option(4, "most frames of an animation", low=2, high=200)

    def follow_gradient(self, points: Tensor, loss: Loss, update: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        """Return positions (N, 2), on the CPU, of points (N, 2) from the start to the last step.

        ``update`` maps the gradient (N, 2) and the number of the step, from 1, to the displacement (N, 2).
        """
        kept = {round(self.steps * (number / (self.frames - 1)) ** 3) for number in range(self.frames)}
        positions = [points.cpu()]  # more of them at the start, where the points move most
        for step in range(1, self.steps + 1):
            points = points.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(points), points)
            points = points.detach() + update(gradient, step)
            if step in kept:
                positions.append(points.cpu())
        return positions


def sample_points(num_points: int, num_classes: int, num_modes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points (N, 2), labels (N,) and modes (N,).

    With one mode, all classes share one Gaussian; otherwise the modes of each class are spread around a circle.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_points) % num_classes
    points = torch.randn(num_points, 2, generator=generator)
    modes = torch.arange(num_points) // num_classes % num_modes
    if num_modes == 1:
        return points, labels, modes
    angle = 2 * math.pi * (labels + num_classes * modes) / (num_classes * num_modes)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1) + DEVIATION * points, labels, modes


def mean_squared_distance(points: Tensor) -> float:
    """Return the mean squared distance between two of the points (N, D)."""
    return float(mean_distance(torch.cdist(points, points).square()))


def normalized_loss(features: Tensor, labels: Tensor) -> float:
    """Return the loss of features (N, D) at the optimal temperature, divided by the loss at an infinite one."""
    value, largest = (float(soft_nearest_neighbor_loss(features, labels, rule)) for rule in ("optimal", math.inf))
    return value / largest


@EXPERIMENTS.register("toy-gaussian")
class ToyGaussian(PointsExperiment):
    """Gradient descent on points lowers their entanglement and keeps both modes of each class."""

    source = "Frosst et al. 2019, figures 1 and 13"
    smoke = {"steps": 40}
    cpu = paper = {"seeds": 20, "steps": 400, "frames": 30}

    temperature: float = option(1.0, "temperature, as a share of the mean squared distance at the start", low=0.001)
    step_size: float = option(0.25, "length of a step, as a share of N T times the gradient", low=0, high=1)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        values: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        animations = []
        for num_modes, title in ((1, "one Gaussian, random labels"), (2, "two Gaussians a class")):
            for seed in range(self.seeds):
                points, labels, modes = sample_points(self.num_points, self.num_classes, num_modes, seed)
                path = self.descend(points.to(context.device), labels.to(context.device))
                for when, positions in zip(WHEN, (path[0], path[-1]), strict=True):
                    for name, value in measure_modes(positions, labels, modes).items():
                        record(values, title, f"{name} {when}", value=value)
                if seed == 0:
                    panels |= {f"{title}: start": (path[0], labels), f"{title}: end": (path[-1], labels)}
                    animations.append(save_scatter_gif(path, labels, context.folder / f"modes-{num_modes}.gif"))
        numbers = summarize_all(values)
        columns = [f"{name} {when}" for name in ("entanglement", "clusters", "modes kept") for when in WHEN]
        header = ("", "entanglement before", "after", "clusters a class before", "after", "modes kept before", "after")
        text = [
            f"{self.num_points} points, {self.num_classes} classes, {self.seeds} sets, {self.steps} steps at T = "
            f"{self.temperature:g} of the first mean squared distance. Entanglement: the loss at its optimal T, "
            "divided by the loss at an infinite T. Clusters: those that HDBSCAN finds in each class. Modes kept: "
            "adjusted Rand index of the clusters and the modes of each class, 1 if each mode is a cluster. Mean over "
            "sets (Student's 95 % interval).",
            *markdown_table(header, ([title, *map(row.get, columns)] for title, row in numbers.items())),
        ]
        plot = plot_scatter_panels(panels, 2, context.folder / "points.png")
        return ExperimentResult(numbers, text, [plot, *animations])

    def descend(self, points: Tensor, labels: Tensor) -> list[Tensor]:
        """Return positions of points (N, 2) on their path to lower entanglement, see :meth:`follow_gradient`."""
        temperature = self.temperature * mean_squared_distance(points)
        rate = self.step_size * len(points) * temperature
        return self.follow_gradient(
            points,
            lambda positions: soft_nearest_neighbor_loss(positions, labels, temperature),
            lambda gradient, step: -rate * gradient,
        )


def measure_modes(points: Tensor, labels: Tensor, modes: Tensor) -> dict[str, float]:
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


@EXPERIMENTS.register("triplet-comparison")
class TripletComparison(PointsExperiment):
    """Points moved by the triplet loss and by the soft nearest neighbor loss, down and up.

    Move all points by the same distance, which falls to 0 linearly; the loss gives the direction.
    """

    source = "Frosst et al. 2019, figure 2"
    cpu = paper = {"seeds": 20, "steps": 200, "frames": 30}

    step_length: float = option(0.025, "first step, as a share of the root mean squared distance", low=0, high=1)
    margin: float = option(0.25, "margin of the triplet loss, as a share of the mean squared distance", low=0)
    temperature: float = option(1.0, "temperature, as a share of the mean squared distance", low=0.001)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        measured: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        animations = []
        for seed in range(self.seeds):
            points, labels, _ = sample_points(self.num_points, self.num_classes, 1, seed)
            on_device = points.to(context.device)
            ends = {"start": points}
            for name, loss in self.losses(on_device, labels.to(context.device)).items():
                paths = {"minimized": self.move(on_device, loss, 1), "maximized": self.move(on_device, loss, -1)}
                ends |= {f"{name}, {direction}": path[-1] for direction, path in paths.items()}
                if seed == 0:
                    low, high = (path[-1] for path in paths.values())
                    for title, positions in (("minimized", low), ("start", points), ("maximized", high)):
                        panels[f"{name}: {title}"] = positions, labels
                    for direction, path in paths.items():
                        file = context.folder / f"{name.replace(' ', '-').lower()}-{direction}.gif"
                        animations.append(save_scatter_gif(path, labels, file))
            unit = math.sqrt(mean_squared_distance(points))
            for row, positions in ends.items():
                moved = float((positions - points).square().sum(1).mean().sqrt())
                record(measured, row, "entanglement", value=normalized_loss(positions, labels))
                record(measured, row, "radius variance over area", value=ringness(positions))
                record(measured, row, "still", value=float(moved < 0.01 * unit))
        numbers = summarize_all(measured)
        measures = ("entanglement", "radius variance over area")
        rows = ([name, *map(row.get, measures), row["still"]["mean"]] for name, row in numbers.items())
        text = [
            f"{self.num_points} points of one Gaussian, {self.num_classes} random classes, {self.seeds} sets, "
            f"{self.steps} steps in which all points move by the same distance along their gradients; margin and T are "
            f"{self.margin:g} and {self.temperature:g} of the first mean squared distance. At the optimal T points "
            "stay where it is infinite, for want of a gradient: a random set is near its maximum already. Still: "
            "the share of sets that end within a hundredth of the first root mean squared distance of their start. "
            "Entanglement: the loss at its optimal T, divided by that at an infinite T. Radius variance over area: "
            "variance of the distances from the mean, over the area of the convex hull; 0 for a ring, 0.018 for a full "
            "disc. Mean over sets (Student's 95 % interval).",
            *markdown_table(("", *measures, "still"), rows),
        ]
        plot = plot_scatter_panels(panels, 3, context.folder / "points.png")
        return ExperimentResult(numbers, text, [plot, *animations])

    def losses(self, points: Tensor, labels: Tensor) -> dict[str, Loss]:
        """Return each loss () of positions (N, 2), scaled by the first distances so that no unit matters."""
        unit = mean_squared_distance(points)
        return {
            "triplet": lambda positions: triplet_loss(positions, labels, self.margin * unit),
            "SNNL": lambda positions: soft_nearest_neighbor_loss(positions, labels, self.temperature * unit),
            "SNNL at the optimal T": lambda positions: soft_nearest_neighbor_loss(positions, labels, "optimal"),
        }

    def move(self, points: Tensor, loss: Loss, sign: int) -> list[Tensor]:
        """Return positions of points (N, 2) on their path to a lower ``sign`` times the loss: `follow_gradient`."""
        first = self.step_length * math.sqrt(mean_squared_distance(points))

        def update(gradient: Tensor, step: int) -> Tensor:
            remaining = 1 - (step - 1) / self.steps
            return -sign * first * remaining * F.normalize(gradient, dim=1)

        return self.follow_gradient(points, loss, update)


def ringness(points: Tensor) -> float:
    """Return the variance of the distances of points (N, 2) from their mean, over the area of their convex hull."""
    from scipy.spatial import ConvexHull

    positions = points.double().cpu()
    hull = ConvexHull(positions.numpy(), qhull_options="QJ")  # joggled: points on one line have a hull, too
    return float((positions - positions.mean(0)).norm(dim=1).var()) / float(hull.volume)


@EXPERIMENTS.register("drift-field")
class DriftField(Experiment):
    """The gradient of the log-odds of synthetic points, that of the whole loss, and the field of a drifting model."""

    source = "Deng et al. 2026, figure 2"
    cpu = paper = {"num_points": 60}

    num_points: int = option(60, "number of points of each side", low=4)
    temperature: float = option(0.1, "temperature, as a share of the real points' mean squared distance", low=0.001)
    seed: int = option(0, "seed of the points", low=0)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(2, self.num_points, 2, generator=generator, dtype=torch.float64)
        side = torch.arange(self.num_points) % 2 * 2.0 - 1
        real = 0.5 * noise[0] + torch.stack([2 * side, torch.zeros_like(side)], 1)
        fake = 0.6 * noise[1] + torch.tensor([-1.0, 0.8])
        temperature = self.temperature * mean_squared_distance(real)
        fields = {
            "gradient of log-odds": anchor_gradients(real, fake, temperature),
            "gradient of the loss": loss_gradients(real, fake, temperature),
            "drifting": drift_field(real, fake, math.sqrt(temperature)),
        }
        units = {name: field / field.norm(dim=1).max() for name, field in fields.items()}
        numbers = {name: float(1 / field.norm(dim=1).median()) for name, field in units.items()}
        text = [
            f"{self.num_points} real points of two Gaussians, and as many synthetic ones near the left of them. Each "
            "field is divided by its longest arrow. Concentration: the longest arrow over the median one; all real "
            "anchors of the mode without synthetic points pull the few that are nearest to it.",
            *markdown_table(("", "concentration"), numbers.items()),
        ]
        plot = plot_fields({name: (real, fake, field) for name, field in units.items()}, context.folder / "fields.png")
        return ExperimentResult(numbers, text, [plot])


def anchor_gradients(real: Tensor, fake: Tensor, temperature: float) -> Tensor:
    """Return the gradient (M, 2) of the log-odds of each synthetic anchor (M, 2), all other samples held fixed."""
    gradients = []
    for row in range(len(fake)):
        moving = fake.clone().requires_grad_()
        odds = log_odds(build_real_fake_batch(real, moving), torch.tensor([1 / temperature], dtype=torch.float64))[0]
        gradients.append(torch.autograd.grad(odds[len(real) + row], moving)[0][row])
    return torch.stack(gradients)


def loss_gradients(real: Tensor, fake: Tensor, temperature: float) -> Tensor:
    """Return the gradient (M, 2) of the mean log-odds of all anchors by the synthetic samples (M, 2)."""
    moving = fake.clone().requires_grad_()
    odds = log_odds(build_real_fake_batch(real, moving), torch.tensor([1 / temperature], dtype=torch.float64))
    return torch.autograd.grad(odds.mean(), moving)[0]
