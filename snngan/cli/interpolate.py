"""``snngan interpolate``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.sample import draw, drawing_options


@click.command(epilog="Example:  snngan interpolate runs/0001-mnist-5k-snnl-pixel --side 15 --out plane.png")
@click.option("--side", default=15, show_default=True, type=click.IntRange(2, 200), help="images per row and column")
@drawing_options
def interpolate(run: Path, side: int, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw a grid of images on a plane through RUN's latent space, spanned by two great circles."""
    from snngan.training.sampling import latent_plane

    draw(run, out, side**2, lambda dim: latent_plane(dim, side, seed), force=force, device=device, columns=side)
