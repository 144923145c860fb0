"""``snngan resume``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import data_dir_option, device_option, run_argument


@click.command(epilog="Example:  snngan resume runs/0001-mnist-5k-snnl-pixel")
@run_argument
@click.option("--dataset", metavar="NAME", help="where the same data is now, if not where it was")
@click.option("--steps", type=click.IntRange(min=1), help="train up to this step instead of the planned one")
@data_dir_option
@device_option
@click.option("--dry-run", is_flag=True, help="say where it would go on, and stop")
def resume(run: Path, dataset: str | None, steps: int | None, data_dir: str | None, device: str, dry_run: bool) -> None:
    """Go on with RUN from its newest sound checkpoint; on a CPU the result is bit-equal to an unbroken run's."""
    from snngan.cli.running import go_on
    from snngan.training.distributed import process_group

    with process_group(device) as chosen:
        go_on(run, dataset, steps, data_dir, chosen, dry_run=dry_run)
