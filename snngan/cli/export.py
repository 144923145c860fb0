"""``snngan export``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import PATH, force_option, run_argument
from snngan.cli.output import print_note, print_result
from snngan.files import check_absent


@click.command(epilog="Example:  snngan export runs/0001-mnist-5k-snnl-features --out digits.onnx")
@run_argument
@click.option("--out", required=True, type=PATH, help="file or folder to write: g.safetensors, g.onnx, g.pt2 or folder")
@click.option("--half", is_flag=True, help="float16 weights in a .safetensors file: half the size")
@force_option
def export(run: Path, out: Path, half: bool, force: bool) -> None:
    r"""Write RUN's EMA generator for others.

    \b
    NAME.safetensors  weights and options, for `snngan.load_generator`
    NAME.onnx         for ONNX runtimes; needs the package onnxscript
    NAME.pt2          for torch.export.load
    NAME              a folder for a model hub: the first of these, a model
                      card with the newest evaluation, and samples

    None of them needs the run or its data.
    """
    from snngan.config import TrainConfig
    from snngan.evaluation.export import SUFFIXES, export_generator
    from snngan.training.run_folder import open_run

    if out.suffix and out.suffix not in SUFFIXES:
        raise ValueError(f"--out must be a name ending in {', '.join(SUFFIXES)}, or a folder, got {out}")
    check_absent(out, force=force)
    if out.is_dir() == bool(out.suffix) and out.exists():
        raise ValueError(f"--out {out} is a {'folder' if out.suffix else 'file'}: give another name")
    print_result(f"{export_generator(open_run(run, TrainConfig), out, print_note, half=half)} -> {out}")
    if out.suffix == ".safetensors":
        print_result(f'in Python: generator = snngan.load_generator("{out}")')
