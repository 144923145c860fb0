"""``snngan entangle``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snngan.cli import explain_memory
from snngan.cli.options import (
    MAX_COUNT,
    SEED,
    LocalPath,
    add_image_options,
    data_dir_option,
    device_option,
    force_option,
)
from snngan.cli.output import print_note, print_result, reset_matplotlib_settings

if TYPE_CHECKING:
    from snngan.evaluation.features import Extractor
    from snngan.evaluation.sources import ImageSource


@click.command(epilog="Example:  snngan entangle mnist runs/0001-mnist-snnl-pixel --count 5000 --out compared")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--space", type=click.Choice(["pixel", "features", "projection"]),
    help="where distances are taken; projection: the learned space of the run among A and B [features where "
    "--features is given, else pixel]",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="half of a set")
@click.option(
    "--count", type=click.IntRange(4, MAX_COUNT), help="images of each side [all; of a run as many as of the other]"
)
@add_image_options("with --space features: classifier of A or B, where one has labels, else pixels")
@click.option("--seed", default=0, show_default=True, type=SEED, help="of a run's noise and of the permutations")
@click.option("--out", type=LocalPath(), help="a new folder for the curve and two grids of images")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@force_option
@data_dir_option
@device_option
@explain_memory("a smaller --count or --image-size")
def entangle(
    first: str, second: str, space: str | None, split: str, count: int | None, features: str | None, download: bool,
    skip_broken: bool, image_size: int | None, seed: int, out: Path | None, as_json: bool, force: bool,
    data_dir: str | None, device: str,
) -> None:  # fmt: skip
    """Say how entangled the images of A (the real ones) and B are, and whether they can be told apart.

    A and B are any two of: a run, a folder of images, an npz file, a data set. The p-value is of a permutation test:
    low, neighborhoods tell the sides apart. --out also draws the loss against the temperature, the images of A that
    those of B come least near, and the images of B that lie furthest from those of A.
    """
    from snngan.data.datasets import data_folder
    from snngan.evaluation.choice import choose_extractor, default_extractor, labeled_set, projection_of
    from snngan.evaluation.features import Pixels
    from snngan.evaluation.sources import open_source
    from snngan.evaluation.two_sample_report import check_folder, compare_sources
    from snngan.training.device import choose_device

    if out is not None:
        check_folder(out, force=force)
    features = features or ("inception" if download else None)
    space = space or ("features" if features else "pixel")
    if space != "features" and features:
        raise ValueError(f"--features and --download need --space features, got --space {space}")
    where = choose_device(device)
    data: dict[str, Any] = {"data_dir": data_dir, "skip_broken": skip_broken, "notify": print_note}
    training: dict[str, Any] = {"folder": data_folder(data_dir) / "features", "device": where}
    open_images: Callable[..., ImageSource] = partial(
        open_source, split=split, image_size=image_size, device=where, **data
    )
    real, fake = open_images(first, seed=seed + 1), open_images(second, seed=seed)  # two runs: each a noise of its own
    if space == "pixel":
        extractor: Extractor = Pixels()
    elif space == "projection":
        extractor = projection_of((first, second), where, print_note)
    elif features:
        extractor = choose_extractor(features, image_size=image_size, download=download, **data, **training)
    else:
        dataset = labeled_set(first, real, **data) or labeled_set(second, fake, **data)
        extractor = default_extractor(fake, real, dataset, notify=print_note, **training)
    comparison = compare_sources(real, fake, extractor, count=count, seed=seed)
    if as_json:
        print_result(json.dumps(comparison.content, indent=2))
    else:
        for line in comparison.lines():
            print_result(line, indent=4)
    if out is not None:
        reset_matplotlib_settings()
        comparison.write(out)
        print_result(f"curve, grids and numbers -> {out}", err=as_json)
    elif not as_json:
        print_result("the curve and two grids of images: the same with --out FOLDER")
