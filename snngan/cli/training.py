"""What train, classify train and resume share: a run from start to end, with progress, signals and a final summary."""

from __future__ import annotations

import dataclasses
import errno
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from snngan.api import config_like, create_run, load_state, lock_run, prepare, prepare_resumed
from snngan.cli.next_commands import make_compare_command, make_out_option, print_next_commands
from snngan.cli.output import Progress, format_duration, print_note, print_result, print_wrapped
from snngan.cli.signals import collect_signals
from snngan.config import Config, TrainConfig
from snngan.files import SaveError
from snngan.training.checkpoint import checkpoint_paths, step_of
from snngan.training.distributed import (
    RankLostError,
    is_lost_rank_error,
    is_main_process,
    process_group,
    run_on_all_ranks,
)
from snngan.training.divergence import DivergedError
from snngan.training.resolve import list_settings
from snngan.training.run_folder import RunFolder, next_run_dir, open_run
from snngan.training.trainer import Outcome, Trainer, train

C = TypeVar("C", bound=Config)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of the errors of a full disk."""


def make_config_like(kind: type[C], like: Path | None, values: dict[str, Any]) -> C:
    """Return the config of a command's ``values``, or that of the run ``like`` with what the user gave now."""
    if like is None:
        return kind(**values)
    context = click.get_current_context()
    given = {name: value for name, value in values.items() if context.get_parameter_source(name) is not DEFAULT}
    return config_like(like, kind, given)


DEFAULT = click.core.ParameterSource.DEFAULT


def print_settings(config: Config) -> None:
    """Print what ``--set`` knows, in lines that fit the terminal."""
    for line in list_settings(config):
        print_result(line, indent=4)


def start_runs(configs: Sequence[Config]) -> None:
    """Train one run after the other, each from the options of a user to its final summary."""
    with process_group(configs[0].device) as device:
        for config in configs:
            trainer = prepare(config, device, notify=print_note)
            print_lines = print_wrapped if is_main_process() else _print_nothing
            for line in trainer.describe():
                print_lines(line, indent=11)
            if config.dry_run:
                print_lines("run       ", config.run_dir or str(next_run_dir(trainer.config)), indent=0)
                print_lines("dry run: nothing was written")
                continue
            run = create_run(trainer)
            print_lines("run       ", str(run.path), indent=0)
            with lock_run(run):
                train_to_end(trainer, run)


def configs_of_seeds(config: TrainConfig) -> list[TrainConfig]:
    """Return a config for each seed: a generator's run has one, in a folder with its number."""
    seeds = config.seed_list
    if config.seeds is None:
        return [config]
    folders = [None if config.run_dir is None else f"{config.run_dir}/seed-{seed}" for seed in seeds]
    return [
        dataclasses.replace(config, seed=seed, seeds=None, run_dir=folder)
        for seed, folder in zip(seeds, folders, strict=True)
    ]


def resume_run(
    path: Path, *, dataset: str | None, steps: int | None, data_dir: str | None, device: str, dry_run: bool
) -> None:
    """Continue the run in the folder ``path`` to step ``steps``, or to its planned end; every rank reads the folder."""
    with process_group(device) as chosen:
        run = run_on_all_ranks(lambda: open_run(path, Config))
        # The lock comes before anything is read, so that nothing newer is saved meanwhile.
        with nullcontext() if dry_run else lock_run(run):
            state = load_state(run, print_note)
            step, last = 0 if state is None else state["step"], steps or run.config.steps
            print_lines = print_wrapped if is_main_process() else _print_nothing
            if step >= last:
                longer = f"snngan resume {run.quoted} --steps {2 * step}"
                print_lines(f"{path} is finished at step {step}; to train longer:", longer)
                return
            print_lines(f"resuming {path} at step {step} of {last}, on {chosen}")
            if dry_run:
                return
            if steps is not None:
                run.set_steps(steps)
            trainer = prepare_resumed(run, state, chosen, dataset=dataset, data_dir=data_dir, notify=print_note)
            train_to_end(trainer, run)


def train_to_end(trainer: Trainer, run: RunFolder[Any]) -> None:
    """Train with a progress line, then print what was reached and what to type next.

    It exits with 130 or 143 if a signal ended the run.
    """
    config = trainer.config
    is_gan = isinstance(config, TrainConfig)
    batch_size = config.batch_size * (1 if is_gan else len(config.seed_list))
    with collect_signals() as caught:
        progress = Progress(config.steps, batch_size, "points" if config.is_points else "images")
        on_step: Callable[..., None] = progress if is_main_process() else _print_nothing
        try:
            outcome = train(trainer, run, should_stop=lambda: bool(caught), on_step=on_step)
        except SaveError as error:
            no_room = isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FULL
            remedy = "make room" if no_room else "correct that"
            raise SaveError(f"{error}; {remedy}, then continue by: snngan resume {run.quoted}") from error
        except DivergedError as error:
            raise DivergedError(f"{error}. {_describe_kept(run)}") from error
        except RuntimeError as error:
            if not is_lost_rank_error(error):
                raise
            raise RankLostError(f"another process ended; continue by: snngan resume {run.quoted}") from error
        finally:
            progress.end()
    if is_main_process() and outcome.finished:
        _print_outcome(trainer, run, outcome)
    if not outcome.finished:
        number = caught[0] if caught else signal.SIGTERM  # which another rank received
        if is_main_process():
            name = signal.Signals(number).name
            print_wrapped(f"{name}: saved at step {outcome.step}; continue by:", f"snngan resume {run.quoted}")
        sys.exit(128 + number)


def _print_outcome(trainer: Trainer, run: RunFolder[Any], outcome: Outcome) -> None:
    share = outcome.evaluation_seconds / (outcome.seconds or 1.0)
    print_wrapped(
        f"trained {outcome.step} steps; {format_duration(outcome.seconds)} since this start, "
        f"{share:.1%} of it on metrics"
    )
    for line in trainer.summarize(outcome.metrics):
        print_wrapped(line)
    is_gan = isinstance(trainer.config, TrainConfig)
    if is_gan:
        print_wrapped("samples     ", str(run.samples / f"step-{outcome.step:08d}.png"), indent=0)
    print_wrapped("metrics     ", str(run.path / "metrics.jsonl"), indent=0)
    print_wrapped("checkpoints ", str(run.checkpoints), indent=0)
    report = [f"snngan report {run.quoted}", *make_out_option(run, "report.html")]
    if is_gan:
        sample = [f"snngan sample {run.quoted} --count 100", *make_out_option(run, "grid.png")]
        print_next_commands(sample, [f"snngan evaluate {run.quoted}"], make_compare_command(run), report)
    else:
        print_next_commands([f"snngan classify evaluate {run.quoted}"], report, [f"snngan board {run.quoted}"])


def _describe_kept(run: RunFolder[Any]) -> str:
    """Return what a run that diverged has left."""
    steps = [step_of(path) for path in checkpoint_paths(run.checkpoints)]
    if not steps:
        return f"Nothing was saved before that; {run.quoted} holds its metrics"
    return f"Kept: the checkpoint of step {steps[-1]} and those before it, in {run.quoted}"


def _print_nothing(*_: Any, **__: Any) -> None:
    """Print nothing: only the main process does."""
