"""``snngan board``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from snngan.cli.options import LocalPath


@click.command(epilog="Example:  snngan board runs --port 6006")
@click.argument("runs", type=LocalPath(), default=Path("runs"))
@click.option(
    "--port", default=6006, show_default=True, type=click.IntRange(0, 65535), help="on localhost; 0: any free one"
)
def board(runs: Path, port: int) -> None:
    """Show RUNS (one run or a folder of them) in TensorBoard, on localhost only."""
    if not runs.is_dir():
        raise ValueError(f"no folder {runs}: give a run's folder or the folder that holds runs")
    arguments = [f"--logdir={runs}", "--host=localhost", f"--port={port}"]
    # -P: no module is imported from the current folder, which may be anyone's run
    os.execv(sys.executable, [sys.executable, "-P", "-m", "tensorboard.main", *arguments])
