"""Objectives side by side: one generator, equal CPU time, and the best learning rate of each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from snngan.config import TrainConfig, option
from snngan.data import Dataset, to_unit_range
from snngan.data.datasets import data_folder
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.feature_classifier import ClassifierFeatures, load_or_train_features
from snngan.evaluation.measure import evaluate_sources
from snngan.evaluation.plots import plot_against_fid
from snngan.evaluation.sources import open_source
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.generators import GanRun, GeneratorExperiment
from snngan.experiments.runs import Log, seed_logs
from snngan.experiments.tables import markdown_table
from snngan.files import read_json, write_atomically
from snngan.objectives import OBJECTIVES, AdversarialOptions
from snngan.stats import summarize, summarize_shares
from snngan.training.divergence import DivergedError
from snngan.training.gan import GanTrainer
from snngan.training.resolve import resolve
from snngan.training.sampling import class_rows, draw_labels, draw_latents, load_generator, sample_images

PENALIZED = ("r1=1", "r2=1", "spectral_norm=false", "discriminator_norm=none")
ROWS: dict[str, tuple[str, ...]] = {
    "gan": ("gan",),
    "hinge": ("hinge",),
    "wgan-gp": ("wgan-gp",),
    "rpgan": ("rpgan",),
    "mmd": ("mmd",),
    "snnl-projected": ("snnl-projected",),
    "snnl-projected-r1-r2": ("snnl-projected", *PENALIZED),
    "snnl-pixels": ("snnl-features", "features=pixels"),
    "snnl-features": ("snnl-features",),
    "drifting-pixels": ("drifting", "features=pixels"),
    "drifting-features": ("drifting",),
}
"""Rows of the table, by name: the objective and its settings. All have the generator of ``snnl-features``."""
COLUMNS = {
    "FID": "fid",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "class_accuracy",
    "score in features": "entanglement_features",
    "nearest": "nearest_features",
    "copies": "copies_features",
}
"""Columns of the table, and the metrics they show."""
READINGS = {
    "score in pixels": "entanglement/input_score",
    "real anchors in pixels": "entanglement/real_anchors",
    "synthetic anchors in pixels": "entanglement/fake_anchors",
    "score in features": "metrics/entanglement_features",
    "real anchors in features": "metrics/entanglement_features_real_anchors",
    "synthetic anchors in features": "metrics/entanglement_features_fake_anchors",
    "FID so far": "metrics/fid",
    "generator's loss": "loss/generator",
    "discriminator's loss": "loss/discriminator",
}
"""What may tell during training how good a run will be, and their tags."""
EARLY = (0.3, 1.0)
"""Shares of the training after which they are read."""
PLOTTED = ("generator's loss", "score in pixels", "synthetic anchors in features", "FID so far")
"""Those that a plot shows against the final FID."""
SHARES = ("precision", "recall", "class_accuracy", "copies_features", "entanglement_features")
NUM_SAMPLES, NUM_COPIES = 5000, 1000
"""Samples that are compared with the held-out images, and of these with all training images."""
TIMED = 40
"""Steps by whose time the number of steps is chosen."""
TUNING_SEED = 1000
MEASURED = "measured.json"
"""What a run's folder keeps of its metrics, so that an experiment that is continued need not compute them again."""
BOOTSTRAP = 1000
"""Resamples of the runs behind an interval."""


@EXPERIMENTS.register("one-step-generators")
class OneStepGenerators(GeneratorExperiment):
    """Objectives compared with the same generator and CPU time, each at its best learning rate."""

    source = "our comparison"
    smoke = {"rows": ("gan", "snnl-pixels"), "rates": (1e-3,), "options": ("width=16", "arch=mlp")}
    cpu = {
        "dataset": "mnist", "seeds": (0, 1, 2), "seconds": 480.0, "rates": (2e-4, 1e-3, 4e-3), "conditional": True,
        "rows": tuple(ROWS), "options": ("arch=mlp", "smoothing=true", "learning_rate_decay=linear"),
    }  # fmt: skip
    paper = cpu

    seconds: float = option(0.0, "CPU seconds of one thread for each run; 0: train for `steps` instead", low=0)
    rates: tuple[float, ...] = option(
        (1e-3,), "learning rates, of which a quarter of the time on a part of the training images chooses one", low=0
    )
    conditional: bool = option(False, "generate images of given classes")
    rows: tuple[str, ...] = option(("gan", "snnl-pixels"), "rows of the table")
    curve: int = option(10, "times that FID and entanglement are measured in a run", low=1)

    def check(self) -> None:
        for name in self.rows:
            if name not in ROWS:
                raise ValueError(f"rows must be of {', '.join(ROWS)}, got {name!r}")

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        features = load_or_train_features(data, data_folder(context.data_dir) / "features", context.device)
        part = validation_split(data)
        rows: dict[str, Any] = {}
        ends: dict[str, list[tuple[Log, float]]] = {}
        plots, diverged = [], []
        for name in self.rows:
            tuned = {rate: self._fid_or_none(name, rate, part, features, context) for rate in self.rates}
            known = {rate: fid for rate, fid in tuned.items() if fid is not None}
            if not known:
                diverged.append(name)
                continue
            rate = min(known, key=lambda each: known[each])
            measured = []
            for seed in self.seeds:
                try:
                    run = self._train(name, rate, data, context, seed, self.seconds)
                except DivergedError as error:
                    diverged.append(f"{name}, seed {seed}: {error}")
                    continue
                measured.append(self._measure(run, data, features))
                ends.setdefault(name, []).extend((log, measured[-1]["fid"]) for log in seed_logs(run))
                if seed == self.seeds[0]:
                    plots.append(self._draw(run, name, context))
            if not measured:
                continue
            rows[name] = {"learning_rate": rate, "tuning": {str(each): fid for each, fid in tuned.items()}}
            rows[name] |= {"steps": [each["steps"] for each in measured], **_summarize(measured)}
        rows = dict(sorted(rows.items(), key=lambda item: item[1]["FID"]["mean"]))
        predictions = predict_fid([end for of_row in ends.values() for end in of_row])
        if predictions:
            plots.append(_plot_readings(ends, context.folder / "readings.png"))
        numbers = {"rows": rows, "predictions": predictions, "diverged": diverged}
        return ExperimentResult(numbers, self._describe(rows, predictions, diverged), plots)

    def _options(self, name: str, rate: float) -> dict[str, Any]:
        """Return the fields of the config that differ between rows."""
        objective, *settings = ROWS[name]
        has_discriminator = issubclass(OBJECTIVES[objective].Options, AdversarialOptions)
        return {
            "objective": objective,
            "learning_rate": rate,
            "discriminator_learning_rate": rate / 4 if has_discriminator else None,
            "conditional": self.conditional,
            "set": (*self.options, *settings),
        }

    def _train(
        self, name: str, rate: float, data: Dataset, context: ExperimentContext, seed: int, seconds: float
    ) -> GanRun:
        """Return the finished run of a row; a run that has begun keeps its number of steps."""
        options = self._options(name, rate)
        title = f"{name}-rate{rate:g}"
        file = context.folder / "runs" / f"{title}-seed{seed}" / "config.json"
        if file.exists():
            steps = read_json(file)["config"]["steps"]
        else:
            config = TrainConfig(dataset=self.dataset, data_dir=context.data_dir, seed=seed, **options)
            steps = steps_in(seconds, config, data, context.device) if seconds else self.steps
        every = max(1, steps // self.curve)
        options |= {"metrics_every": 0 if seed == TUNING_SEED else every, "log_every": every}
        options |= {"checkpoint_every": max(1, steps // 4)}
        return replace(self, steps=steps).train(title, data, context, seed, **options)

    def _fid_or_none(
        self, name: str, rate: float, part: Dataset, features: ClassifierFeatures, context: ExperimentContext
    ) -> float | None:
        """Return the FID that a learning rate reaches on the validation split in a quarter of the time."""
        if len(self.rates) == 1:
            return 0.0
        try:
            run = self._train(name, rate, part, context, TUNING_SEED, self.seconds / 4)
        except DivergedError:
            return None
        file = run.path / MEASURED
        if not file.exists():
            sides = open_source(run.path, seed=1), open_source(part.test_images)
            found = evaluate_sources(*sides, features, metrics=("fid",), count=NUM_SAMPLES).metrics
            write_atomically(file, json.dumps(found).encode())
        return float(read_json(file)["fid"])

    def _measure(self, run: GanRun, data: Dataset, features: ClassifierFeatures) -> dict[str, Any]:
        """Return the metrics of a run's samples on the held-out images of ``data``, which its folder keeps."""
        file = run.path / MEASURED
        if file.exists():
            found: dict[str, Any] = read_json(file)
            return found
        real = replace(open_source(data.test_images), training=data.train_images)
        fake = open_source(run.path, seed=1)
        names = {("fid", "prdc", "entanglement"): NUM_SAMPLES, ("copying",): NUM_COPIES}
        metrics: dict[str, Any] = {}
        for chosen, count in names.items():
            metrics |= evaluate_sources(fake, real, features, metrics=chosen, count=count).metrics
        if (labels := draw_labels(NUM_SAMPLES, run.config.class_counts, seed=1)) is not None:
            chunks = torch.split(fake.first(NUM_SAMPLES), 500)
            with torch.no_grad():
                guesses = torch.cat([features.network(to_unit_range(chunk)).argmax(1) for chunk in chunks])
            metrics["class_accuracy"] = float((guesses == labels).float().mean())
        metrics["steps"] = run.config.steps
        write_atomically(file, json.dumps(metrics, indent=1).encode())
        return metrics

    def _draw(self, run: GanRun, name: str, context: ExperimentContext) -> Any:
        generator: Any = load_generator(run.path)
        labels = class_rows(run.config.num_classes, 10) if run.config.conditional else None
        count = 100 if labels is None else len(labels)
        path = context.folder / f"{name}.png"
        samples = sample_images(generator, draw_latents(count, generator.latent_dim, 1), labels)
        save_png(draw_images(samples, columns=10), path)
        return path

    def _describe(
        self, rows: Mapping[str, Mapping[str, Any]], predictions: Mapping[str, Any], diverged: Sequence[str]
    ) -> list[str]:
        columns = [title for title in COLUMNS if any(title in row for row in rows.values())]
        cells = []
        for name, row in rows.items():
            steps = f"{min(row['steps'])} to {max(row['steps'])}"
            cells.append([name, f"{row['learning_rate']:g}", steps, *map(row.get, columns)])
        budget = f"{self.seconds:g} CPU seconds" if self.seconds else f"{self.steps} steps"
        return [
            f"{budget} for each run, of one thread; {len(self.seeds)} seeds, 95 % intervals of the mean (Student's, of "
            f"shares after the arcsine of their root). {NUM_SAMPLES} samples and the held-out images, in the features "
            "of a small classifier, in which nothing is trained. Accuracy: samples found to be of the class that was "
            "asked for. Score: entanglement, ideally 1. Nearest: distance to training images over that of held-out "
            "ones; copies: share nearer than 95 % of these.",
            *markdown_table(("objective", "learning rate", "steps", *columns), cells),
            *(f"- Diverged: {line}" for line in diverged),
            "",
            "What tells early how good a run will be? Spearman's correlation, over all runs, of a reading after a part "
            "of the steps with the last FID (95 % bootstrap interval).",
            *markdown_table(
                ("reading", *(f"after {share:.0%}" for share in EARLY)),
                ([title, *(found.get(str(share)) for share in EARLY)] for title, found in predictions.items()),
            ),
        ]


def validation_split(data: Dataset) -> Dataset:
    """Return the training images of ``data``, a tenth of them, at most 5000, as the held-out ones."""
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(0))
    rest, held_out = order[: -(size := max(2, min(len(order) // 10, NUM_SAMPLES)))], order[-size:]
    labels = data.train_labels
    return replace(
        data,
        train_images=data.train_images[rest],
        train_labels=None if labels is None else labels[rest],
        test_images=data.train_images[held_out],
        test_labels=None if labels is None else labels[held_out],
    )


def predict_fid(ends: Sequence[tuple[Log, float]]) -> dict[str, Any]:
    """Return the rank correlation of each of ``READINGS`` with the final FID, by share of the steps, over runs.

    Args:
        ends: the logs of each run, and its FID at the end. A reading that fewer than four of them have is left out.
    """
    from scipy.stats import spearmanr

    found: dict[str, Any] = {}
    for title, tag in READINGS.items():
        known = [(log, fid) for log, fid in ends if tag in log]
        for share in EARLY:
            values, fids = [read_at(log, tag, share) for log, _ in known], [fid for _, fid in known]
            if len({*values}) < 4:
                continue
            draws = torch.randint(len(values), (BOOTSTRAP, len(values)), generator=torch.Generator().manual_seed(0))
            again = [
                spearmanr([values[row] for row in rows], [fids[row] for row in rows]).statistic
                for rows in draws.tolist()
                if len({values[row] for row in rows}) > 1
            ]
            low, high = torch.tensor(again, dtype=torch.float64).nanquantile(torch.tensor([0.025, 0.975]).double())
            mean = float(spearmanr(values, fids).statistic)
            found.setdefault(title, {})[str(share)] = {"mean": mean, "interval": [float(low), float(high)]}
    return found


def read_at(log: Log, tag: str, share: float) -> float:
    """Return the value that a run had logged after a share of its steps."""
    values = log[tag][1]
    return values[round(share * (len(values) - 1))]


def _plot_readings(ends: Mapping[str, Sequence[tuple[Log, float]]], path: Path) -> Path:
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for title in PLOTTED:
        for name, of_row in ends.items():
            known = [(read_at(log, READINGS[title], EARLY[0]), fid) for log, fid in of_row if READINGS[title] in log]
            if known:
                values, fids = zip(*known, strict=True)
                panels.setdefault(f"{title} after {EARLY[0]:.0%}", {})[name] = [*values], [*fids]
    return plot_against_fid(panels, path)


def steps_in(seconds: float, config: TrainConfig, dataset: Dataset, device: torch.device) -> int:
    """Return how many steps take ``seconds`` of CPU time, with what precedes the first one, on one thread."""
    started = time.process_time()
    trainer = GanTrainer(resolve(config, dataset), dataset, device)
    trainer.prepare()
    for number in range(1, 6):
        trainer.step(number)
    prepared = time.process_time()
    for number in range(6, 6 + TIMED):
        trainer.step(number)
    each = (time.process_time() - prepared) / TIMED
    return max(1, round((seconds - (prepared - started)) / each))


def _summarize(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return statistics over seeds of each of ``COLUMNS``."""
    known = {title: name for title, name in COLUMNS.items() if all(name in each for each in measured)}
    return {
        title: (summarize_shares if name in SHARES else summarize)([each[name] for each in measured])
        for title, name in known.items()
    }
