"""``snngan sample``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from snngan.cli.options import MAX_COUNT, PATH, SEED, add_options, device_option, force_option, run_argument
from snngan.cli.output import print_next_commands, print_note, print_result

if TYPE_CHECKING:
    from torch import Tensor

drawing_options = add_options(
    run_argument,
    click.option("--seed", default=0, show_default=True, type=SEED, help="random seed: same seed, same bytes"),
    click.option("--out", required=True, type=PATH, help="file or folder to write: grid.png, images.npz or folder/"),
    force_option,
    device_option,
)


@click.command(epilog="Example:  snngan sample runs/0001-mnist-5k-snnl-pixel --count 5000 --seed 1 --out images.npz")
@click.option("--count", default=64, show_default=True, type=click.IntRange(1, MAX_COUNT), help="number of images")
@drawing_options
def sample(run: Path, count: int, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw images from RUN's EMA generator.

    A name ending in .png gets one grid of images; one ending in .npz gets the array `images`, uint8 (N, C, H, W); any
    other name becomes a new folder of PNG files.
    """
    from snngan.training.sampling import draw_latents

    draw(run, out, count, lambda latent_dim: draw_latents(count, latent_dim, seed), force=force, device=device)


def draw(
    run: Path,
    out: Path,
    count: int,
    make_latents: Callable[[int], Tensor],
    *,
    force: bool,
    device: str,
    columns: int | None = None,
) -> None:
    """Draw ``count`` images of a run from ``make_latents(latent_dim)``, and write them to ``out``."""
    from snngan.config import TrainConfig
    from snngan.data.grids import check_output, save_images
    from snngan.memory import check_available
    from snngan.training.device import choose_device
    from snngan.training.resolve import build_architecture
    from snngan.training.run_folder import open_run
    from snngan.training.sampling import build_ema_generator, sample_images

    check_output(out, force=force)
    folder = open_run(run, TrainConfig)
    latent_dim = build_architecture(folder.config).latent_dim
    size = 16 * count * (math.prod(folder.config.image_shape) + latent_dim)
    check_available(size, f"{count} images", "a smaller --count or --side")
    generator = build_ema_generator(folder, choose_device(device), print_note)
    save_images(sample_images(generator, make_latents(latent_dim)), out, columns)
    print_result(f"{count} {'points' if folder.config.is_points else 'images'} of step {generator.step} -> {out}")
    print_next_commands(folder)
