"""``snngan evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snngan.cli import explain_memory
from snngan.cli.next_commands import make_compare_command, make_out_option, print_next_commands
from snngan.cli.options import MAX_COUNT, SEED, add_image_options, data_dir_option, device_option
from snngan.cli.output import print_note, print_result

if TYPE_CHECKING:
    from snngan.evaluation.features import Extractor
    from snngan.evaluation.sources import ImageSource


@click.command(epilog="Example:  snngan evaluate runs/0001-mnist-snnl-pixel --metrics fid,kid")
@click.argument("run", required=False)
@click.option("--reference", metavar="SET", help="the real images, given as RUN is [the run's data set]")
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="half of a set")
@click.option(
    "--count", default=10000, show_default=True, type=click.IntRange(2, MAX_COUNT), help="images of each side"
)
@click.option(
    "--points", default=5000, show_default=True, type=click.IntRange(2, MAX_COUNT), help="of them in figures over pairs"
)
@click.option("--metrics", metavar="NAMES", help="fid, kid, prdc, 1nn, entanglement, with commas between [all]")
@add_image_options("classifier of the reference where it has labels, else pixels")
@click.option("--seed", default=0, show_default=True, type=SEED, help="of a run's noise")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@data_dir_option
@device_option
@explain_memory("a smaller --count, --points or --image-size, or fewer --metrics")
def evaluate(
    run: str | None, reference: str | None, split: str, count: int, points: int, metrics: str | None,
    features: str | None, download: bool, skip_broken: bool, image_size: int | None, seed: int, as_json: bool,
    data_dir: str | None, device: str,
) -> None:  # fmt: skip
    """Say how good RUN's samples are: FID, KID, precision, recall, density, coverage, 1-NN accuracy, entanglement.

    RUN may also be a folder of images, an npz file or a data set, and --reference an npz file of FID statistics.
    Without RUN, --features classifier:NAME trains that classifier and keeps it.
    """
    from snngan.data.datasets import data_folder
    from snngan.evaluation import choice, measure
    from snngan.evaluation.sources import dataset_source, is_run, open_source
    from snngan.registry import unknown_name
    from snngan.training.device import choose_device
    from snngan.training.run_folder import GanRun

    chosen = tuple(name.strip() for name in metrics.split(",")) if metrics else tuple(measure.METRICS)
    for name in chosen:
        if name not in measure.METRICS:
            raise unknown_name("metric", name, measure.METRICS)
    where = choose_device(device)
    folder = data_folder(data_dir) / "features"  # where the user keeps data; a run's own words may be anyone's
    given_data_dir, size = data_dir, image_size
    opened_run = GanRun.open(Path(run)) if run is not None and is_run(run) else None
    keep = data_dir is not None or opened_run is None
    if opened_run is not None:
        data_dir, size = data_dir or opened_run.plan.data_dir, image_size or opened_run.plan.image_size
    features = features or ("inception" if download else None)
    data: dict[str, Any] = {"data_dir": data_dir, "skip_broken": skip_broken, "notify": print_note}
    training: dict[str, Any] = {"folder": folder, "also": data_folder(data_dir) / "features", "device": where}
    open_images: Callable[..., ImageSource] = partial(
        open_source, split=split, image_size=image_size, device=where, keep=keep, **data
    )
    choose: Callable[..., Extractor] = partial(
        choice.choose_extractor, image_size=size, download=download, **data, **training
    )
    if run is None:
        if features is None or not features.startswith("classifier:"):
            raise ValueError("name what to evaluate, a run folder say, or train features: --features classifier:NAME")
        choose(features)
        return
    fake = open_images(run, seed=seed)
    statistics = None if reference is None else choice.open_statistics(reference)
    if statistics is not None:
        extractor = choose(features or "inception")  # the features that such files are about
        result = measure.evaluate_beside_statistics(fake, statistics, extractor, chosen, count, print_note)
    else:
        dataset = None
        if reference is None:
            dataset = choice.load_training_set(run, image_size=image_size, **data)
            real = dataset_source(dataset, split)
        else:
            real = open_images(reference, seed=seed + 1)  # of two runs each has a noise of its own
            if features is None:
                dataset = choice.labeled_set(reference, real, **data)
        extractor = (
            choose(features)
            if features
            else choice.default_extractor(fake, real, dataset, notify=print_note, **training)
        )
        result = measure.evaluate(
            fake, real, extractor, metrics=chosen, count=count, points=points, cache=folder, notify=print_note
        )
    if as_json:
        print_result(result.to_json(indent=2))
    else:
        for line in result.lines():
            print_result(line)
    if opened_run is not None:
        try:
            result.keep(opened_run.path)
        except OSError as error:
            print_note(
                f"{opened_run.path / measure.EVALUATIONS} could not be written ({error.strerror}); going on without"
            )
        if not as_json:
            print_next_commands(
                [f"snngan sample {opened_run.quoted} --count 100", *make_out_option(opened_run, "grid.png")],
                make_compare_command(opened_run, given_data_dir),
                [f"snngan report {opened_run.quoted}", *make_out_option(opened_run, "report.html")],
            )
