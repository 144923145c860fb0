"""``snngan train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snngan.cli import explain_memory
from snngan.cli.options import GroupedCommand, add_config_options, like_option, list_settings_option
from snngan.config import TrainConfig


@click.command(
    cls=GroupedCommand,
    epilog="Example:  snngan train --dataset mnist --objective snnl-projected --steps 20000",
)
@add_config_options(TrainConfig)
@like_option
@list_settings_option
@explain_memory("a smaller --batch-size, fewer pixels or narrower networks")
def train(like: Path | None, list_settings: bool, **values: Any) -> None:
    """Train a generator. Without options: SNNL in pixel space on 5000 embedded MNIST digits."""
    from snngan.cli.training import configs_of_seeds, make_config_like, print_settings, start_runs

    config = make_config_like(TrainConfig, like, values)
    if list_settings:
        print_settings(config)
    else:
        start_runs(configs_of_seeds(config))
