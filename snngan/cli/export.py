"""``snngan export``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import PATH, force_option, run_argument
from snngan.cli.output import print_note, print_result
from snngan.files import check_absent


@click.command(epilog="Example:  snngan export runs/0001-mnist-5k-snnl-features --out digits.safetensors")
@run_argument
@click.option("--out", required=True, type=PATH, help="the file, a name ending in .safetensors")
@force_option
def export(run: Path, out: Path, force: bool) -> None:
    """Write RUN's EMA generator as one file, which `snngan.load_generator` reads without the run.

    The file holds the weights and the options that the network is built from, and no code.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must be a name that ends in .safetensors, got {out}")
    check_absent(out, force=force)
    from snngan.config import TrainConfig
    from snngan.training.run_folder import open_run
    from snngan.training.sampling import export_generator

    step = export_generator(open_run(run, TrainConfig), out, print_note)
    print_result(f"generator of step {step} -> {out}")
    print_result(f'in Python: generator = snngan.load_generator("{out}")')
