"""``snngan interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from snngan.cli.sample import draw, drawing_options

if TYPE_CHECKING:
    from snngan.config import TrainConfig


@click.command(epilog="Example:  snngan interpolate runs/0001-mnist-5k-snnl-features --side 15 --out plane.png")
@click.option("--side", default=15, show_default=True, type=click.IntRange(2, 200), help="images per row and column")
@drawing_options
def interpolate(run: Path, side: int, label: str | None, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw a grid of images on a plane through RUN's latent space, spanned by two great circles.

    A conditional generator draws one class, which --class names.
    """
    from snngan.training.sampling import latent_plane

    def make_labels(config: TrainConfig) -> tuple[None, int]:
        if config.conditional and label is None:
            names = ", ".join(map(config.class_name, range(config.num_classes)))
            raise ValueError(f"a plane shows one class of a conditional generator: give --class, one of {names}")
        return None, side

    draw(run, out, side**2, lambda dim: latent_plane(dim, side, seed), make_labels, label, force=force, device=device)
