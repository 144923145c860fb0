"""``snngan doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform

import click

from snngan.cli.options import data_dir_option
from snngan.cli.output import tell
from snngan.version import __version__

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "click", "tensorboard", "mlxtend", "scikit-learn")


@click.command(epilog="Example:  snngan doctor --data-dir data")
@data_dir_option
def doctor(data_dir: str | None) -> None:
    """Say which versions are installed, which device is used, which data is here, and what is missing."""
    tell(f"snngan {__version__}, Python {platform.python_version()}, {platform.platform()}")
    problems = []
    for package in PACKAGES:
        try:
            tell(f"  {package:14} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            tell(f"  {package:14} missing")
            problems.append(f"pip install {package}")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        problems.append(
            f"torchvision does not load, install the build made for your torch ({str(error).splitlines()[0]})"
        )
    import torch

    if torch.cuda.is_available():
        tell(f"device: cuda ({torch.cuda.get_device_name()})")
    else:
        tell(f"device: cpu, {torch.get_num_threads()} threads (no CUDA device: everything runs, more slowly)")
    from snngan.data.datasets import list_datasets

    tell("data:")
    for row in list_datasets(data_dir):
        tell(f"  {row.name:16} {row.where}")
    tell("problems: " + ("; ".join(problems) if problems else "none"))
