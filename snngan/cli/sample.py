"""``snngan sample``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
@click.option(
    "--truncation",
    type=click.FloatRange(0, min_open=True),
    metavar="LIMIT",
    help="largest absolute value of latents: more typical images, less variety [none]",
)
@click.option("--latents", "latents_file", type=PATH, metavar="FILE.npz", help="latents (N, latent_dim) of your own")
@click.option("--through-training", is_flag=True, help="film of the grids that were drawn during training")
@drawing_options
def sample(
    run: Path,
    count: int,
    truncation: float | None,
    latents_file: Path | None,
    through_training: bool,
    label: str | None,
    seed: int,
    out: Path,
    force: bool,
    device: str,
) -> None:
    """Draw images from RUN's EMA generator, from that of a file of `snngan export`, or from pretrained:digits.

    A name ending in .png gets one grid of images; one ending in .npz gets the array `images`, uint8 (N, C, H, W), and
    `labels` of a conditional generator; any other name becomes a new folder of PNG files. Without --class, a
    conditional generator draws a grid with a row for each class, else classes as frequent as in the training images.

    With --through-training, OUT.gif shows how the same latents came to be images; other options do not matter.
    """
    if through_training:
        film_training(run, out, force=force)
        return
    from snngan.training.sampling import class_rows, draw_labels, draw_latents, truncate

    given = None if latents_file is None else read_latents(latents_file)
    count = count if given is None else len(given)

    def make_latents(latent_dim: int) -> Tensor:
        latents = draw_latents(count, latent_dim, seed) if given is None else given
        if latents.shape[1:] != (latent_dim,):
            raise ValueError(f"--latents must have the shape (N, {latent_dim}), got {tuple(latents.shape)}")
        return latents if truncation is None else truncate(latents, truncation)

    def make_labels(config: TrainConfig) -> tuple[Tensor | None, int | None]:
        if config.conditional and out.suffix.lower() == ".png" and not config.is_points:
            columns = -(-count // config.num_classes)
            return class_rows(config.num_classes, columns)[:count], columns
        return draw_labels(count, config.class_counts, seed), None

    draw(run, out, count, make_latents, make_labels, label, force=force, device=device)


def read_latents(path: Path) -> Tensor:
    """Return the array ``latents`` of an npz file in float32."""
    import zipfile

    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            latents = torch.from_numpy(file["latents"]).float()
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"--latents {path} must be an npz file with the numbers latents (N, latent_dim)") from error
    if not len(latents) or not bool(latents.isfinite().all()):
        raise ValueError(f"--latents {path} must hold finite numbers, for one image or more")
    return latents


def film_training(run: Path, out: Path, *, force: bool) -> None:
    """Write the sample grids of a run as a film, the last one for two seconds."""
    from PIL import Image

    from snngan.config import TrainConfig
    from snngan.data.grids import COLORS, check_output, save_gif
    from snngan.training.run_folder import open_run

    if out.suffix.lower() != ".gif":
        raise ValueError(f"--through-training writes a name ending in .gif, got {out}")
    check_output(out, force=force, film=True)
    paths = sorted(open_run(run, TrainConfig).samples.glob("step-*.png"))
    if len(paths) < 2:
        raise ValueError(f"{run} has {len(paths)} sample grids; a film needs 2 (train with --sample-every)")
    frames = []
    for path in paths:
        with Image.open(path) as grid:
            factor = max(1, round(grid.width / 300))
            frames.append(grid.convert("RGB").reduce(factor).quantize(COLORS))
    save_gif(frames, out, 250, 2000)
    print_result(f"{len(frames)} grids, of {paths[0].stem} to {paths[-1].stem} -> {out}")


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
    per_frame: int | None = None,
) -> None:
    """Draw ``count`` images of a run from ``make_latents(latent_dim)``, and write them to ``out``.

    ``make_labels`` gives the classes where no ``label`` is given, if the run has any, and the columns of a grid.
    ``per_frame`` images are one frame of a film.
    """
    from snngan.config import TrainConfig
    from snngan.data.grids import check_output, save_images
    from snngan.memory import check_available
    from snngan.training.device import choose_device
    from snngan.training.run_folder import open_run
    from snngan.training.sampling import find_class, open_generator, sample_images

    check_output(out, force=force, film=per_frame is not None)
    opened: tuple[TrainConfig, Any] = open_generator(run, choose_device(device), print_note)
    config, generator = opened
    size = 16 * count * (math.prod(config.image_shape) + generator.latent_dim)
    check_available(size, f"{count} images", "a smaller --count or --side")
    fixed = None if label is None else find_class(config, label)
    labels, columns = make_labels(config)
    latents = make_latents(generator.latent_dim)
    if fixed is not None:
        labels, columns = latents.new_full((count,), fixed).long(), columns if labels is None else None
    save_images(sample_images(generator, latents, labels), out, columns, labels, per_frame)
    of_class = "" if fixed is None else f" of class {config.class_name(fixed)}"
    print_result(f"{count} {'points' if config.is_points else 'images'}{of_class} of step {generator.step} -> {out}")
    if run.is_dir():
        print_next_commands(open_run(run, TrainConfig))
