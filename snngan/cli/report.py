"""``snngan report``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import PATH, force_option
from snngan.cli.output import print_note, print_result
from snngan.files import check_absent


@click.command(epilog="Example:  snngan report runs/* --out report.html")
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--out", default="report.html", show_default=True, type=PATH, help="the page")
@force_option
def report(runs: tuple[Path, ...], out: Path, force: bool) -> None:
    """Write one HTML page of RUNS, of generators and of classifiers: metrics, samples through time, curves, options.

    Runs that differ only by seed are grouped, with mean and 95 % interval. Metrics of samples are those that
    `snngan evaluate` has left in the runs' folders. The page needs no other file.
    """
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out must be a name that ends in .html, got {out}")
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
    for each in errors:  # shell patterns such as runs/* name other files, too
        print_note(f"left out: {each}")
    write_report(found, out)
    print_result(f"{len(found)} run{'s' * (len(found) > 1)} -> {out}")
    print_result(f"open it in a browser: {out.resolve().as_uri()}")
