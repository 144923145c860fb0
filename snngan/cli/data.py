"""The command ``snngan data``."""

from __future__ import annotations

import shlex

import click

from snngan.cli.options import SuggestingGroup, data_dir_option
from snngan.cli.output import print_note, print_result, print_row


@click.group(cls=SuggestingGroup, epilog="Example:  snngan data prepare fashion-mnist --download")
def data() -> None:
    """List and prepare data sets."""


@data.command("list", epilog="Example:  snngan data list --data-dir data")
@data_dir_option
def list_(data_dir: str | None) -> None:
    """List the known data sets and where each would be loaded from."""
    from snngan.data import DATASETS, POINT_SHAPE
    from snngan.data.datasets import list_datasets

    for name, where in list_datasets(data_dir).items():
        source = DATASETS[name]
        size = "points" if source.image_shape == POINT_SHAPE else "x".join(map(str, source.image_shape))
        print_row(f"{name:16} {size:9} {source.num_classes:3} classes", where, indent=40)
    print_result("and your own: folder:PATH (any images), npz:PATH (arrays); see docs/guide/train.md")


@data.command(epilog="Example:  snngan data prepare fashion-mnist --download")
@click.argument("name")
@data_dir_option
@click.option("--download", is_flag=True, help="download the data set if it is missing")
@click.option("--dry-run", is_flag=True, help="only print where the data set would be loaded from")
def prepare(name: str, data_dir: str | None, download: bool, dry_run: bool) -> None:
    """Load the data set NAME, keep it as NAME.npz for the next time, and print its size."""
    from snngan.data import DATASETS
    from snngan.data.datasets import list_datasets, load_dataset

    if ":" in name:
        raise ValueError(
            f"NAME must be the name of a data set, got {name}: train and evaluate read folders and files directly"
        )
    if dry_run:
        DATASETS[name]  # raises for an unknown name
        print_result(f"{name}: {list_datasets(data_dir)[name]}\ndry run: nothing was read, downloaded or written")
        return
    dataset = load_dataset(name, data_dir=data_dir, download=download, notify=print_note)
    place = f" --data-dir {shlex.quote(data_dir)}" if data_dir else ""
    print_result(f"{name}: {dataset.summary()}\nnext:\n  snngan train --dataset {name}{place}")
