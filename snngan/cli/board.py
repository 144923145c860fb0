"""``snngan board``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from snngan.cli.options import LocalPath


@click.command(epilog="Example:  snngan board runs --port 6006")
@click.argument("runs", type=LocalPath(), default=Path("runs"))
@click.option("--port", default=6006, show_default=True, type=click.IntRange(0, 65535), help="port; 0 picks a free one")
def board(runs: Path, port: int) -> None:
    """Show RUNS (one run or a folder of runs) in TensorBoard, on localhost only."""
    if not runs.is_dir():
        raise ValueError(f"RUNS must be a run's folder or a folder of runs, got {runs}, which does not exist")
    arguments = [f"--logdir={runs}", "--host=localhost", f"--port={port}"]
    # -P: import nothing from the current folder, which may come from anyone
    os.execv(sys.executable, [sys.executable, "-P", "-m", "tensorboard.main", *arguments])
