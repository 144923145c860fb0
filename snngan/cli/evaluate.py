"""``snngan evaluate``."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import click

from snngan.cli.options import MOST, SEED, data_dir_option, device_option
from snngan.cli.output import notify, tell

EPILOG = "Example:  snngan evaluate runs/0001-mnist-snnl-pixel --train-features mnist"


@click.command(epilog=EPILOG)
@click.argument("run", required=False)
@click.option("--against", metavar="SET", help="what it is held against, as RUN is given [the run's data set]")
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="half of a set")
@click.option("--count", default=10000, show_default=True, type=click.IntRange(2, MOST), help="images of each side")
@click.option(
    "--points", default=5000, show_default=True, type=click.IntRange(2, MOST), help="of them in figures over pairs"
)
@click.option("--metrics", metavar="NAMES", help="fid, kid, prdc, 1nn, entanglement, with commas between [all]")
@click.option("--features", metavar="SPACE", help="inception, pixels, or a file of torch.export or TorchScript")
@click.option("--inception-weights", metavar="FILE", type=click.Path(path_type=Path), help="of pytorch-fid's network")
@click.option("--train-features", metavar="NAME", help="features of a small classifier of this set, trained once")
@click.option("--image-size", type=click.IntRange(1, 4096), help="to shrink and crop a folder's images or a set to")
@click.option("--seed", default=0, show_default=True, type=SEED, help="of a run's noise")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@data_dir_option
@device_option
def evaluate(
    run: str | None, against: str | None, split: str, count: int, points: int, metrics: str | None,
    features: str | None, inception_weights: Path | None, train_features: str | None, image_size: int | None,
    seed: int, as_json: bool, data_dir: str | None, device: str,
) -> None:  # fmt: skip
    """Say how good RUN's samples are: FID, KID, precision, recall, density, coverage, 1-NN accuracy, entanglement.

    RUN may also be a folder of images, an npz file or a data set. Without --features, Inception's are taken where its
    weights are at hand, and else those that --train-features trains.
    """
    from snngan.data.datasets import data_folder
    from snngan.evaluation import measure
    from snngan.evaluation.choice import choose_extractor, open_training_set
    from snngan.evaluation.sources import is_run, open_source
    from snngan.registry import unknown_name
    from snngan.training.device import choose_device
    from snngan.training.runlog import RunFolder

    chosen = tuple(name.strip() for name in metrics.split(",")) if metrics else tuple(measure.METRICS)
    for name in chosen:
        if name not in measure.METRICS:
            raise unknown_name("metric", name, measure.METRICS)
    where = choose_device(device)
    folder = data_folder(data_dir) / "features"  # where the user keeps data; a run's own words may be anyone's
    size, keep = image_size, data_dir is not None or run is None or not is_run(run)
    if run is not None and is_run(run):
        plan = RunFolder.open(Path(run)).plan
        data_dir, size = data_dir or plan.data_dir, image_size or plan.image_size
    opened = partial(
        open_source, split=split, data_dir=data_dir, image_size=image_size, device=where, keep=keep, notify=notify
    )  # fmt: skip
    if run is None:
        if not train_features:
            raise ValueError("name what to evaluate, a run folder say, or what to train features on: --train-features")
        choose_extractor(features, inception_weights, train_features, data_dir, image_size, folder, where, notify)
        return
    fake = opened(run, seed=seed)
    if against is None:
        real = open_training_set(run, split=split, data_dir=data_dir, image_size=image_size, notify=notify)
    else:
        real = opened(against, seed=seed + 1)  # of two runs each has a noise of its own
    extractor = choose_extractor(
        features, inception_weights, train_features, data_dir, size, folder, where, notify,
        also=data_folder(data_dir) / "features",
    )  # fmt: skip
    result = measure.evaluate(
        fake, real, extractor, metrics=chosen, count=count, points=points, cache=folder, notify=notify
    )
    if as_json:
        tell(result.to_json(indent=2))
    else:
        for line in result.lines():
            tell(line)
    if is_run(run):
        try:
            result.keep(Path(run))
        except OSError as error:
            notify(f"{Path(run) / measure.EVALUATIONS} could not be written ({error.strerror}); going on without")
        if not as_json:
            tell(f"next:\n  snngan sample {shlex.quote(run)} --count 100 --out grid.png")
