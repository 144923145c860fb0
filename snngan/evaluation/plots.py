"""Figures of results, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snngan.evaluation.two_sample import TwoSample
from snngan.files import replacing


def save_curve(result: TwoSample, path: Path) -> None:
    """Draw the loss against the temperature: both sides' anchors, and the band of permuted labels.

    Raises:
        OSError: the file cannot be written.
    """
    figure, (axes,) = new_figure()
    curve, (num_real, num_fake) = result.curve, result.num_subset
    axes.fill_between(curve.temperatures, curve.low, curve.high, color="0.85", label="95 % of permuted labels")
    axes.plot(curve.temperatures, (num_real * curve.real + num_fake * curve.fake) / (num_real + num_fake), "k",
              label="all anchors")  # fmt: skip
    axes.plot(curve.temperatures, curve.real, color="tab:blue", label="real anchors")
    axes.plot(curve.temperatures, curve.fake, color="tab:red", label="synthetic anchors")
    if math.isfinite(result.entanglement.temperature):
        axes.axvline(result.entanglement.temperature, color="0.5", linestyle=":", label="optimal T of all points")
    axes.set_xscale("log")
    axes.set_xlabel("temperature (squared distance)")
    axes.set_ylabel("soft nearest neighbor loss (nats)")
    axes.set_title(f"score {result.entanglement.score:.3f}, p = {result.p_value:.3g}; {num_real} + {num_fake} points")
    axes.legend()
    save_figure(figure, path)


def curves_of_groups(
    groups: Mapping[str, Sequence[Mapping[str, tuple[list[int], list[float]]]]], tags: Sequence[str], path: Path
) -> Path:
    """Draw, a panel a tag, the mean over the logs of each group with the band between lowest and highest.

    Raises:
        OSError: the file cannot be written.
    """
    figure, panels = new_figure(len(tags))
    for axes, tag in zip(panels, tags, strict=True):
        for place, (name, logs) in enumerate(groups.items()):
            by_step = [dict(zip(*log[tag], strict=True)) for log in logs]
            steps = sorted(set.intersection(*(set(each) for each in by_step)))  # a figure that is not finite is none
            values = torch.tensor([[each[step] for step in steps] for each in by_step])
            axes.plot(steps, values.mean(0), f"C{place % 10}", label=name)
            axes.fill_between(steps, values.amin(0), values.amax(0), color=f"C{place % 10}", alpha=0.15, linewidth=0)
        axes.set_xlabel("step")
        axes.set_ylabel(tag)
        if tag.endswith("fid"):
            axes.set_yscale("log")
    panels[0].legend(fontsize=8)
    return save_figure(figure, path)


def curves_of_tags(
    logs: Sequence[Mapping[str, tuple[list[int], list[float]]]], tags: Mapping[str, str], label: str, path: Path
) -> Path:
    """Draw, in one panel, the mean over the logs of each of ``tags`` (by its name) with the band of all.

    Raises:
        OSError: the file cannot be written.
    """
    figure, (axes,) = new_figure()
    for place, (name, tag) in enumerate(tags.items()):
        values = torch.tensor([log[tag][1] for log in logs])
        axes.plot(logs[0][tag][0], values.mean(0), f"C{place % 10}", label=name)
        axes.fill_between(logs[0][tag][0], values.amin(0), values.amax(0), color=f"C{place % 10}", alpha=0.15, lw=0)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return save_figure(figure, path)


def errors_by_alpha(alphas: Sequence[float], errors: Sequence[float], largest: float, path: Path) -> Path:
    """Draw the error of each trial against its alpha, cube roots as in the search, the later ones darker.

    Raises:
        OSError: the file cannot be written.
    """
    figure, (axes,) = new_figure()
    dots = axes.scatter(alphas, errors, c=range(len(alphas)), cmap="viridis_r", s=18)
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.set_xscale("function", functions=(np.cbrt, lambda root: root**3))
    ticks = [largest * share for share in (-1, -1 / 8, 0, 1 / 8, 1)]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_yticks([0, 0.01, 0.03, 0.1, 0.3, 1], ["0", "1 %", "3 %", "10 %", "30 %", "100 %"])
    axes.set_ylim(0 if min(errors) < 0.01 else 0.01, 1.1)
    axes.set_xlabel("alpha, below 0 entangles (cube-root axis)")
    axes.set_ylabel("test error")
    figure.colorbar(dots, ax=axes, label="trial")
    return save_figure(figure, path)


def embedded_stages(real: Tensor, made: Mapping[str, Sequence[Tensor]], stages: Sequence[int], path: Path) -> Path:
    """Draw t-SNE of ``real`` images (N, C, H, W) with the samples of each name (rows) at each stage (columns).

    Raises:
        OSError: the file cannot be written.
    """
    panels = {
        f"{name}, step {step}": (real, images)
        for name, samples in made.items()
        for step, images in zip(stages, samples, strict=True)
    }
    return embedded(panels, len(stages), "t-SNE of real (blue) and synthetic (red) images", path)


def embedded(
    panels: Mapping[str, tuple[Tensor, Tensor]], columns: int, title: str, path: Path, size: float = 2.0
) -> Path:
    """Draw, a panel each, t-SNE of two groups of points (N, ...) together: the first blue, the second red.

    Raises:
        OSError: the file cannot be written.
    """
    figure, places = new_figure(columns, math.ceil(len(panels) / columns), size=size)
    for axes in places:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, (name, (first, second)) in zip(places, panels.items(), strict=False):
        plane = tsne(torch.cat([first.flatten(1), second.flatten(1)]))
        axes.scatter(*plane[: len(first)].T, s=size, color="tab:blue", linewidths=0)
        axes.scatter(*plane[len(first) :].T, s=size, color="tab:red", linewidths=0)
        axes.set_title(name, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return save_figure(figure, path)


def tsne(points: Tensor) -> Tensor:
    """Return the places (N, 2) of points (N, D), D >= 2, by scikit-learn's t-SNE."""
    from sklearn.manifold import TSNE

    search = TSNE(2, perplexity=min(30.0, len(points) / 4), init="pca", random_state=0)
    return torch.from_numpy(search.fit_transform(points.numpy()))


def credibility_by_accuracy(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]], path: Path
) -> Path:
    """Draw, a panel each, the points (accuracy, credibility) of each name: thin a seed, thick their mean.

    Raises:
        OSError: the file cannot be written.
    """
    columns = min(3, len(panels))
    figure, places = new_figure(columns, math.ceil(len(panels) / columns), size=3.2)
    names: dict[str, str] = {}
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, sides) in zip(places, panels.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
        for name, seeds in sides.items():
            color = names.setdefault(name, f"C{len(names) % 10}")
            for points in seeds:
                axes.plot(*points, color=color, linewidth=0.5, alpha=0.5)
            mean = torch.tensor(seeds).mean(0)
            axes.plot(*mean, color=color, marker="o", markersize=3, label=name)
        axes.set_title(title, fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("DkNN accuracy", fontsize=8)
        axes.set_ylabel("mean credibility", fontsize=8)
        axes.legend(fontsize=7)
    return save_figure(figure, path)


def bars_of_pairs(panels: Mapping[str, Mapping[str, Mapping[str, Any]]], label: str, path: Path) -> Path:
    """Draw, a panel each, a bar with its interval for each side (``summary``) of each name.

    Raises:
        OSError: the file cannot be written.
    """
    figure, places = new_figure(len(panels))
    for axes, (title, rows) in zip(places, panels.items(), strict=True):
        sides = list(next(iter(rows.values())))
        width = 0.8 / len(sides)
        for number, side in enumerate(sides):
            means = [row[side]["mean"] for row in rows.values()]
            halves = [row[side]["interval"][1] - row[side]["mean"] if row[side]["interval"] else math.nan
                      for row in rows.values()]  # fmt: skip
            axes.bar(np.arange(len(rows)) + number * width, means, width, yerr=halves, capsize=3, label=side)
        axes.set_xticks(np.arange(len(rows)) + 0.4 - width / 2, list(rows))
        axes.set_ylim(0, None)
        axes.set_title(title)
        axes.set_ylabel(label)
    places[0].legend(fontsize=8)
    return save_figure(figure, path)


def new_figure(columns: int = 1, rows: int = 1, size: float = 0.0) -> tuple[Any, list[Any]]:
    """Return a figure and its panels, row by row; ``size`` in inches makes them square."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = (size, size) if size else (7.0 if columns == 1 else 5.0, 4.5)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure: Any, path: Path) -> Path:
    """Write ``figure`` in 256 colors, a third of the bytes."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, dpi=100)
    with Image.open(content) as image, replacing(path, durable=False) as file:
        image.convert("RGB").quantize(256).save(file, format="PNG", optimize=True)
    return path
