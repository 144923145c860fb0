"""``snngan resume``."""

from __future__ import annotations

from pathlib import Path

import click

from snngan.cli.options import data_dir_option, device_option, run_argument


@click.command(epilog="Example:  snngan resume runs/0001-mnist-5k-snnl-pixel")
@run_argument
@click.option("--dataset", metavar="NAME", help="where the same data is now, if not where it was")
@click.option("--steps", type=click.IntRange(min=1), help="train up to this step instead of the planned one")
@data_dir_option
@device_option
@click.option("--dry-run", is_flag=True, help="say where it would go on, and stop")
def resume(run: Path, dataset: str | None, steps: int | None, data_dir: str | None, device: str, dry_run: bool) -> None:
    """Go on with RUN from its newest sound checkpoint; on a CPU the result is bit-equal to an unbroken run's."""
    from snngan.cli.running import notify, run_classifier, run_gan
    from snngan.data.datasets import load_dataset
    from snngan.training.checkpoint import load_newest
    from snngan.training.device import choose_device
    from snngan.training.runlog import RunFolder, open_folder

    chosen = choose_device(device)
    folder = open_folder(run)
    start = load_newest(folder.checkpoints, notify, holds="players" if isinstance(folder, RunFolder) else "members")
    plan, at, last = folder.plan, start["step"], steps or folder.plan.steps
    if at >= last:
        click.echo(f"{run} is finished at step {at}; to train longer: snngan resume {folder.quoted} --steps {2 * at}")
        return
    click.echo(f"resuming {run} at step {at} of {last}, on {chosen}")
    if dry_run:
        return
    data = load_dataset(
        dataset or plan.dataset,
        data_dir=data_dir or plan.data_dir,
        image_size=plan.image_size,
        skip_broken=plan.skip_broken,
        notify=notify,
    )
    if steps is not None:
        folder.set_steps(steps)
    if isinstance(folder, RunFolder):
        run_gan(folder, data, chosen, start)
    else:
        run_classifier(folder, data, chosen, start)
