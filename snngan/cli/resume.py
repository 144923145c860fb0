"""``snngan resume``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from snngan.cli.options import data_dir_option, device_option, run_argument
from snngan.cli.output import print_note, print_status


@click.command(epilog="Example:  snngan resume runs/0001-mnist-5k-snnl-features")
@run_argument
@click.option("--dataset", metavar="NAME", help="new name or place of the same data")
@click.option("--steps", type=click.IntRange(min=1), help="last step, instead of the planned one")
@data_dir_option
@device_option
@click.option("--dry-run", is_flag=True, help="describe where the run continues, and stop")
def resume(run: Path, dataset: str | None, steps: int | None, data_dir: str | None, device: str, dry_run: bool) -> None:
    """Continue RUN from its newest sound checkpoint; on a CPU the result is bit-equal to an unbroken run's."""
    from snngan.api import load_state, lock_run, prepare_resumed
    from snngan.cli.training import train_to_end
    from snngan.config import Config
    from snngan.training.distributed import process_group, run_on_all_ranks
    from snngan.training.run_folder import open_run

    with process_group(device) as chosen:
        folder = run_on_all_ranks(lambda: open_run(run, Config))
        # The lock comes before anything is read, so that nothing newer is saved meanwhile.
        with nullcontext() if dry_run else lock_run(folder):
            state = load_state(folder, print_note)
            step, last = 0 if state is None else state["step"], steps or folder.config.steps
            if step >= last:
                longer = f"snngan resume {folder.quoted} --steps {2 * step}"
                print_status(f"{run} is finished at step {step}; to train longer: {longer}")
                return
            print_status(f"resuming {run} at step {step} of {last}, on {chosen}")
            if dry_run:
                return
            if steps is not None:
                folder.set_steps(steps)
            trainer = prepare_resumed(folder, state, chosen, dataset=dataset, data_dir=data_dir, notify=print_note)
            train_to_end(trainer, folder)
