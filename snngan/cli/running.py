"""What train and resume share: from a user's words to a run, the signals that save and leave, and the last words."""

from __future__ import annotations

import errno
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from snngan.cli.next_commands import compare_command, out_option, print_next_commands
from snngan.cli.output import Progress, duration, print_note, print_status, print_wrapped
from snngan.cli.signals import caught_signals
from snngan.config import ClassifyConfig, TrainConfig
from snngan.data import Dataset
from snngan.data.datasets import data_folder, is_here, load_dataset
from snngan.files import SaveError
from snngan.stats import mean_interval
from snngan.training.checkpoint import checkpoint_paths, load_newest, step_of
from snngan.training.classifier import train_classifier
from snngan.training.distributed import (
    RankLostError,
    broadcast_from_rank0,
    check_same_step,
    check_share,
    is_main_process,
    is_of_a_lost_rank,
    process_group,
    run_on_all_ranks,
)
from snngan.training.divergence import DivergedError, Outcome
from snngan.training.gan import Measure, train_gan
from snngan.training.run_folder import ClassifierRun, GanRun, next_run_dir, open_run

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of the errors of a full disk."""


def begin(
    config: TrainConfig | ClassifyConfig, kind: Any, check: Callable[..., Any], make: Callable[..., Any],
    describe: Callable[..., list[str]], run_to_end: Callable[..., None],
) -> None:  # fmt: skip
    """Begin the run that a user's words mean: refuse what is wrong, load the data, say the plan, make the folder, go.

    Args:
        config: the user's words.
        kind: of run folder.
        check: refuses a config that is wrong on any data set.
        make: the plan of a config and a data set.
        describe: lines that say a plan, of plan, data set and device.
        run_to_end: trains, given run, data set and device.
    """
    with process_group(config.device) as device:
        found = run_on_all_ranks(
            lambda: _prepared(config, kind, check, make, describe, device) if is_main_process() else None
        )
        path = broadcast_from_rank0(None if found is None else found[0].path)
        if path is not None:  # None: a dry run
            run, dataset = run_on_all_ranks(lambda: found or (kind.open(path), _data_of(config, keep=False)))
            with locked_by_first(run):
                run_to_end(run, dataset, device)


@contextmanager
def locked_by_first(run: GanRun | ClassifierRun) -> Iterator[None]:
    """Keep other trainings out of the run's folder; every rank raises the ``ValueError`` of the first."""
    with ExitStack() as stack:
        run_on_all_ranks(lambda: is_main_process() and stack.enter_context(run.locked()))
        yield


def _prepared(
    config: TrainConfig | ClassifyConfig, kind: Any, check: Callable[..., Any], make: Callable[..., Any],
    describe: Callable[..., list[str]], device: torch.device,
) -> tuple[Any, Dataset] | None:  # fmt: skip
    """Return the run's new folder and its data, or None where the user only wants to know."""
    if config.run_dir:
        kind.check_new(Path(config.run_dir))
    check(config)
    if config.dry_run and config.download and not is_here(config.dataset, config.data_dir):
        raise ValueError(f"--dry-run fetches nothing; first: snngan data prepare {config.dataset} --download")
    dataset = _data_of(config, keep=not config.dry_run)
    plan = make(config, dataset)
    check_share(plan.batch_size)
    for line in describe(plan, dataset, device):
        print_wrapped(line, indent=11)
    given = Path(config.run_dir) if config.run_dir else None
    if config.dry_run:
        print_wrapped("run       ", str(given or next_run_dir(plan)), indent=0)
        print_status("dry run: nothing was written")
        return None
    run = kind.create(given, plan, device) if given else kind.create_next(plan, device)
    print_wrapped("run       ", str(run.path), indent=0)
    return run, dataset


def _data_of(config: TrainConfig | ClassifyConfig, *, keep: bool) -> Dataset:
    return load_dataset(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        download=config.download,
        skip_broken=config.skip_broken,
        keep=keep,
        notify=print_note,
    )


def go_on(
    path: Path, dataset: str | None, steps: int | None, data_dir: str | None, device: torch.device, *, dry_run: bool
) -> None:
    """Go on with the run in the folder ``path`` to step ``steps``, or to its planned end; every rank reads the folder.

    Args:
        path: of the run.
        dataset: where the data is now, if not where it was.
        steps: where it ends, if not where it was to.
        data_dir: where data sets are kept now.
        device: where it computes.
        dry_run: only say where it would go on.
    """
    folder = run_on_all_ranks(lambda: open_run(path))
    with nullcontext() if dry_run else locked_by_first(folder):  # first of all: nothing newer is saved from then on
        _go_on(folder, dataset, steps, data_dir, device, dry_run=dry_run)


def _go_on(
    folder: GanRun | ClassifierRun, dataset: str | None, steps: int | None, data_dir: str | None,
    device: torch.device, *, dry_run: bool,
) -> None:  # fmt: skip
    first = is_main_process()
    start = run_on_all_ranks(lambda: _start_of(folder))
    path, plan, last = folder.path, folder.plan, steps or folder.plan.steps
    at = 0 if start is None else start["step"]
    check_same_step(at)
    if at >= last:
        if first:
            longer = f"snngan resume {folder.quoted} --steps {2 * at}"
            print_wrapped(f"{path} is finished at step {at}; to train longer:", longer)
        return
    if first:
        print_wrapped(f"resuming {path} at step {at} of {last}, on {device}")
    if dry_run:
        return
    data = run_on_all_ranks(
        lambda: load_dataset(
            dataset or plan.dataset,
            data_dir=data_dir or plan.data_dir,
            image_size=plan.image_size,
            skip_broken=plan.skip_broken,
            keep=False,  # the folder to keep it in is named by the run, which may be anyone's
            notify=print_note,
        )
    )
    if steps is not None:
        folder.set_steps(steps)
    if start is None:
        run_on_all_ranks(lambda: folder.begin_again(device) if is_main_process() else None)
    if isinstance(folder, GanRun):
        run_gan(folder, data, device, start, data_dir)
    else:
        run_classifier(folder, data, device, start)


def _start_of(folder: GanRun | ClassifierRun) -> dict[str, Any] | None:
    """Return the newest sound checkpoint, or None where the run was stopped before it saved its first."""
    folder.check_links()
    if not checkpoint_paths(folder.checkpoints) and folder.last_logged() <= folder.plan.checkpoint_every:
        return None
    start = load_newest(folder.checkpoints, print_note, holds="players" if isinstance(folder, GanRun) else "members")
    for line in folder.changed_since_begun():
        print_note(line)
    return start


def run_gan(
    run: GanRun, dataset: Dataset, device: torch.device, start: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
) -> None:  # fmt: skip
    """Train a generator from ``start``, if any, then say what was written and what to type next."""
    measure = figures_of(run, dataset, device, data_dir or run.plan.data_dir)
    train = partial(train_gan, run, dataset, device, start=start, measure=measure)
    outcome = to_the_end(run, dataset, run.plan.batch_size, train)
    if is_main_process():
        say_result(run, outcome)


def run_classifier(
    run: ClassifierRun, dataset: Dataset, device: torch.device, start: Mapping[str, Any] | None = None
) -> None:
    """Train a classifier from ``start``, if any, then say what came of it and what to type next."""
    size = run.plan.batch_size * len(run.plan.seeds)
    outcome = to_the_end(run, dataset, size, partial(train_classifier, run, dataset, device, start=start))
    if is_main_process():
        say_classifier_result(run, outcome)


def to_the_end(
    run: GanRun | ClassifierRun, dataset: Dataset, batch_size: int, train: Callable[..., Outcome]
) -> Outcome:
    """Return the outcome of ``train(should_stop=..., report=...)``, with a progress line, if it comes to its end.

    It exits with 130 or 143 if a signal ended the run.
    """
    first = is_main_process()
    with caught_signals() as caught:
        progress = Progress(run.plan.steps, batch_size, "points" if dataset.is_points else "images")
        try:
            outcome = train(should_stop=lambda: bool(caught), report=progress if first else lambda *_: None)
        except SaveError as error:
            no_room = isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_ROOM
            what = "make room" if no_room else "mend that"
            raise SaveError(f"{error}; {what}, then go on with: snngan resume {run.quoted}") from error
        except DivergedError as error:
            raise DivergedError(f"{error}. {_kept(run)}") from error
        except RuntimeError as error:
            if not is_of_a_lost_rank(error):
                raise
            raise RankLostError(f"another rank is gone; go on with: snngan resume {run.quoted}") from error
        finally:
            progress.end()
    if not outcome.finished:
        number = caught[0] if caught else signal.SIGTERM  # that another rank caught
        if first:
            name = signal.Signals(number).name
            print_wrapped(f"{name}: saved at step {outcome.step}; go on with:", f"snngan resume {run.quoted}")
        sys.exit(128 + number)
    return outcome


def _kept(run: GanRun | ClassifierRun) -> str:
    """Return what a run that came to nothing has left."""
    steps = [step_of(path) for path in checkpoint_paths(run.checkpoints)]
    if not steps:
        return f"Nothing was saved before that; {run.quoted} holds its readings"
    return f"Kept: the checkpoint of step {steps[-1]} and those before it, in {run.quoted}"


def figures_of(run: GanRun, dataset: Dataset, device: torch.device, data_dir: str | None) -> Measure:
    """Return what takes the run's figures beside entanglement while it trains."""
    if not (run.plan.metrics_every and is_main_process()):
        return lambda step, players: {}
    from snngan.evaluation.training_metrics import TrainingMetrics

    return TrainingMetrics(run.plan, dataset, data_folder(data_dir) / "features", device)


def say_result(run: GanRun, outcome: Outcome) -> None:
    """Print what a finished run reached and wrote, and the next commands."""
    scalars, seconds = outcome.scalars, outcome.seconds or 1.0
    print_wrapped(
        f"trained {outcome.step} steps; {duration(seconds)} since this start, {outcome.tracking_seconds / seconds:.1%} "
        f"of it on entanglement, {outcome.measuring_seconds / seconds:.1%} on other metrics"
    )
    if "entanglement/input_score" in scalars:
        print_wrapped(
            f"entanglement score {scalars['entanglement/input_score']:.3f} "
            "(higher is better; 1: samples cannot be told from real)"
        )
        print_wrapped(
            f"entanglement of real anchors {scalars['entanglement/real_anchors']:.3f}, of synthetic anchors "
            f"{scalars['entanglement/fake_anchors']:.3f} (0.693 is ideal)"
        )
    print_wrapped("samples     ", str(run.samples / f"step-{outcome.step:08d}.png"), indent=0)
    say_files(run)
    print_next_commands(
        [f"snngan sample {run.quoted} --count 100", *out_option(run, "grid.png")],
        [f"snngan evaluate {run.quoted}"],
        compare_command(run),
        [f"snngan report {run.quoted}", *out_option(run, "report.html")],
    )


def say_classifier_result(run: ClassifierRun, outcome: Outcome) -> None:
    """Print what a finished classifier's run reached and wrote, and the next commands."""
    plan, scalars, seconds = run.plan, outcome.scalars, outcome.seconds or 1.0
    print_wrapped(
        f"trained {outcome.step} steps; {duration(seconds)} since this start, {outcome.tracking_seconds / seconds:.1%} "
        "of it on metrics"
    )
    for half, words in (("train", "training"), ("test", "held out")):
        print_wrapped(
            f"{words:13} accuracy {scalars[f'accuracy/{half}']:.2%}, cross-entropy "
            f"{scalars[f'cross_entropy/{half}']:.3g}, calibration error {scalars[f'calibration_error/{half}']:.4f}",
            indent=14,
        )
    if len(plan.seeds) > 1:
        values = [scalars[f"seed-{seed}/accuracy/test"] for seed in plan.seeds]
        _, low, high = mean_interval(values)
        print_wrapped(
            f"{f'over {len(values)} seeds':13} best {max(values):.2%} held out, "
            f"95 % interval of the mean {low:.2%} to {high:.2%}",
            indent=14,
        )
    for layer in plan.layers:
        print_status(f"  entanglement of {layer}: {scalars[f'entanglement/test/{layer}']:.4f}")
    print_wrapped(
        f"  (0: the classes are separate; {math.log(plan.num_classes):.2f}: chance for {plan.num_classes} classes)"
    )
    say_files(run)
    print_next_commands(
        [f"snngan classify evaluate {run.quoted}"],
        [f"snngan report {run.quoted}", *out_option(run, "report.html")],
        [f"snngan board {run.quoted}"],
    )


def say_files(run: GanRun | ClassifierRun) -> None:
    """Print where the measured values and the checkpoints are."""
    print_wrapped("metrics     ", str(run.path / "metrics.jsonl"), indent=0)
    print_wrapped("checkpoints ", str(run.checkpoints), indent=0)
