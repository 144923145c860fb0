"""``snngan train``."""

from __future__ import annotations

from typing import Any

import click

from snngan.cli.options import GroupedCommand, training_options
from snngan.config import TrainConfig


@click.command(
    cls=GroupedCommand, epilog="Example:  snngan train --dataset mnist --objective snnl-projected --steps 20000"
)
@training_options(TrainConfig)
def train(**options: Any) -> None:
    """Train a generator. Without options: SNNL in pixel space on 5000 embedded MNIST digits."""
    from snngan.cli.training import start_training

    start_training(TrainConfig, **options)
