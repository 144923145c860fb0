"""``snngan doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
from pathlib import Path

import click

from snngan.cli.options import data_dir_option
from snngan.cli.output import print_result, print_row
from snngan.version import __version__

MIN_FREE_BYTES = 10**9
"""With less free disk space a run may not reach its end."""
REINSTALL = "pip install --force-reinstall torch torchvision"


@click.command(epilog="Example:  snngan doctor --data-dir data")
@data_dir_option
def doctor(data_dir: str | None) -> None:
    """Check packages, device, disk space, Inception weights and data sets, and list the problems."""
    print_row(f"snngan {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print_result("packages:")
    problems = check_packages()
    try:
        import torchvision  # noqa: F401 (it and torch must be of versions that fit)

        problems += check_machine(data_dir)
    except (ImportError, OSError, RuntimeError) as error:  # what an incomplete or damaged package raises
        problems.append(f"the packages cannot be imported ({str(error).partition(chr(10))[0]}): {REINSTALL}")
    print_result("problems:" if problems else "problems: none")
    for problem in problems:
        print_row(f"  {problem}", indent=4)


def check_packages() -> list[str]:
    """Print the version of each package that snngan needs or can use; return the missing and outdated ones."""
    from packaging.requirements import Requirement  # help does not need it

    problems = []
    try:
        required = importlib.metadata.requires("snngan") or []
    except importlib.metadata.PackageNotFoundError:
        return ["snngan is not installed, but found on the path: pip install -e . in its folder"]
    for each in map(Requirement, required):
        extra = str(each.marker).partition("extra == ")[2].strip('"')
        remedy = "pip install " + shlex.quote(f"snngan[{extra}]" if extra else f"{each.name}{each.specifier}")
        suffix = f" (extra {extra})" if extra else ""
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            print_row(f"  {each.name}", f"missing{suffix}: {remedy}")
            if not extra:
                problems.append(f"{each.name} is missing: {remedy}")
            continue
        print_row(f"  {each.name}", f"{version}{suffix}")
        if not each.specifier.contains(version, prereleases=True):
            problems.append(f"{each.name} must be {each.specifier}, got {version}: {remedy}")
    return problems


def check_machine(data_dir: str | None) -> list[str]:
    """Print device, disk space, Inception weights and data sets; return what is wrong with them."""
    import torch

    from snngan.data.datasets import data_folder, list_datasets
    from snngan.evaluation.features import published_weights

    problems = []
    if torch.cuda.is_available():  # torch itself warns of a driver that it cannot use
        print_row("device", f"cuda ({torch.cuda.get_device_name()})")
    else:
        print_row("device", f"cpu, {torch.get_num_threads()} threads (no CUDA device: everything runs, but slower)")
        if not torch.version.cuda and not torch.version.hip and shutil.which("nvidia-smi"):
            problems.append(f"torch is built for the CPU only: for the GPU, {REINSTALL}")
    for kind, folder in {"run": Path("runs"), "data": data_folder(data_dir)}.items():
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        print_row(f"{kind} folder", f"{folder}, {free / 1e9:.1f} GB free")
        if free < MIN_FREE_BYTES or not os.access(existing, os.W_OK):
            problems.append(f"{existing} is full or cannot be written to: name another folder with --{kind}-dir DIR")
    weights = published_weights()
    state = "found in" if weights.is_file() else "missing (only --features inception needs them), expected in"
    print_row("Inception weights", f"{state} {weights.parent}")
    print_result("data:")
    for name, where in list_datasets(data_dir).items():
        print_row(f"  {name}", where)
    return problems
