"""``snngan interpolate``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli import explain_memory
from snngan.cli.next_commands import make_compare_command, print_next_commands
from snngan.cli.options import SEED, LocalPath, device_option, force_option, run_argument
from snngan.cli.output import print_note, print_result


@click.command(epilog="Example:  snngan interpolate runs/0001-mnist-5k-snnl-pixel --side 15 --out plane.png")
@run_argument
@click.option(
    "--side", default=15, show_default=True, type=click.IntRange(2, 200), help="number of images per row and column"
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="random seed of the plane's directions")
@click.option("--out", required=True, type=LocalPath(), help="file or folder to write: plane.png, plane.npz or folder/")
@force_option
@device_option
@explain_memory("a smaller --side")
def interpolate(run: Path, side: int, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw a grid of images on a plane through RUN's latent space, spanned by two great circles."""
    from snngan.config import TrainConfig
    from snngan.data.grids import check_output, save_images
    from snngan.training.device import choose_device
    from snngan.training.resolve import build_architecture
    from snngan.training.run_folder import open_run
    from snngan.training.sampling import build_ema_generator, latent_plane, sample_images

    check_output(out, force=force)
    folder = open_run(run, TrainConfig)
    generator = build_ema_generator(folder, choose_device(device), print_note)
    save_images(
        sample_images(generator, latent_plane(build_architecture(folder.config).latent_dim, side, seed)),
        out,
        columns=side,
    )
    print_result(f"{side} x {side} {'points' if folder.config.is_points else 'images'} -> {out}")
    print_next_commands(
        [f"snngan evaluate {folder.quoted}"], make_compare_command(folder), [f"snngan board {folder.quoted}"]
    )
