"""``snngan train``."""

from __future__ import annotations

from typing import Any

import click

from snngan.cli import explain_memory
from snngan.cli.options import GroupedCommand, add_config_options
from snngan.cli.output import print_wrapped_result
from snngan.config import TrainConfig


@click.command(
    cls=GroupedCommand,
    epilog="Example:  snngan train --dataset mnist --objective snnl-projected --steps 20000",
)
@add_config_options(TrainConfig)
@explain_memory("a smaller --batch-size, fewer pixels or narrower networks")
def train(**values: Any) -> None:
    """Train a generator. With no option: SNNL in pixel space on 5000 embedded MNIST digits."""
    config = TrainConfig(**values)
    from snngan.cli.running import begin, run_gan
    from snngan.training.plan import check_config, describe_plan, describe_settings, make_plan
    from snngan.training.run_folder import GanRun

    if "help" in config.set:
        for line in describe_settings(config.objective, config.arch).splitlines():
            print_wrapped_result(line)
        return
    begin(config, GanRun, check_config, make_plan, describe_plan, run_gan)
