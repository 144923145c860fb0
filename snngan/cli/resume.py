"""``snngan resume``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import data_dir_option, device_option, run_argument


@click.command(epilog="Example:  snngan resume runs/0001-mnist-5k-snnl-pixel")
@run_argument
@click.option("--dataset", metavar="NAME", help="new name or place of the same data")
@click.option("--steps", type=click.IntRange(min=1), help="last step, instead of the planned one")
@data_dir_option
@device_option
@click.option("--dry-run", is_flag=True, help="describe where the run continues, and stop")
def resume(run: Path, dataset: str | None, steps: int | None, data_dir: str | None, device: str, dry_run: bool) -> None:
    """Continue RUN from its newest sound checkpoint; on a CPU the result is bit-equal to an unbroken run's."""
    from snngan.cli.training import resume_run

    resume_run(run, dataset=dataset, steps=steps, data_dir=data_dir, device=device, dry_run=dry_run)
