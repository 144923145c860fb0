"""``snngan train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snngan.cli.options import GroupedCommand, options_of
from snngan.config import TrainConfig


@click.command(
    cls=GroupedCommand,
    epilog="Example:  snngan train --dataset mnist --objective snnl-projected --steps 20000",
)
@options_of(TrainConfig)
def train(**values: Any) -> None:
    """Train a generator. With no option: SNNL in pixel space on 5000 embedded MNIST digits."""
    config = TrainConfig(**values)
    from snngan.cli.running import notify, run_gan
    from snngan.data.datasets import is_here, load_dataset
    from snngan.training.device import choose_device
    from snngan.training.plan import check_config, describe_plan, describe_settings, make_plan
    from snngan.training.runlog import RunFolder, next_run_dir

    if "help" in config.set:
        click.echo(describe_settings(config.objective, config.arch))
        return
    if config.run_dir:
        RunFolder.check_new(Path(config.run_dir))
    device = choose_device(config.device)
    check_config(config)
    if config.dry_run and config.download and not is_here(config.dataset, config.data_dir):
        raise ValueError(f"--dry-run fetches nothing; first: snngan data prepare {config.dataset} --download")
    dataset = load_dataset(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        download=config.download,
        skip_broken=config.skip_broken,
        keep=not config.dry_run,
        notify=notify,
    )
    plan = make_plan(config, dataset)
    for line in describe_plan(plan, dataset, device):
        click.echo(line)
    given = Path(config.run_dir) if config.run_dir else None
    if config.dry_run:
        click.echo(f"run        {given or next_run_dir(plan)}")
        click.echo("dry run: nothing was written")
        return
    run = RunFolder.create(given, plan, device) if given else RunFolder.create_next(plan, device)
    click.echo(f"run        {run.path}")
    run_gan(run, dataset, device)
