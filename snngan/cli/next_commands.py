"""The commands that a command proposes at its end. The files that they write go into the run's folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snngan.cli.options import IMPORTED_MODULES
from snngan.cli.output import get_terminal_width, print_status, wrap

if TYPE_CHECKING:
    from snngan.training.run_folder import RunFolder


def print_next_commands(*commands: Sequence[str]) -> None:
    """Print commands to type next, each given as words; long ones are wrapped where the output is a terminal."""
    print_status("next:")
    imports = [f"--import {shlex.quote(name)}" for name in IMPORTED_MODULES]
    for first, *words in commands:
        words += imports if " board " not in first else []
        print_status(wrap([f"  {first}", *words], 6, get_terminal_width(sys.stdout), " \\"))


def make_out_option(run: RunFolder[Any], name: str) -> list[str]:
    """Return ``--out`` with the file ``name`` in the run's folder, and ``--force`` if it exists already."""
    path = run.path / name
    return [f"--out {shlex.quote(str(path))}", *(["--force"] if path.exists() else [])]


def make_compare_command(run: RunFolder[Any], data_dir: str | None = None) -> list[str]:
    """Return the words of the command that compares a run with its data set, read as the run read it.

    Args:
        run: the run.
        data_dir: folder of the data sets, where it is not the run's own.
    """
    from snngan.data.datasets import data_folder  # help needs no torch

    config, words = run.config, ["snngan compare", shlex.quote(run.config.dataset), run.quoted]
    is_folder = config.dataset.startswith("folder:")
    size = config.image_shape[1] if is_folder else config.image_size
    if size is not None:
        words.append(f"--image-size {size}")
    if config.skip_broken and is_folder:
        words.append("--skip-broken")
    place = data_dir or config.data_dir
    if ":" not in config.dataset and place is not None and data_folder(place).absolute() != data_folder().absolute():
        words.append(f"--data-dir {shlex.quote(place)}")
    return words
