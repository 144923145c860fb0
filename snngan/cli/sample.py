"""``snngan sample``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from snngan.cli import explain_memory
from snngan.cli.next_commands import make_compare_command, make_out_option, print_next_commands
from snngan.cli.options import MAX_COUNT, SEED, LocalPath, device_option, force_option, run_argument
from snngan.cli.output import print_note, print_result


@click.command(epilog="Example:  snngan sample runs/0001-mnist-5k-snnl-pixel --count 5000 --seed 1 --out images.npz")
@run_argument
@click.option("--count", default=64, show_default=True, type=click.IntRange(1, MAX_COUNT), help="number of images")
@click.option(
    "--seed", default=0, show_default=True, type=SEED, help="random seed of the latents: same seed, same bytes"
)
@click.option("--out", required=True, type=LocalPath(), help="file or folder to write: grid.png, images.npz or folder/")
@force_option
@device_option
@explain_memory("a smaller --count")
def sample(run: Path, count: int, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw images from RUN's EMA generator.

    A name ending in .png gets one grid of images; one ending in .npz gets the array `images`, uint8 (N, C, H, W); any
    other name becomes a new folder of PNG files.
    """
    from snngan.config import TrainConfig
    from snngan.data.grids import check_output, save_images
    from snngan.memory import check_available
    from snngan.training.device import choose_device
    from snngan.training.resolve import build_architecture
    from snngan.training.run_folder import open_run
    from snngan.training.sampling import build_ema_generator, draw_latents, sample_images

    check_output(out, force=force)
    folder = open_run(run, TrainConfig)
    latent_dim = build_architecture(folder.config).latent_dim
    size = 16 * count * (math.prod(folder.config.image_shape) + latent_dim)
    check_available(size, f"--count {count}", "a smaller --count")
    generator = build_ema_generator(folder, choose_device(device), print_note)
    images = sample_images(generator, draw_latents(count, latent_dim, seed))
    save_images(images, out)
    print_result(f"{count} {'points' if folder.config.is_points else 'images'} of step {generator.step} -> {out}")
    print_next_commands(
        [f"snngan interpolate {folder.quoted}", *make_out_option(folder, "plane.png")],
        [f"snngan evaluate {folder.quoted}"],
        make_compare_command(folder),
        [f"snngan report {folder.quoted}", *make_out_option(folder, "report.html")],
    )
