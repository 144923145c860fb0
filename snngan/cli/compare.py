"""``snngan compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from snngan.cli.options import MAX_COUNT, PATH, force_option, image_options
from snngan.cli.output import print_note, print_result


@click.command(epilog="Example:  snngan compare mnist runs/0001-mnist-snnl-features --count 5000 --out compared")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--space",
    type=click.Choice(["pixel", "features", "projection"]),
    help="space in which distances are measured; projection: the space learned by the discriminator of the run among "
    "A and B [features if --features is given, else pixel]",
)
@click.option(
    "--count",
    type=click.IntRange(4, MAX_COUNT),
    help="number of images of each side [all; of a run as many as on the other side]",
)
@click.option("--out", type=PATH, help="new folder for the plot and two grids of images")
@force_option
@image_options
def compare(first: str, second: str, out: Path | None, as_json: bool, force: bool, **options: Any) -> None:
    """Measure how entangled the images of A (the real ones) and B are, and whether they can be told apart.

    A and B may each be a run, a folder of images, an npz file or a data set. The p-value is that of a permutation test:
    it is low where neighborhoods tell the sides apart. --out also plots the loss against the temperature, and draws the
    images of A that are least covered by B and the images of B that are furthest off A.
    """
    from snngan.evaluation.two_sample_report import check_folder
    from snngan.evaluation.two_sample_report import compare as compare_images

    if out is not None:
        check_folder(out, force=force)
    comparison = compare_images(first, second, notify=print_note, **options)
    for line in [json.dumps(comparison.content, indent=2)] if as_json else comparison.lines():
        print_result(line)
    if out is not None:
        comparison.write(out)
        print_result(f"plot, grids and numbers -> {out}", err=as_json)
    elif not as_json:
        print_result("the plot and two grids of images: the same with --out FOLDER")
