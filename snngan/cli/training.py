"""What train, classify train and resume share: a run from start to end, with progress, signals and a final summary."""

from __future__ import annotations

import dataclasses
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from snngan.api import config_like, create_run, lock_run, prepare
from snngan.checkpoint import checkpoint_paths, step_of
from snngan.cli.output import Progress, print_next_commands, print_note, print_result, print_status
from snngan.cli.signals import collect_signals
from snngan.config import Config, TrainConfig
from snngan.files import SaveError
from snngan.training.distributed import RankLostError, is_lost_rank_error, is_main_process, process_group
from snngan.training.divergence import DivergedError
from snngan.training.resolve import list_settings as settings_lines
from snngan.training.run_folder import RunFolder, next_run_dir
from snngan.training.trainer import Outcome, Trainer, train


def start_training(kind: type[Config], *, like: Path | None, list_settings: bool, **values: Any) -> None:
    """Train the config ``kind`` of a command's ``values``, one run after the other, or print what ``--set`` knows."""
    if like is None:
        config = kind(**values)
    else:
        source = click.get_current_context().get_parameter_source
        given = {name: value for name, value in values.items() if source(name) is not ParameterSource.DEFAULT}
        config = config_like(like, kind, given)
    if list_settings:
        for line in settings_lines(config):
            print_result(line, 4)
        return
    with process_group(config.device) as device:
        for each in configs_of_seeds(config) if isinstance(config, TrainConfig) else [config]:
            trainer = prepare(each, device, notify=print_note)
            for line in trainer.describe():
                print_status(line, 11)
            if each.dry_run:
                print_status(f"run        {each.run_dir or next_run_dir(trainer.config)}")
                print_status("dry run: nothing was written")
                continue
            run = create_run(trainer)
            print_status(f"run        {run.path}")
            with lock_run(run):
                train_to_end(trainer, run)


def configs_of_seeds(config: TrainConfig) -> list[TrainConfig]:
    """Return a config for each seed: a generator's run has one, in a folder with its number."""
    if config.seeds is None:
        return [config]
    folder = config.run_dir
    return [
        dataclasses.replace(config, seed=seed, seeds=None, run_dir=folder and f"{folder}/seed-{seed}")
        for seed in config.seed_list
    ]


def train_to_end(trainer: Trainer, run: RunFolder[Any]) -> None:
    """Train with a progress line, then print what was reached and what to type next.

    It exits with 130 or 143 if a signal ended the run.
    """
    config, continue_by = trainer.config, f"continue by: snngan resume {run.quoted}"
    batch_size = config.batch_size * len(config.seed_list)
    with collect_signals() as received:
        progress = Progress(config.steps, batch_size, "points" if config.is_points else "images")
        try:
            outcome = train(trainer, run, should_stop=lambda: bool(received), on_step=progress)
        except SaveError as error:
            raise SaveError(f"{error}; make room or correct that, then {continue_by}") from error
        except DivergedError as error:
            steps = [step_of(path) for path in checkpoint_paths(run.checkpoints)]
            kept = f"Kept: the checkpoint of step {steps[-1]} and those before it, in {run.quoted}" if steps else ""
            nothing = f"Nothing was saved before that; {run.quoted} holds its metrics"
            raise DivergedError(f"{error}. {kept or nothing}") from error
        except RuntimeError as error:
            if is_lost_rank_error(error):
                raise RankLostError(f"another process ended; {continue_by}") from error
            raise
        finally:
            progress.end()
    if not outcome.finished:
        number = received[0] if received else signal.SIGTERM  # which another rank received
        print_status(f"{signal.Signals(number).name}: saved at step {outcome.step}; {continue_by}")
        sys.exit(128 + number)
    if is_main_process():
        _print_outcome(trainer, run, outcome)


def _print_outcome(trainer: Trainer, run: RunFolder[Any], outcome: Outcome) -> None:
    seconds, share = timedelta(seconds=round(outcome.seconds)), outcome.evaluation_seconds / (outcome.seconds or 1.0)
    print_status(f"trained {outcome.step} steps; {seconds} since this start, {share:.1%} of it on metrics")
    for line in trainer.summarize(outcome.metrics):
        print_status(line, 2)
    if isinstance(trainer.config, TrainConfig):
        print_status(f"samples      {run.samples / f'step-{outcome.step:08d}.png'}")
    print_status(f"metrics      {run.path / 'metrics.jsonl'}")
    print_status(f"checkpoints  {run.checkpoints}")
    print_next_commands(run)
