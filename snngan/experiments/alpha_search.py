"""Figure 7: a search over alpha, learning rate and first temperature by batched Gaussian-process bandits."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from snngan.config import ClassifyConfig, option
from snngan.data import Dataset, error_line
from snngan.data.datasets import load_dataset
from snngan.evaluation.classifier import load_members
from snngan.evaluation.plots import plot_errors_by_alpha
from snngan.evaluation.report import read_metrics
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import fitting_network
from snngan.experiments.running import trained_classifier
from snngan.seeds import seed_for
from snngan.training.classifier import figures_of, logits_of
from snngan.training.classifier_plan import check_labels, make_classify_plan
from snngan.training.divergence import DivergedError

if TYPE_CHECKING:
    import optuna

HEARTBEAT, GRACE = 20, 60
"""Seconds between a worker's signs of life, and after how many without one its trial counts as failed."""


@EXPERIMENTS.register("alpha-search")
@dataclass(frozen=True, kw_only=True)
class AlphaSearch(Experiment):
    """Every worker trains one classifier at a time and asks the study, which they share, what to try next.

    What is maximized is the accuracy on a tenth of the training images that is held out for it; the test half is only
    reported. Alpha is ``largest_alpha`` * u^3 for u in [-1, 1]: both signs alike, and fine near 0. A trial that
    diverges counts as one that guesses. One worker repeats itself; what several try depends on how quick each is.
    """

    dataset: str
    trials: int = count()
    steps: int = count()
    batch_size: int = count()
    largest_alpha: float = option(MISSING, "", low=0, high=1e9)
    workers: int = option(1, "", low=1)
    seed: int = 0
    storage: str | None = None
    """An optuna storage, such as ``postgresql://...``, for workers on many machines; default: SQLite in the folder."""
    options: tuple[str, ...] = ()

    source: ClassVar[str] = "Frosst et al. 2019, figure 7"
    summary: ClassVar[str] = "Which alpha a Gaussian-process search settles on, and test accuracy against alpha"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        dataset = load_dataset(self.dataset, data_dir=setting.data_dir, notify=setting.notify)
        check_labels(dataset)
        config = self.config(0, setting, fitting_network(dataset))
        make_classify_plan(config, split_for_search(dataset))  # what no trial could run is refused here
        study = self.study(setting.folder, dataset)
        if _finished(study) < self.trials:
            self._work(setting)
        done = [trial for trial in study.trials if trial.state.name == "COMPLETE"][: self.trials]
        if len(done) < self.trials:
            raise ValueError(
                f"{len(done)} of {self.trials} trials are finished, and no worker is left; the same command goes on"
            )
        rows = [
            {"number": trial.number, **trial.params, "validation_accuracy": trial.value, **trial.user_attrs}
            for trial in done
        ]
        best = max(rows, key=lambda row: float(row["validation_accuracy"]))
        numbers = {"trials": rows, "best": best, **signs(rows)}
        alphas, errors = zip(*((float(row["alpha"]), 1 - float(row["test_accuracy"])) for row in rows), strict=True)
        figure = plot_errors_by_alpha(alphas, errors, self.largest_alpha, setting.folder / "alpha.png")
        return Finding(numbers, _text(self, numbers, study), [figure])

    def _work(self, setting: Setting) -> None:
        """Run the workers, or be the only one, until all trials are finished or no worker is left."""
        arguments = (self, setting.folder, setting.data_dir, str(setting.device))
        if self.workers == 1:
            work(*arguments, 0)
            return
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=work, args=(*arguments, number)) for number in range(self.workers)]
        try:
            for worker in workers:
                worker.start()
            for number, worker in enumerate(workers):
                worker.join()
                if worker.exitcode:
                    line = f"worker {number} ended with status {worker.exitcode}; its finished trials are kept"
                    setting.notify(line)
        finally:
            for worker in workers:
                if worker.pid is not None:
                    worker.terminate()

    def config(self, number: int, setting: Setting, arch: str, **tried: Any) -> ClassifyConfig:
        """Return the run of a trial that tries so."""
        return ClassifyConfig(
            dataset=self.dataset, data_dir=setting.data_dir, arch=arch, set=self.options, steps=self.steps,
            batch_size=self.batch_size, log_every=self.steps, checkpoint_every=self.steps, seed=number, **tried,
        )  # fmt: skip

    def objective(self, trial: optuna.Trial, dataset: Dataset, test: Dataset, arch: str, setting: Setting) -> float:
        """Return the validation accuracy of one classifier, and leave its test accuracy with the trial."""
        alpha = self.largest_alpha * trial.suggest_float("u", -1.0, 1.0) ** 3
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        first = trial.suggest_float("first_temperature", 0.01, 10.0, log=True)
        trial.set_user_attr("alpha", alpha)
        config = self.config(
            trial.number, setting, arch, alpha=alpha, temperature=f"learned:{first!r}", learning_rate=rate
        )
        try:
            run = trained_classifier(config, dataset, setting.folder / "runs" / f"trial-{trial.number:04d}", setting)
        except DivergedError:
            trial.set_user_attr("test_accuracy", 1 / test.num_classes)
            return 1 / test.num_classes
        assert test.test_labels is not None
        members, _ = load_members(run, setting.device)
        logits = logits_of(members, test.test_images, setting.device)
        trial.set_user_attr("test_accuracy", float(figures_of(logits, test.test_labels)["accuracy"]))
        return float(read_metrics(run)["accuracy/test"][1][-1])

    def study(self, folder: Path, dataset: Dataset) -> optuna.Study:
        """Return the study of these settings on this data, which all workers share; made if there is none yet.

        Raises:
            ValueError: optuna is not installed, the storage cannot be opened, or the folder holds another search.
        """
        try:
            import optuna
        except ImportError as error:
            raise ValueError("alpha-search needs optuna: pip install 'snngan[search]'") from error
        import sqlalchemy

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if "?" in str(folder.absolute()):
            raise ValueError(f"the folder {folder} has a question mark in its path, which SQLite's URLs do not take")
        url = self.storage or f"sqlite:///{(folder / 'search.db').absolute()}"
        said = asdict(self) | dict.fromkeys(("trials", "workers", "storage")) | {"data": dataset.labeled_digest()}
        name = f"alpha-search-{hashlib.blake2b(repr(said).encode(), digest_size=6).hexdigest()}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
            known = optuna.get_all_study_names(storage)
            if known and name not in known and not self.storage:
                raise ValueError(f"{folder} holds another search than this one: give another --out, or remove it")
            return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        except (ImportError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise ValueError(f"the storage {url} cannot be opened: {error_line(error)}") from error


def work(experiment: AlphaSearch, folder: Path, data_dir: str | None, device: str, number: int) -> None:
    """Try what the study suggests until it has all its trials; one process's part."""
    import optuna

    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    torch.set_num_threads(max(1, torch.get_num_threads() // experiment.workers))
    setting = Setting(folder, data_dir, torch.device(device), lambda line: None)
    whole = load_dataset(experiment.dataset, data_dir=data_dir)
    arch = fitting_network(whole)
    study = experiment.study(folder, whole)
    search = split_for_search(whole)
    while _finished(study) < experiment.trials and (parent is None or parent.is_alive()):
        tried = len(study.get_trials(deepcopy=False))
        own = seed_for(experiment.seed, f"worker {number} after {tried} trials") % 2**32
        seed = None if experiment.storage else own  # of several machines each draws its own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.GPSampler(seed=seed)
        study.optimize(lambda trial: experiment.objective(trial, search, whole, arch, setting), n_trials=1)


def split_for_search(dataset: Dataset) -> Dataset:
    """Return the training half alone, a tenth of it held out."""
    assert dataset.train_labels is not None
    order = torch.randperm(len(dataset.train_images), generator=torch.Generator().manual_seed(0))
    kept, held = order[len(order) // 10 :], order[: len(order) // 10]
    images, labels = dataset.train_images, dataset.train_labels
    return Dataset(dataset.name, images[kept], labels[kept], images[held], labels[held])


def _finished(study: optuna.Study) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def signs(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return which share of trials entangles (alpha below 0): of the last quarter, and of the best quarter."""
    quarter = max(1, len(rows) // 4)
    best = sorted(rows, key=lambda row: float(row["validation_accuracy"]))[-quarter:]
    return {
        name: sum(row["alpha"] < 0 for row in some) / quarter
        for name, some in (("entangled_of_last_quarter", rows[-quarter:]), ("entangled_of_best_quarter", best))
    }


def _text(experiment: AlphaSearch, numbers: Mapping[str, Any], study: optuna.Study) -> list[str]:
    best = numbers["best"]
    failed = sum(trial.state.name == "FAIL" for trial in study.trials)
    return [
        f"{experiment.trials} trials of {experiment.steps} steps, {failed} more failed or were broken off. Maximized: "
        "accuracy on a tenth of the training images, held out for it.",
        "",
        f"- The best trial ({best['number']}): alpha {best['alpha']:.3g}, learning rate {best['learning_rate']:.3g}, "
        f"first temperature {best['first_temperature']:.3g} of the mean distance; validation accuracy "
        f"{best['validation_accuracy']:.2%}, test accuracy {best['test_accuracy']:.2%}.",
        f"- The search ends with alpha below 0 (entangled) in {numbers['entangled_of_last_quarter']:.0%} of its last "
        f"quarter; of the best quarter of all trials {numbers['entangled_of_best_quarter']:.0%} have it below 0.",
    ]


AlphaSearch.presets = MappingProxyType(
    {
        "smoke": AlphaSearch(
            dataset="digits", trials=3, steps=3, batch_size=32, largest_alpha=0.3, options=("width=4", "units=16")
        ),
        "cpu": AlphaSearch(
            dataset="mnist-5k", trials=64, steps=300, batch_size=128, largest_alpha=0.3, workers=2,
            options=("width=16",),
        ),
        "paper": AlphaSearch(dataset="cifar10", trials=64, steps=20000, batch_size=256, largest_alpha=1.0, workers=8),
    }
)  # fmt: skip
