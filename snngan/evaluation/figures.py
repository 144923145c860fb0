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

from snngan.evaluation.twosample import TwoSample


def save_curve(result: TwoSample, path: Path) -> None:
    """Draw the loss against the temperature: both sides' anchors, and the band of permuted labels.

    Raises:
        OSError: the file cannot be written.
    """
    figure, (axes,) = _figure()
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
    axes.set_ylabel("soft nearest neighbour loss (nats)")
    axes.set_title(f"score {result.entanglement.score:.3f}, p = {result.p_value:.3g}; {num_real} + {num_fake} points")
    axes.legend()
    _save(figure, path)


def curves_of_groups(
    groups: Mapping[str, Sequence[Mapping[str, tuple[list[int], list[float]]]]], tags: Sequence[str], path: Path
) -> Path:
    """Draw, a panel a tag, the mean over the logs of each group with the band between lowest and highest.

    Raises:
        OSError: the file cannot be written.
    """
    figure, panels = _figure(len(tags))
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
    return _save(figure, path)


def curves_of_tags(
    logs: Sequence[Mapping[str, tuple[list[int], list[float]]]], tags: Mapping[str, str], label: str, path: Path
) -> Path:
    """Draw, in one panel, the mean over the logs of each of ``tags`` (by its name) with the band of all.

    Raises:
        OSError: the file cannot be written.
    """
    figure, (axes,) = _figure()
    for place, (name, tag) in enumerate(tags.items()):
        values = torch.tensor([log[tag][1] for log in logs])
        axes.plot(logs[0][tag][0], values.mean(0), f"C{place % 10}", label=name)
        axes.fill_between(logs[0][tag][0], values.amin(0), values.amax(0), color=f"C{place % 10}", alpha=0.15, lw=0)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return _save(figure, path)


def errors_by_alpha(alphas: Sequence[float], errors: Sequence[float], largest: float, path: Path) -> Path:
    """Draw the error of each trial against its alpha, cube roots as in the search, the later ones darker.

    Raises:
        OSError: the file cannot be written.
    """
    figure, (axes,) = _figure()
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
    return _save(figure, path)


def embedded_stages(real: Tensor, made: Mapping[str, Sequence[Tensor]], stages: Sequence[int], path: Path) -> Path:
    """Draw t-SNE of ``real`` images (N, C, H, W) with the samples of each name (rows) at each stage (columns).

    Raises:
        OSError: the file cannot be written.
    """
    from sklearn.manifold import TSNE

    figure, panels = _figure(len(stages), len(made), size=2.0)
    for row, (name, samples) in enumerate(made.items()):
        for column, (step, images) in enumerate(zip(stages, samples, strict=True)):
            axes = panels[row * len(stages) + column]
            points = torch.cat([real.flatten(1), images.flatten(1)])
            perplexity = min(30.0, len(points) / 4)
            plane = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(points.numpy())
            axes.scatter(*plane[: len(real)].T, s=2, color="tab:blue", linewidths=0)
            axes.scatter(*plane[len(real) :].T, s=2, color="tab:red", linewidths=0)
            axes.set_title(f"{name}, step {step}", fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
    figure.suptitle("t-SNE of real (blue) and synthetic (red) images", fontsize=9)
    return _save(figure, path)


def _figure(columns: int = 1, rows: int = 1, size: float = 0.0) -> tuple[Any, list[Any]]:
    """Return a figure and its panels, row by row; ``size`` in inches makes them square."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = (size, size) if size else (7.0 if columns == 1 else 5.0, 4.5)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _save(figure: Any, path: Path) -> Path:
    """Write ``figure`` in 256 colours, a third of the bytes."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, dpi=100)
    with Image.open(content) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
    return path
