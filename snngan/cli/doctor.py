"""``snngan doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import warnings
from pathlib import Path

import click

from snngan.cli.options import data_dir_option
from snngan.cli.output import print_result, print_row
from snngan.version import __version__

IMPORT_ERRORS = (ImportError, OSError, RuntimeError)
"""What importing an incomplete or damaged package raises."""
MIN_FREE_BYTES = 10**9
"""With less free disk space a run may not reach its end."""


@click.command(epilog="Example:  snngan doctor --data-dir data")
@data_dir_option
def doctor(data_dir: str | None) -> None:
    """Check packages, device, disk space, Inception weights and data sets, and list the problems."""
    problems: list[str] = []
    print_row(f"snngan {__version__}, Python {platform.python_version()}, {platform.platform()}")
    check_packages(problems)
    try:
        import torch  # noqa: F401 (an import error of torch itself is clearer than one of a module that needs it)

        from snngan.data.datasets import data_folder, list_datasets
        from snngan.evaluation.features import published_weights
    except IMPORT_ERRORS as error:
        problems.append(f"the packages cannot be imported: {error}")
    else:
        check_device(problems)
        check_disk_space("run", Path("runs"), problems)
        check_disk_space("data", data_folder(data_dir), problems)
        weights = published_weights()
        state = "found in" if os.path.isfile(weights) else "missing (only --features inception needs them), expected in"
        print_row("Inception weights", f"{state} {weights.parent}")
        print_result("data:")
        for name, where in list_datasets(data_dir).items():
            print_row(f"  {name}", where)
    print_result("problems:" if problems else "problems: none")
    for problem in problems:
        print_row(f"  {problem}", indent=4)


def check_packages(problems: list[str]) -> None:
    """Print the version of each package that snngan needs or can use; missing and outdated ones are problems."""
    from packaging.requirements import Requirement  # help does not need it

    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("snngan") or []]
    except importlib.metadata.PackageNotFoundError:
        problems.append("snngan is not installed, so its requirements are unknown: pip install -e .")
        requirements = []
    print_result("packages:")
    for each in requirements:
        extra = str(each.marker).partition("extra == ")[2].strip('"')
        if each.marker is not None and not each.marker.evaluate({"extra": extra}):
            continue  # required on other systems only
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
    try:
        importlib.import_module("torchvision")
    except IMPORT_ERRORS as error:
        line = str(error).partition("\n")[0]
        remedy = "pip install --force-reinstall torch torchvision"
        problems.append(f"torchvision cannot be imported ({line}): {remedy}")


def check_device(problems: list[str]) -> None:
    """Print what torch is built for and the device that it finds; a GPU that it cannot use is a problem."""
    import torch

    version = torch.version
    build = f"CUDA {version.cuda}" if version.cuda else f"ROCm {version.hip}" if version.hip else "the CPU only"
    print_row("torch is built for", build)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if is_available:
        print_row("device", f"cuda ({torch.cuda.get_device_name()})")
        return
    print_row("device", f"cpu, {torch.get_num_threads()} threads (no CUDA device: everything runs, but slower)")
    if caught:
        line = str(caught[0].message).partition("\n")[0]
        problems.append(f"torch cannot use the GPU ({line}): update its driver, or install torch for an older CUDA")
    elif build == "the CPU only" and shutil.which("nvidia-smi"):
        problems.append("torch is built for the CPU only: for the GPU, pip install --force-reinstall torch torchvision")


def check_disk_space(kind: str, folder: Path, problems: list[str]) -> None:
    """Print the free disk space for runs or data; less than 1 GB or a read-only folder is a problem."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    free = shutil.disk_usage(existing).free
    print_row(f"{kind} folder", f"{folder}, {free / 1e9:.1f} GB free")
    if not os.access(existing, os.W_OK):
        problems.append(f"{existing} cannot be written to: name another folder with --{kind}-dir DIR")
    elif free < MIN_FREE_BYTES:
        remedy = f"free some space, or name another folder with --{kind}-dir DIR"
        problems.append(f"{existing} has only {free / 1e9:.1f} GB free: {remedy}")
