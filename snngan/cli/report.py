"""``snngan report``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import LocalPath, force_option
from snngan.cli.output import print_note, print_result, reset_matplotlib_settings
from snngan.files import check_absent


@click.command(epilog="Example:  snngan report runs/* --out report.html")
@click.argument("runs", nargs=-1, required=True, type=LocalPath())
@click.option("--out", default="report.html", show_default=True, type=LocalPath(), help="the page")
@force_option
def report(runs: tuple[Path, ...], out: Path, force: bool) -> None:
    """Write one HTML page of RUNS, of generators and of classifiers: metrics, samples through time, curves, options.

    Runs that differ only by seed are grouped, with mean and 95 % interval. Metrics of samples are those that
    `snngan evaluate` has left in the runs' folders. The page needs no other file.
    """
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file name")
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out must be a name that ends in .html, got {out}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: cannot find the folder {out.absolute().parent}")
    check_absent(out, force=force)
    from snngan.config import Config
    from snngan.evaluation.report import write_report
    from snngan.training.run_folder import RunFolder, open_run

    found: list[RunFolder[Config]] = []
    errors: list[str] = []
    for path in {each.resolve(): each for each in runs}.values():
        try:
            found.append(open_run(path, Config))
        except ValueError as error:
            if not path.exists():
                raise
            errors.append(str(error))
    if not found:
        raise ValueError(errors[0] if len(errors) == 1 else f"none of {len(errors)} paths is a run: {errors[0]}")
    for line in errors:
        print_note(f"left out: {line}")
    reset_matplotlib_settings()
    write_report(found, out)
    print_result(f"{len(found)} run{'s' * (len(found) > 1)} -> {out}")
    print_result(f"open it in a browser: {out.resolve().as_uri()}")
