"""The commands that a command proposes at its end; what they write lies in the folder of the run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snngan.cli.output import print_status, terminal_width, wrap

if TYPE_CHECKING:
    from snngan.training.run_folder import ClassifierRun, GanRun


def print_next_commands(*commands: Sequence[str]) -> None:
    """Print what to type next; on a terminal a long command is broken as a shell takes it."""
    print_status("next:")
    for first, *words in commands:
        print_status(wrap([f"  {first}", *words], 6, terminal_width(sys.stdout), " \\"))


def out_option(run: GanRun | ClassifierRun, name: str) -> list[str]:
    """Return the words that let a command write the file ``name`` of the run's folder, over an older one too."""
    path = run.path / name
    return [f"--out {shlex.quote(str(path))}", *(["--force"] if path.exists() else [])]


def compare_command(run: GanRun, data_dir: str | None = None) -> list[str]:
    """Return the words that compare a run with its data set, read as the run read it, from ``data_dir`` if given."""
    from snngan.data.datasets import data_folder  # help needs no torch

    plan, words = run.plan, ["snngan compare", shlex.quote(run.plan.dataset), run.quoted]
    is_folder = plan.dataset.startswith("folder:")
    size = plan.image_shape[1] if is_folder else plan.image_size
    if size is not None:
        words.append(f"--image-size {size}")
    if plan.skip_broken and is_folder:
        words.append("--skip-broken")
    place = data_dir or plan.data_dir
    if ":" not in plan.dataset and place is not None and data_folder(place).absolute() != data_folder().absolute():
        words.append(f"--data-dir {shlex.quote(place)}")
    return words
