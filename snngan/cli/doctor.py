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

NOT_LOADED = (ImportError, OSError, RuntimeError)
"""What the import of a package raises that is not whole."""
LITTLE_ROOM = 10**9
"""Bytes; where less is free, a run may not end."""


@click.command(epilog="Example:  snngan doctor --data-dir data")
@data_dir_option
def doctor(data_dir: str | None) -> None:
    """Say which packages and data are here, which device is used, what room is left, and what is missing."""
    problems: list[str] = []
    print_row(f"snngan {__version__}, Python {platform.python_version()}, {platform.platform()}")
    check_packages(problems)
    try:
        import torch

        from snngan.data.datasets import data_folder, list_datasets
        from snngan.evaluation.features import INCEPTION_FILE
    except NOT_LOADED as error:
        problems.append(f"the packages do not load: {error}")
    else:
        check_device(problems)
        check_room("run", Path("runs"), problems)
        check_room("data", data_folder(data_dir), problems)
        weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        state = "in" if os.path.isfile(weights) else "missing, only --features inception needs them; they belong in"
        print_row("Inception weights", f"{state} {weights.parent}")
        print_result("data:")
        for row in list_datasets(data_dir):
            print_row(f"  {row.name}", row.where)
    print_result("problems:" if problems else "problems: none")
    for problem in problems:
        print_row(f"  {problem}", indent=4)


def check_packages(problems: list[str]) -> None:
    """Print the version of each package that snngan needs or can use; what is missing or too old is a problem."""
    from packaging.requirements import Requirement  # help does without

    try:
        needed = [Requirement(text) for text in importlib.metadata.requires("snngan") or []]
    except importlib.metadata.PackageNotFoundError:
        problems.append("snngan is not installed, so what it needs is not known: pip install -e .")
        needed = []
    print_result("packages:")
    for each in needed:
        extra = str(each.marker).partition("extra == ")[2].strip('"')
        if each.marker is not None and not each.marker.evaluate({"extra": extra}):
            continue  # needed on other systems
        remedy = "pip install " + shlex.quote(f"snngan[{extra}]" if extra else f"{each.name}{each.specifier}")
        beside = f" (extra {extra})" if extra else ""
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            print_row(f"  {each.name}", f"missing{beside}: {remedy}")
            if not extra:
                problems.append(f"{each.name} is missing: {remedy}")
            continue
        print_row(f"  {each.name}", f"{version}{beside}")
        if not each.specifier.contains(version, prereleases=True):
            problems.append(f"{each.name} is {version}, and {each.specifier} is needed: {remedy}")
    try:
        importlib.import_module("torchvision")
    except NOT_LOADED as error:
        line = str(error).partition("\n")[0]
        problems.append(f"torchvision does not load ({line}): pip install --force-reinstall torch torchvision")


def check_device(problems: list[str]) -> None:
    """Print what torch is built for and which device it finds; a GPU that it cannot use is a problem."""
    import torch

    version = torch.version
    build = f"CUDA {version.cuda}" if version.cuda else f"ROCm {version.hip}" if version.hip else "the CPU only"
    print_row("torch is built for", build)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if found:
        print_row("device", f"cuda ({torch.cuda.get_device_name()})")
        return
    print_row("device", f"cpu, {torch.get_num_threads()} threads (no CUDA device: everything runs, more slowly)")
    if caught:
        line = str(caught[0].message).partition("\n")[0]
        problems.append(f"torch cannot use the GPU ({line}): update its driver, or install torch for an older CUDA")
    elif build == "the CPU only" and shutil.which("nvidia-smi"):
        problems.append("torch is built for the CPU only: for the GPU, pip install --force-reinstall torch torchvision")


def check_room(kind: str, folder: Path, problems: list[str]) -> None:
    """Print how much room is free in the folder of runs or data; little, or none to write in, is a problem."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    free = shutil.disk_usage(there).free
    print_row(f"{kind} folder", f"{folder}, {free / 1e9:.1f} GB free")
    if not os.access(there, os.W_OK):
        problems.append(f"{there} cannot be written to: name another folder, --{kind}-dir DIR")
    elif free < LITTLE_ROOM:
        problems.append(
            f"{there} has only {free / 1e9:.1f} GB free: make room, or name another folder, --{kind}-dir DIR"
        )
