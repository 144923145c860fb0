"""``snngan interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from snngan.cli.sample import draw, drawing_options

if TYPE_CHECKING:
    from torch import Tensor

    from snngan.config import TrainConfig

FRAMES = 30
"""Frames of a film, which takes 2.4 seconds."""


@click.command(epilog="Example:  snngan interpolate runs/0001-mnist-5k-snnl-features --out walk.gif")
@click.option("--side", type=click.IntRange(2, 200), help="images per row and column [15, of a film 4]")
@drawing_options
def interpolate(run: Path, side: int | None, label: str | None, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw a grid of images on a plane through RUN's latent space, spanned by two great circles.

    A conditional generator draws one class, which --class names. A name ending in .gif gets a film instead, in which
    each image walks on a great circle of its own; without --class there is one image of each class.
    """
    from snngan.training.sampling import latent_plane

    if out.suffix.lower() == ".gif":
        film(run, side or 4, label, seed, out, force=force, device=device)
        return
    columns = side or 15

    def make_labels(config: TrainConfig) -> tuple[None, int]:
        if config.conditional and label is None:
            names = ", ".join(map(config.class_name, range(config.num_classes)))
            raise ValueError(f"a plane shows one class of a conditional generator: give --class, one of {names}")
        return None, columns

    def make_latents(latent_dim: int) -> Tensor:
        return latent_plane(latent_dim, columns, seed)

    draw(run, out, columns**2, make_latents, make_labels, label, force=force, device=device)


def film(run: Path, side: int, label: str | None, seed: int, out: Path, *, force: bool, device: str) -> None:
    """Write a film of images that walk through latent space, in a grid."""
    import torch

    from snngan.training.sampling import latent_loops, open_generator

    num_classes = open_generator(run, torch.device("cpu"))[0].num_classes
    by_class = label is None and num_classes > 0
    count, columns = (num_classes, min(5, num_classes)) if by_class else (side**2, side)
    labels = torch.arange(num_classes).repeat(FRAMES) if by_class else None

    def make_latents(latent_dim: int) -> Tensor:
        return latent_loops(latent_dim, count, FRAMES, seed)

    draw(
        run, out, FRAMES * count, make_latents, lambda config: (labels, columns), label,
        force=force, device=device, per_frame=count,
    )  # fmt: skip
