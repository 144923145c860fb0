"""``snngan report``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.output import draw_plainly, tell


@click.command(epilog="Example:  snngan report runs/* --out report.html")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", default="report.html", show_default=True, type=click.Path(path_type=Path), help="the page")
@click.option("--force", is_flag=True, help="write over an older page")
def report(runs: tuple[Path, ...], out: Path, force: bool) -> None:
    """Write one HTML page of RUNS side by side: options, curves, samples through time, figures with their protocol.

    The page needs no other file. Figures are those that `snngan evaluate` has left in the runs' folders.
    """
    from snngan.evaluation.report import write_report
    from snngan.training.runlog import RunFolder

    if out.exists() and not (force and out.is_file()):
        raise ValueError(f"{out} exists already: choose another --out{', or --force' * out.is_file()}")
    draw_plainly()
    write_report([RunFolder.open(path) for path in runs], out)
    tell(f"{len(runs)} run{'s' * (len(runs) > 1)} -> {out}")
