"""``snngan entangle``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from snngan.cli.options import MOST, SEED, data_dir_option, device_option
from snngan.cli.output import draw_plainly, notify, tell


@click.command(epilog="Example:  snngan entangle mnist runs/0001-mnist-snnl-pixel --count 5000 --out compared")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--space", default="pixel", show_default=True, type=click.Choice(["pixel", "features", "projection"]),
    help="where distances are taken; projection: the learned space of the run among A and B",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="half of a set")
@click.option(
    "--count", type=click.IntRange(4, MOST), help="images of each side [all; of a run as many as of the other]"
)
@click.option("--features", metavar="SPACE", help="inception, or a file of torch.export or TorchScript")
@click.option("--inception-weights", metavar="FILE", type=click.Path(path_type=Path), help="of pytorch-fid's network")
@click.option("--train-features", metavar="NAME", help="features of a small classifier of this set, trained once")
@click.option("--image-size", type=click.IntRange(1, 4096), help="to shrink and crop a folder's images or a set to")
@click.option("--seed", default=0, show_default=True, type=SEED, help="of a run's noise and of the permutations")
@click.option("--out", type=click.Path(path_type=Path), help="a new folder for the curve and two grids of images")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@data_dir_option
@device_option
def entangle(
    first: str, second: str, space: str, split: str, count: int | None, features: str | None,
    inception_weights: Path | None, train_features: str | None, image_size: int | None, seed: int, out: Path | None,
    as_json: bool, data_dir: str | None, device: str,
) -> None:  # fmt: skip
    """Say how entangled the images of A (the real ones) and B are, and whether they can be told apart.

    A and B are any two of: a run, a folder of images, an npz file, a data set. The p-value is of a permutation test:
    low, neighbourhoods tell the sides apart. --out also draws the loss against the temperature, the images of A that
    those of B come least near, and the images of B that lie furthest from those of A.
    """
    from snngan.data.datasets import data_folder
    from snngan.evaluation.choice import choose_extractor, projection_of
    from snngan.evaluation.comparison import check_new_folder, compare_sources
    from snngan.evaluation.features import Pixels
    from snngan.evaluation.sources import open_source
    from snngan.training.device import choose_device

    if out is not None:
        check_new_folder(out)
    if space != "features" and (features or inception_weights or train_features):
        raise ValueError(f"--features, --inception-weights and --train-features want --space features, not {space}")
    where = choose_device(device)
    opened = partial(open_source, split=split, data_dir=data_dir, image_size=image_size, device=where, notify=notify)
    real, fake = opened(first, seed=seed + 1), opened(second, seed=seed)  # of two runs each has a noise of its own
    if space == "features":
        folder = data_folder(data_dir) / "features"
        extractor = choose_extractor(
            features, inception_weights, train_features, data_dir, image_size, folder, where, notify
        )
    else:
        extractor = Pixels() if space == "pixel" else projection_of((first, second), where, notify)
    comparison = compare_sources(real, fake, extractor, count=count, seed=seed)
    if as_json:
        tell(json.dumps(comparison.content, indent=2))
    else:
        for line in comparison.lines():
            tell(line)
    if out is not None:
        draw_plainly()
        comparison.write(out)
        tell(f"curve, grids and numbers -> {out}", err=as_json)
    elif not as_json:
        tell("the curve and two grids of images: the same with --out FOLDER")
