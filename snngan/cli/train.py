"""``snngan train``."""

from __future__ import annotations

import sys
from typing import Any

import click

from snngan.cli import explain_memory
from snngan.cli.options import GroupedCommand, options_of
from snngan.cli.output import print_result, terminal_width, wrap
from snngan.config import TrainConfig


@click.command(
    cls=GroupedCommand,
    epilog="Example:  snngan train --dataset mnist --objective snnl-projected --steps 20000",
)
@options_of(TrainConfig)
@explain_memory("a smaller --batch-size, fewer pixels or narrower networks")
def train(**values: Any) -> None:
    """Train a generator. With no option: SNNL in pixel space on 5000 embedded MNIST digits."""
    config = TrainConfig(**values)
    from snngan.cli.running import begin, run_gan
    from snngan.training.plan import check_config, describe_plan, describe_settings, make_plan
    from snngan.training.run_folder import GanRun

    if "help" in config.set:
        for line in describe_settings(config.objective, config.arch).splitlines():
            print_result(wrap(line.split(" "), 4, terminal_width(sys.stdout)))
        return
    begin(config, GanRun, check_config, make_plan, describe_plan, run_gan)
