"""``snngan board``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command(epilog="Example:  snngan board runs --port 6006")
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--port", default=6006, show_default=True, type=click.IntRange(0, 65535), help="port; 0 picks a free one")
def board(runs: Path, port: int) -> None:
    """Show RUNS (one run or a folder of runs) in TensorBoard, on localhost only."""
    if not runs.is_dir():
        raise ValueError(f"RUNS must be a run's folder or a folder of runs, got {runs}, which does not exist")
    # -P: import nothing from the current folder
    command = [sys.executable, "-P", "-m", "tensorboard.main", f"--logdir={runs}", "--host=localhost", f"--port={port}"]
    os.execv(sys.executable, command)
