"""Figure 7: a search over alpha, learning rate and first temperature by batched Gaussian-process bandits."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from snngan.config import ClassifyConfig
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.evaluation.classifier import load_members
from snngan.evaluation.figures import errors_by_alpha
from snngan.evaluation.report import read_metrics
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.pairs import fitting_network
from snngan.experiments.running import trained_classifier
from snngan.training.classifier import figures_of, logits_of
from snngan.training.classifier_plan import check_labels
from snngan.training.loop import DivergedError

if TYPE_CHECKING:
    import optuna

STUDY = "alpha-search"
HEARTBEAT, GRACE = 20, 60
"""Seconds between a worker's signs of life, and after how many without one its trial counts as failed."""


@EXPERIMENTS.register("alpha-search")
@dataclass(frozen=True, kw_only=True)
class AlphaSearch(Experiment):
    """Every worker trains one classifier at a time and asks the study, which they share, what to try next.

    What is maximised is the accuracy on a tenth of the training images that is held out for it; the test half is only
    reported. Alpha is ``largest_alpha`` * u^3 for u in [-1, 1]: both signs alike, and fine near 0.
    """

    dataset: str
    trials: int
    steps: int
    batch_size: int
    largest_alpha: float
    workers: int = 1
    seed: int = 0
    storage: str | None = None
    """An optuna storage, such as ``postgresql://...``, for workers on many machines; default: SQLite in the folder."""
    options: tuple[str, ...] = ()

    source: ClassVar[str] = "Frosst et al. 2019, figure 7"
    summary: ClassVar[str] = "Which alpha a Gaussian-process search settles on, and test accuracy against alpha"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        if _finished(study_of(self, setting.folder)) < self.trials:
            self._work(setting)
        study = study_of(self, setting.folder)
        done = [trial for trial in study.trials if trial.state.name == "COMPLETE"][: self.trials]
        if len(done) < self.trials:
            raise ValueError(
                f"{len(done)} of {self.trials} trials are finished, and no worker is left; the same command goes on"
            )
        rows = [
            {
                "number": trial.number, "alpha": self._alpha(trial.params["u"]), **trial.params,
                "validation_accuracy": trial.value, "test_accuracy": trial.user_attrs["test_accuracy"],
            }
            for trial in done
        ]  # fmt: skip
        best = max(rows, key=lambda row: float(row["validation_accuracy"]))
        numbers = {"trials": rows, "best": best, **signs(rows)}
        alphas, errors = zip(*((float(row["alpha"]), 1 - float(row["test_accuracy"])) for row in rows), strict=True)
        figure = errors_by_alpha(alphas, errors, self.largest_alpha, setting.folder / "alpha.png")
        return Finding(numbers, _text(self, numbers, study), [figure])

    def _work(self, setting: Setting) -> None:
        """Run the workers, or be the only one, until all trials are finished or no worker is left."""
        arguments = (self, setting.folder, setting.data_dir, str(setting.device))
        if self.workers == 1:
            work(*arguments, 0)
            return
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=work, args=(*arguments, number)) for number in range(self.workers)]
        for worker in workers:
            worker.start()
        for number, worker in enumerate(workers):
            worker.join()
            if worker.exitcode:
                setting.notify(f"worker {number} ended with status {worker.exitcode}; its finished trials are kept")

    def _alpha(self, u: float) -> float:
        return self.largest_alpha * u**3

    def objective(self, trial: optuna.Trial, dataset: Dataset, test: Dataset, arch: str, setting: Setting) -> float:
        """Return the validation accuracy of one classifier, and leave its test accuracy with the trial."""
        alpha = self._alpha(trial.suggest_float("u", -1.0, 1.0))
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        first = trial.suggest_float("first_temperature", 0.01, 10.0, log=True)
        config = ClassifyConfig(
            dataset=self.dataset, data_dir=setting.data_dir, arch=arch, set=self.options, alpha=alpha,
            temperature=f"learned:{first!r}", learning_rate=rate, steps=self.steps, batch_size=self.batch_size,
            track_every=self.steps, checkpoint_every=self.steps, seed=trial.number,
        )  # fmt: skip
        run = trained_classifier(config, dataset, setting.folder / "runs" / f"trial-{trial.number:04d}", setting)
        assert test.test_labels is not None
        members, _ = load_members(run, setting.device)
        logits = logits_of(members, test.test_images, setting.device)
        trial.set_user_attr("test_accuracy", float(figures_of(logits, test.test_labels)["accuracy"]))
        return float(read_metrics(run)["accuracy/test"][1][-1])


def work(experiment: AlphaSearch, folder: Path, data_dir: str | None, device: str, number: int) -> None:
    """Try what the study suggests until it has all its trials; one process's part."""
    torch.set_num_threads(max(1, torch.get_num_threads() // experiment.workers))
    setting = Setting(folder, data_dir, torch.device(device), lambda line: None)
    whole = load_dataset(experiment.dataset, data_dir=data_dir)
    check_labels(whole)
    arch = fitting_network(whole)
    study = study_of(experiment, folder, seed=1000 * experiment.seed + number)
    search = split_for_search(whole)
    while _finished(study) < experiment.trials:
        study.optimize(
            lambda trial: experiment.objective(trial, search, whole, arch, setting), n_trials=1, catch=(DivergedError,)
        )


def split_for_search(dataset: Dataset) -> Dataset:
    """Return the training half alone, a tenth of it held out."""
    assert dataset.train_labels is not None
    order = torch.randperm(len(dataset.train_images), generator=torch.Generator().manual_seed(0))
    kept, held = order[len(order) // 10 :], order[: len(order) // 10]
    images, labels = dataset.train_images, dataset.train_labels
    return Dataset(dataset.name, images[kept], labels[kept], images[held], labels[held])


def study_of(experiment: AlphaSearch, folder: Path, seed: int | None = None) -> optuna.Study:
    """Return the study that the workers share, made if there is none yet.

    Raises:
        ValueError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError("alpha-search needs optuna: pip install 'snngan[search]'") from error
    import warnings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = experiment.storage or f"sqlite:///{(folder / 'search.db').absolute()}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        sampler = optuna.samplers.GPSampler(seed=seed)
        return optuna.create_study(
            storage=storage, sampler=sampler, study_name=STUDY, direction="maximize", load_if_exists=True
        )


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
        f"{experiment.trials} trials of {experiment.steps} steps, {failed} more failed or were broken off. Maximised: "
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
