"""Labeled points of the plane: as panels, and moving as a GIF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from snngan.evaluation.plots import new_figure, save_figure
from snngan.files import replacing


def planes(panels: Mapping[str, tuple[Tensor, Tensor]], columns: int, path: Path) -> Path:
    """Draw, a panel each, points (N, 2) in the colors of their labels (N,).

    Raises:
        OSError: the file cannot be written.
    """
    figure, places = new_figure(columns, -(-len(panels) // columns), size=2.8)
    for axes, (title, (points, labels)) in zip(places, panels.items(), strict=False):
        scatter(axes, points, labels)
        axes.set_title(title, fontsize=8)
    return save_figure(figure, path)


def moving(frames: Sequence[Tensor], labels: Tensor, path: Path, seconds: float = 4.0) -> Path:
    """Write the way of points (N, 2), a frame each, as an endless GIF of so many ``seconds``, within fixed axes.

    Raises:
        OSError: the file cannot be written.
    """
    from PIL import Image

    reach = max(float(points.abs().max()) for points in frames) * 1.05
    pictures = []
    for points in frames:
        figure, (axes,) = new_figure(size=3.0)
        scatter(axes, points, labels)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        content = io.BytesIO()
        figure.savefig(content, dpi=80)
        with Image.open(content) as image:
            pictures.append(image.convert("RGB").quantize(32))
    path.parent.mkdir(parents=True, exist_ok=True)
    spent = [round(1000 * seconds / len(frames))] * (len(frames) - 1) + [1500]  # the last for long enough to be seen
    with replacing(path, durable=False) as file:
        pictures[0].save(
            file, format="GIF", save_all=True, append_images=pictures[1:], duration=spent, loop=0, optimize=True
        )
    return path


def scatter(axes: Any, points: Tensor, labels: Tensor) -> None:
    """Draw points (N, 2) in the colors of their labels (N,) on a panel without scales."""
    axes.scatter(*points.T, c=labels, cmap="tab10", vmin=0, vmax=9, s=6, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
