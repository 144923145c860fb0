"""Figure 7: a search over alpha, learning rate and first temperature by batched Gaussian-process bandits."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import multiprocessing
import signal
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from snngan.config import option
from snngan.data import Dataset, error_line
from snngan.evaluation.classifier import load_ensemble
from snngan.evaluation.plots import plot_errors_by_alpha
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import default_architecture, resolve_classifiers, train_classifiers
from snngan.experiments.runs import load_labeled, seed_logs
from snngan.seeds import seed_for
from snngan.training.classifier import classification_metrics, compute_logits
from snngan.training.divergence import DivergedError

if TYPE_CHECKING:
    import optuna


@EXPERIMENTS.register("alpha-search")
class AlphaSearch(Experiment):
    """Which alpha a Gaussian-process search settles on, and test accuracy against alpha.

    Let workers train one classifier at a time; a shared study suggests what each tries next.

    The objective is the accuracy on a tenth of the training images, which is held out from training; the test split is
    only reported. Alpha is ``largest_alpha`` * u^3 for u in [-1, 1], which treats both signs alike and is fine near 0.
    A trial that diverges has the accuracy of guessing. One worker always finds the same; for several, the trials depend
    on the speed of each.
    """

    source = "Frosst et al. 2019, figure 7"
    cpu = {"dataset": "mnist-5k", "trials": 64, "steps": 300, "batch_size": 128, "workers": 2, "options": ("width=16",)}
    paper = dict(cpu, dataset="cifar10", steps=20000, batch_size=256, largest_alpha=1.0, workers=8, options=())

    dataset: str = option("digits", "data set that the classifiers are trained on")
    trials: int = option(3, "number of trials", low=1)
    steps: int = option(3, "optimizer steps of a trial", low=1)
    batch_size: int = option(32, "images per step", low=1)
    largest_alpha: float = option(0.3, "largest weight of the layer loss, of either sign", low=0, high=1e9)
    workers: int = option(1, "number of processes", low=1)
    seed: int = option(0, "seed of the search")
    storage: str | None = option(None, "optuna storage, such as postgresql://... [SQLite in the folder]")
    options: tuple[str, ...] = option(("width=4", "units=16"), "options of the network")

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        resolve_classifiers(split_validation(data), context, **self._classifier_options(data))
        study = self.open_study(context.folder, data)
        if len(_finished(study)) < self.trials:
            self._start_workers(context)
        finished = _finished(study)[: self.trials]
        if len(finished) < self.trials:
            raise ValueError(f"{len(finished)} of {self.trials} trials are finished; run the same command to continue")
        rows = [
            {"number": trial.number, **trial.params, "validation_accuracy": trial.value, **trial.user_attrs}
            for trial in finished
        ]
        best = max(rows, key=lambda row: float(row["validation_accuracy"]))
        shares = entangled_shares(rows)
        num_failed = sum(trial.state.name == "FAIL" for trial in study.trials)
        text = [
            f"{self.trials} trials of {self.steps} steps, {num_failed} more failed or were interrupted. Objective: "
            "accuracy on a tenth of the training images, held out from training.",
            "",
            f"- The best trial ({best['number']}): alpha {best['alpha']:.3g}, learning rate "
            f"{best['learning_rate']:.3g}, first temperature {best['first_temperature']:.3g} of the mean distance; "
            f"validation accuracy {best['validation_accuracy']:.2%}, test accuracy {best['test_accuracy']:.2%}.",
            f"- Alpha is below 0 (entangled) in {shares['entangled_of_last_quarter']:.0%} of the last quarter of "
            f"trials and in {shares['entangled_of_best_quarter']:.0%} of the best quarter.",
        ]
        alphas, errors = [row["alpha"] for row in rows], [1 - row["test_accuracy"] for row in rows]
        plot = plot_errors_by_alpha(alphas, errors, self.largest_alpha, context.folder / "alpha.png")
        return ExperimentResult({"trials": rows, "best": best, **shares}, text, [plot])

    def _start_workers(self, context: ExperimentContext) -> None:
        """Run trials in this process or in several, until all are finished or no worker is left."""
        quiet = dataclasses.replace(context, notify=logging.debug)
        if self.workers == 1:
            self.run_trials(quiet, 0)
            return
        spawn = multiprocessing.get_context("spawn")
        workers = [
            spawn.Process(target=self.run_trials, args=(quiet, number), daemon=True) for number in range(self.workers)
        ]
        for worker in workers:
            worker.start()
        for number, worker in enumerate(workers):
            worker.join()
            if worker.exitcode:
                context.notify(f"worker {number} ended with status {worker.exitcode}; its finished trials are kept")

    def run_trials(self, context: ExperimentContext, number: int) -> None:
        """Run what the study suggests until all its trials are finished, as the worker of that number."""
        import optuna

        parent = multiprocessing.parent_process()
        if parent is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
        torch.set_num_threads(max(1, torch.get_num_threads() // self.workers))
        data = load_labeled(self.dataset, context)
        study = self.open_study(context.folder, data)
        while len(_finished(study)) < self.trials and (parent is None or parent.is_alive()):
            num_tried = len(study.get_trials(deepcopy=False))
            own_seed = seed_for(self.seed, f"worker {number} after {num_tried} trials") % 2**32
            seed = None if self.storage else own_seed  # workers on several machines have the same numbers
            study.sampler = optuna.samplers.GPSampler(seed=seed)
            study.optimize(lambda trial: self._run_trial(trial, data, context), n_trials=1)

    def _classifier_options(self, data: Dataset) -> dict[str, Any]:
        every = dict.fromkeys(("steps", "log_every", "checkpoint_every"), self.steps)
        shared = {"dataset": self.dataset, "set": self.options, "batch_size": self.batch_size}
        return {**shared, **every, "arch": default_architecture(data)}

    def _run_trial(self, trial: optuna.Trial, data: Dataset, context: ExperimentContext) -> float:
        """Return the validation accuracy of one classifier, and store its test accuracy with the trial."""
        options = self._classifier_options(data)
        options["alpha"] = self.largest_alpha * trial.suggest_float("u", -1.0, 1.0) ** 3
        options["learning_rate"] = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        options["temperature"] = f"learned:{trial.suggest_float('first_temperature', 0.01, 10.0, log=True)!r}"
        trial.set_user_attr("alpha", options["alpha"])
        name = f"trial-{trial.number:04d}"
        try:
            run = train_classifiers(name, split_validation(data), context, seed=trial.number, **options)
        except DivergedError:
            trial.set_user_attr("test_accuracy", 1 / data.num_classes)
            return 1 / data.num_classes
        assert data.test_labels is not None
        logits = compute_logits(load_ensemble(run, context.device)[0], data.test_images, context.device)
        trial.set_user_attr("test_accuracy", float(classification_metrics(logits, data.test_labels)["accuracy"]))
        return seed_logs(run)[0]["accuracy/test"][1][-1]

    def open_study(self, folder: Path, data: Dataset) -> optuna.Study:
        """Return the study of these options on this data, which all workers share.

        Raises:
            ValueError: optuna is not installed, the storage cannot be opened, or the folder holds a different search.
        """
        try:
            import optuna
        except ImportError as error:
            raise ValueError("alpha-search needs optuna: pip install 'snngan[search]'") from error
        import sqlalchemy

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        folder.mkdir(parents=True, exist_ok=True)
        url = self.storage or f"sqlite:///{(folder / 'search.db').absolute()}"
        options = dataclasses.asdict(self) | dict.fromkeys(("trials", "workers", "storage"))
        options["data"] = data.labeled_digest()
        name = f"alpha-search-{hashlib.blake2b(repr(options).encode(), digest_size=6).hexdigest()}"
        try:
            # a trial whose worker gives no sign of life for 60 seconds counts as failed
            storage = optuna.storages.RDBStorage(url, heartbeat_interval=20, grace_period=60)
            known = optuna.get_all_study_names(storage)
            if known and name not in known and not self.storage:
                raise ValueError(f"{folder} holds a different search: give another --out, or remove it")
            return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        except (ImportError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise ValueError(f"the storage {url} cannot be opened: {error_line(error)}") from error


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def split_validation(data: Dataset) -> Dataset:
    """Return the training split of ``data`` alone, with a tenth of it held out."""
    assert data.train_labels is not None
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(0))
    kept, held = order[len(order) // 10 :], order[: len(order) // 10]
    images, labels = data.train_images, data.train_labels
    return Dataset(data.name, images[kept], labels[kept], images[held], labels[held])


def entangled_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of entangling trials (alpha below 0) in the last quarter and in the best quarter."""
    quarter = max(1, len(rows) // 4)
    best = sorted(rows, key=lambda row: float(row["validation_accuracy"]))[-quarter:]
    return {
        name: sum(row["alpha"] < 0 for row in some) / quarter
        for name, some in (("entangled_of_last_quarter", rows[-quarter:]), ("entangled_of_best_quarter", best))
    }
