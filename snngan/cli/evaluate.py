"""``snngan evaluate``."""

from __future__ import annotations

from typing import Any

import click

from snngan.cli.options import MAX_COUNT, image_options
from snngan.cli.output import print_next_commands, print_note, print_result


@click.command(epilog="Example:  snngan evaluate runs/0001-mnist-snnl-features --metrics fid,kid")
@click.argument("run", required=False)
@click.option("--reference", metavar="SET", help="the real images, given as RUN is [the run's data set]")
@click.option(
    "--count", default=10000, show_default=True, type=click.IntRange(2, MAX_COUNT), help="number of images of each side"
)
@click.option(
    "--pairwise-count",
    default=5000,
    show_default=True,
    type=click.IntRange(2, MAX_COUNT),
    help="number of them in the metrics of pairs (all but fid)",
)
@click.option(
    "--metrics",
    metavar="NAMES",
    help="names of metrics (fid, kid, prdc, 1nn, entanglement, copying), separated by commas [all]",
)
@click.option("--nearest", metavar="FILE", help="picture to write (.png): samples beside their nearest training images")
@click.option("--force", is_flag=True, help="replace an existing --nearest")
@image_options
def evaluate(run: str | None, metrics: str | None, nearest: str | None, as_json: bool, **options: Any) -> None:
    """Measure how good RUN's samples are: FID, KID, precision, recall, density, coverage, 1-NN accuracy, entanglement,
    and copying: how near samples are to training images.

    RUN may also be a folder of images, an npz file or a data set, and --reference an npz file of FID statistics.
    Without RUN, --features classifier:NAME trains that classifier and keeps it.
    """
    from snngan.evaluation.features import choose_extractor
    from snngan.evaluation.measure import evaluate as evaluate_images
    from snngan.evaluation.nearest import ROWS
    from snngan.evaluation.sources import Reader, find_run

    if run is None:
        features = options["features"] or ""
        if not features.startswith("classifier:"):
            raise ValueError("name what to evaluate, a run folder say, or train features: --features classifier:NAME")
        reader = Reader(**{name: options[name] for name in ("data_dir", "skip_broken", "device")}, notify=print_note)
        choose_extractor(features, reader, options["image_size"], options["download"])
        return
    names = [name.strip() for name in metrics.split(",")] if metrics else None
    result = evaluate_images(run, metrics=names, nearest=nearest, notify=print_note, **options)
    for line in [result.to_json(indent=2)] if as_json else result.lines():
        print_result(line)
    if nearest is not None:
        print_result(
            f"the {ROWS} samples nearest to training images, then the first {ROWS}, each with its nearest training "
            f"images in features and in pixels -> {nearest}",
            err=as_json,
        )
    if (opened := find_run(run)) is not None and not as_json:
        print_next_commands(opened)
