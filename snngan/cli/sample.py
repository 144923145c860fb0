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

    from snngan.config import TrainConfig

drawing_options = add_options(
    run_argument,
    click.option("--class", "label", metavar="NAME", help="class of a conditional generator, by name or number [all]"),
    click.option("--seed", default=0, show_default=True, type=SEED, help="random seed: same seed, same bytes"),
    click.option("--out", required=True, type=PATH, help="file or folder to write: grid.png, images.npz or folder/"),
    force_option,
    device_option,
)


@click.command(epilog="Example:  snngan sample runs/0001-mnist-5k-snnl-features --count 5000 --seed 1 --out images.npz")
@click.option("--count", default=64, show_default=True, type=click.IntRange(1, MAX_COUNT), help="number of images")
@drawing_options
def sample(run: Path, count: int, label: str | None, seed: int, out: Path, force: bool, device: str) -> None:
    """Draw images from RUN's EMA generator.

    A name ending in .png gets one grid of images; one ending in .npz gets the array `images`, uint8 (N, C, H, W), and
    `labels` of a conditional generator; any other name becomes a new folder of PNG files. Without --class, a
    conditional generator draws a grid with a row for each class, else classes as frequent as in the training images.
    """
    from snngan.training.sampling import class_rows, draw_labels, draw_latents

    def make_labels(config: TrainConfig) -> tuple[Tensor | None, int | None]:
        if config.conditional and out.suffix.lower() == ".png" and not config.is_points:
            columns = -(-count // config.num_classes)
            return class_rows(config.num_classes, columns)[:count], columns
        return draw_labels(count, config.class_counts, seed), None

    draw(run, out, count, lambda dim: draw_latents(count, dim, seed), make_labels, label, force=force, device=device)


def draw(
    run: Path,
    out: Path,
    count: int,
    make_latents: Callable[[int], Tensor],
    make_labels: Callable[[TrainConfig], tuple[Tensor | None, int | None]],
    label: str | None,
    *,
    force: bool,
    device: str,
) -> None:
    """Draw ``count`` images of a run from ``make_latents(latent_dim)``, and write them to ``out``.

    ``make_labels`` gives the classes where no ``label`` is given, if the run has any, and the columns of a grid.
    """
    from snngan.config import TrainConfig
    from snngan.data.grids import check_output, save_images
    from snngan.memory import check_available
    from snngan.training.device import choose_device
    from snngan.training.resolve import build_architecture
    from snngan.training.run_folder import open_run
    from snngan.training.sampling import build_ema_generator, find_class, sample_images

    check_output(out, force=force)
    folder = open_run(run, TrainConfig)
    config, latent_dim = folder.config, build_architecture(folder.config).latent_dim
    size = 16 * count * (math.prod(config.image_shape) + latent_dim)
    check_available(size, f"{count} images", "a smaller --count or --side")
    fixed = None if label is None else find_class(config, label)
    labels, columns = make_labels(config)
    latents = make_latents(latent_dim)
    if fixed is not None:
        labels, columns = latents.new_full((count,), fixed).long(), columns if labels is None else None
    generator = build_ema_generator(folder, choose_device(device), print_note)
    save_images(sample_images(generator, latents, labels), out, columns, labels)
    of_class = "" if fixed is None else f" of class {config.class_name(fixed)}"
    print_result(f"{count} {'points' if config.is_points else 'images'}{of_class} of step {generator.step} -> {out}")
    print_next_commands(folder)
