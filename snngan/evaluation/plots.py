"""Plots of results, drawn by matplotlib without a display; functions with an argument ``path`` write that file."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from snngan.data.grids import save_gif
from snngan.evaluation.two_sample import TwoSampleResult
from snngan.files import replacing

if TYPE_CHECKING:
    from PIL import Image

Log = Mapping[str, tuple[list[int], list[float]]]
"""Steps and values of each tag of one run."""


def plot_loss_by_temperature(result: TwoSampleResult, path: Path) -> None:
    """Plot the loss against the temperature: the anchors of both sides, and the band of permuted labels."""
    figure, (axes,) = new_figure()
    test, (num_real, num_fake) = result.test, result.test.sizes
    of_all = (num_real * test.real_losses + num_fake * test.fake_losses) / (num_real + num_fake)
    axes.fill_between(test.temperatures, *test.permuted_losses, color="0.85", label="95 % of permuted labels")
    axes.plot(test.temperatures, of_all, "k", label="all anchors")
    axes.plot(test.temperatures, test.real_losses, color="tab:blue", label="real anchors")
    axes.plot(test.temperatures, test.fake_losses, color="tab:red", label="synthetic anchors")
    if math.isfinite(result.entanglement.temperature):
        axes.axvline(result.entanglement.temperature, color="0.5", linestyle=":", label="optimal T of all images")
    axes.set_title(f"score {result.entanglement.score:.3f}, p = {test.p_value:.3g}; {num_real} + {num_fake} images")
    axes.set(xscale="log", xlabel="temperature (squared distance)", ylabel="soft nearest neighbor loss (nats)")
    axes.legend()
    save_figure(figure, path)


def plot_groups(groups: Mapping[str, Sequence[Log]], tags: Sequence[str], path: Path) -> Path:
    """Plot each of ``tags`` in a panel: the mean over the logs of each group, with the band from lowest to highest."""
    figure, panels = new_figure(len(tags))
    for axes, tag in zip(panels, tags, strict=True):
        for number, (name, logs) in enumerate(groups.items()):
            by_step = [dict(zip(*log[tag], strict=True)) for log in logs]
            steps = sorted(set.intersection(*map(set, by_step)))  # values that are not finite are not logged
            values = torch.tensor([[each[step] for step in steps] for each in by_step])
            color = f"C{number % 10}"
            axes.plot(steps, values.mean(0), color, label=name)
            axes.fill_between(steps, values.amin(0), values.amax(0), color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="step", ylabel=tag)
        if tag.endswith("fid"):
            axes.set_yscale("log")
    panels[0].legend(fontsize=8)
    return save_figure(figure, path)


def plot_against_fid(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], path: Path) -> Path:
    """Plot in each panel the values of each group of runs against their final FID, on a logarithmic scale."""
    figure, axes = new_figure(len(panels))
    for panel, (title, groups) in zip(axes, panels.items(), strict=True):
        for number, (name, (values, fids)) in enumerate(groups.items()):
            panel.plot(values, fids, "os^D"[number // 10], color=f"C{number % 10}", label=name)
        panel.set(xlabel=title, ylabel="final FID", yscale="log", xscale="log" if "FID" in title else "linear")
    axes[-1].legend(fontsize=7)
    return save_figure(figure, path)


def plot_errors_by_alpha(alphas: Sequence[float], errors: Sequence[float], largest: float, path: Path) -> Path:
    """Plot the error of each trial against its alpha, on a cube-root axis as in the search; later trials are darker."""
    figure, (axes,) = new_figure()
    dots = axes.scatter(alphas, errors, c=range(len(alphas)), cmap="viridis_r", s=18)
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.set_xscale("function", functions=(np.cbrt, lambda root: root**3))
    ticks = [largest * share for share in (-1, -1 / 8, 0, 1 / 8, 1)]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_yticks([0, 0.01, 0.03, 0.1, 0.3, 1], ["0", "1 %", "3 %", "10 %", "30 %", "100 %"])
    axes.set_ylim(0 if min(errors) < 0.01 else 0.01, 1.1)
    axes.set(xlabel="alpha; negative values entangle (cube-root axis)", ylabel="test error")
    figure.colorbar(dots, ax=axes, label="trial")
    return save_figure(figure, path)


def plot_tsne(
    panels: Mapping[str, tuple[Tensor, Tensor]], columns: int, title: str, path: Path, *, size: float
) -> Path:
    """Plot in each panel t-SNE of two groups of features (N, ...) together: the first blue, the second red."""
    figure, places = new_figure(columns, math.ceil(len(panels) / columns), size=size)
    for axes in places:
        axes.set(xticks=[], yticks=[])
    for axes, (name, (first, second)) in zip(places, panels.items(), strict=False):
        points = tsne(torch.cat([first.flatten(1), second.flatten(1)]))
        axes.scatter(*points[: len(first)].T, s=size, color="tab:blue", linewidths=0)
        axes.scatter(*points[len(first) :].T, s=size, color="tab:red", linewidths=0)
        axes.set_title(name, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return save_figure(figure, path)


def tsne(features: Tensor) -> Tensor:
    """Return points (N, 2) for features (N, D), D >= 2, by scikit-learn's t-SNE."""
    from sklearn.manifold import TSNE

    search = TSNE(2, perplexity=min(30.0, len(features) / 4), init="pca", random_state=0)
    return torch.from_numpy(search.fit_transform(features.numpy()))


def plot_credibility_by_accuracy(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]], path: Path
) -> Path:
    """Plot in each panel credibility against accuracy for each name: thin lines are seeds, thick ones their mean."""
    columns = min(3, len(panels))
    figure, places = new_figure(columns, math.ceil(len(panels) / columns), size=3.2)
    names: dict[str, str] = {}
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, by_name) in zip(places, panels.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
        for name, seeds in by_name.items():
            color = names.setdefault(name, f"C{len(names) % 10}")
            for curve in seeds:
                axes.plot(*curve, color=color, linewidth=0.5, alpha=0.5)
            mean = torch.tensor(seeds).mean(0)
            axes.plot(*mean, color=color, marker="o", markersize=3, label=name)
        axes.set_title(title, fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xlabel("DkNN accuracy", fontsize=8)
        axes.set_ylabel("mean credibility", fontsize=8)
        axes.legend(fontsize=7)
    return save_figure(figure, path)


def plot_bars(panels: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> Path:
    """Plot in each panel, for each layer, a bar with its interval for each loss, a result of ``summarize``."""
    figure, places = new_figure(len(panels))
    for axes, (title, rows) in zip(places, panels.items(), strict=True):
        sides = list(next(iter(rows.values())))
        width = 0.8 / len(sides)
        for number, side in enumerate(sides):
            means = [row[side]["mean"] for row in rows.values()]
            highs = [row[side]["interval"][1] if row[side]["interval"] else math.nan for row in rows.values()]
            errors = [high - mean for high, mean in zip(highs, means, strict=True)]
            axes.bar(np.arange(len(rows)) + number * width, means, width, yerr=errors, capsize=3, label=side)
        axes.set_xticks(np.arange(len(rows)) + 0.4 - width / 2, list(rows))
        axes.set(ylim=(0, None), title=title, ylabel="soft nearest neighbor loss")
    places[0].legend(fontsize=8)
    return save_figure(figure, path)


def plot_scatter_panels(panels: Mapping[str, tuple[Tensor, Tensor]], columns: int, path: Path) -> Path:
    """Plot in each panel points (N, 2) in the colors of their labels (N,)."""
    figure, places = new_figure(columns, math.ceil(len(panels) / columns), size=2.8)
    for axes, (title, (points, labels)) in zip(places, panels.items(), strict=False):
        draw_scatter(axes, points, labels)
        axes.set_title(title, fontsize=8)
    return save_figure(figure, path)


def plot_fields(panels: Mapping[str, tuple[Tensor, Tensor, Tensor]], path: Path) -> Path:
    """Plot in each panel real points (N, 2) in blue, synthetic ones (M, 2) in red, and arrows (M, 2) from these."""
    figure, places = new_figure(len(panels), size=3.2)
    for axes, (title, (real, fake, arrows)) in zip(places, panels.items(), strict=True):
        axes.scatter(*real.T, c="tab:blue", s=6, linewidths=0)
        axes.scatter(*fake.T, c="tab:red", s=6, linewidths=0)
        axes.quiver(*fake.T, *arrows.T, color="0.2", width=0.004, angles="xy", scale=4)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.set_title(title, fontsize=8)
    return save_figure(figure, path)


def save_scatter_gif(frames: Sequence[Tensor], labels: Tensor, path: Path, seconds: float = 4.0) -> Path:
    """Write points around their mean, (N, 2) in each frame, as an endless GIF of ``seconds``, with fixed axes."""
    frames = [points - points.mean(0) for points in frames]
    reach = max(float(points.abs().max()) for points in frames) * 1.05
    pictures = []
    for points in frames:
        figure, (axes,) = new_figure(size=3.0)
        draw_scatter(axes, points, labels)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        pictures.append(_render(figure, 80, 32))
    save_gif(pictures, path, round(1000 * seconds / len(frames)), 1500)
    return path


def draw_scatter(axes: Any, points: Tensor, labels: Tensor) -> None:
    """Draw points (N, 2) in the colors of their labels (N,) on a panel without ticks."""
    axes.scatter(*points.T, c=labels, cmap="tab10", vmin=0, vmax=9, s=6, linewidths=0)
    axes.set(xticks=[], yticks=[])


def new_figure(columns: int = 1, rows: int = 1, size: float = 0.0) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure and its panels, row by row; ``size`` in inches makes them square."""
    from matplotlib.figure import Figure

    width, height = (size, size) if size else (7.0 if columns == 1 else 5.0, 4.5)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure: Any, path: Path) -> Path:
    """Write ``figure`` as a PNG of 256 colors, which has a third of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = _render(figure, 100, 256)
    with replacing(path, durable=False) as file:
        picture.save(file, format="PNG", optimize=True)
    return path


def _render(figure: Any, dpi: int, colors: int) -> Image.Image:
    """Return the figure as an image of at most so many colors."""
    from PIL import Image

    content = io.BytesIO()
    figure.savefig(content, dpi=dpi)
    with Image.open(content) as image:
        return image.convert("RGB").quantize(colors)
