"""Experiments on generators: what they share, and figures 4, 5, 6, 17 and 23."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from snngan.config import TrainConfig, option
from snngan.data import Dataset, to_unit_range
from snngan.data.datasets import data_folder, load_dataset
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.plots import plot_groups, plot_tsne
from snngan.evaluation.training_metrics import NUM_IMAGES, TrainingMetrics
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.experiments.runs import Log, seed_logs, train_to_end
from snngan.experiments.tables import markdown_table
from snngan.files import load_tensors, save_tensors
from snngan.stats import summarize, summarize_correlations
from snngan.training.divergence import DivergedError
from snngan.training.gan import GanTrainer
from snngan.training.resolve import build_architecture, resolve
from snngan.training.run_folder import RunFolder
from snngan.training.sampling import draw_latents, latent_plane, load_generator, sample_images

GanRun = RunFolder[TrainConfig]
STAGE = "stage-{:08d}.safetensors"
"""File of a run's folder with samples of a step."""
METRICS = {
    "FID": "metrics/fid",
    "score in features": "metrics/entanglement_features",
    "score in pixels": "entanglement/input_score",
    "precision": "metrics/precision",
    "recall": "metrics/recall",
    "real anchors": "entanglement/real_anchors",
    "synthetic anchors": "entanglement/fake_anchors",
}
"""Columns of the table of metrics, and their tags."""
FID = METRICS["FID"]
CORRELATIONS = {f"rank correlation in {space}": METRICS[f"score in {space}"] for space in ("pixels", "features")}
"""Names of the correlations between FID and a score, and the tags of the scores."""
FOLLOWS = -0.7
"""A score follows FID if their rank correlation is this or lower."""
ALL = ("gan", "minimax", "wgan", "wgan-gp", "lsgan", "hinge", "mmd", "snnl-pixel", "snnl-projected")
MNIST: dict[str, Any] = {"dataset": "mnist", "seeds": (0, 1, 2), "options": ()}


class GeneratorExperiment(Experiment):
    """An experiment that trains generators with several seeds."""

    dataset: str = option("digits", "data set that the generators are trained on")
    seeds: tuple[int, ...] = option((0,), "seeds; sample grids are those of the first", low=0)
    steps: int = option(6, "number of generator steps", low=1)
    options: tuple[str, ...] = option(("width=16",), "options of objective and networks, as for snngan train --set")

    def load_data(self, context: ExperimentContext) -> Dataset:
        """Return the data set with its feature classifier trained, in whose features metrics are measured then."""
        data = load_dataset(self.dataset, data_dir=context.data_dir, notify=context.notify)
        load_or_train_features(data, data_folder(context.data_dir) / "features", context.device, context.notify)
        return data

    def train(self, name: str, data: Dataset, context: ExperimentContext, seed: int, **options: Any) -> GanRun:
        """Return the finished run ``NAME-seedN``, see :func:`train_to_end`.

        The ``options`` are fields of ``TrainConfig``, and ``stages``: steps whose samples :func:`load_stage` returns.
        """
        name, stages = f"{name}-seed{seed}", options.pop("stages", ())
        options = {"sample_every": self.steps, "checkpoint_every": max(1, self.steps // 10), **options}
        options |= {"dataset": self.dataset, "data_dir": context.data_dir, "seed": seed, "steps": self.steps}

        def make_trainer(config: TrainConfig, checkpoint: dict[str, Any] | None) -> GanTrainer:
            metrics = TrainingMetrics(config, data, data_folder(context.data_dir) / "features", context.device)
            latents = torch.randn(500, 1024, generator=torch.Generator().manual_seed(1))

            def measure(trainer: GanTrainer, number: int) -> dict[str, float]:
                if number in stages:
                    samples = trainer.sample(latents[:, : trainer.latent_dim].to(context.device))
                    save_tensors(context.folder / "runs" / name / STAGE.format(number), {"samples": samples})
                return metrics(trainer, number)

            return GanTrainer(config, data, context.device, checkpoint, measure)

        return train_to_end(name, resolve(TrainConfig(**options), data), context, make_trainer)


def load_stage(run: GanRun, step: int) -> Tensor:
    """Return the samples (500, C, H, W) that were kept at a stage; raises ``ValueError``."""
    return load_tensors(run.path / STAGE.format(step))[0]["samples"]


def last_metrics(logs: Sequence[Log]) -> dict[str, Any]:
    """Return statistics over the logs of each of ``METRICS`` at the last step, if all logs have it."""
    known = {title: tag for title, tag in METRICS.items() if all(tag in log for log in logs)}
    return {title: summarize([log[tag][1][-1] for log in logs]) for title, tag in known.items()}


def metrics_table(title: str, numbers: Mapping[str, Mapping[str, Any]], more: Sequence[str] = ()) -> list[str]:
    """Return the Markdown table of :func:`last_metrics` by name; ``more`` names further statistics in ``numbers``."""
    columns = [each for each in (*METRICS, *more) if any(row.get(each) for row in numbers.values())]
    return [
        "Mean over seeds at the last step (Student's 95 % interval). FID, precision, recall and the first score are "
        "measured in the features of a small classifier, on held-out images and as many samples, at most "
        f"{NUM_IMAGES}. Score: entanglement of real and synthetic images, ideally 1. Anchors: their loss in pixel "
        "space, 0.693 by chance.",
        *markdown_table((title, *columns), ([name, *map(row.get, columns)] for name, row in numbers.items())),
    ]


@EXPERIMENTS.register("pixel-generator")
class PixelGenerator(GeneratorExperiment):
    """Images of a generator that only raises entanglement in pixel space, with no discriminator."""

    source = "Frosst et al. 2019, figure 6"
    cpu = dict(MNIST, forms=("chance-capped", "literal"), steps=2000, batch_size=256)
    paper = dict(MNIST, forms=("chance-capped", "log-odds", "literal"), steps=20000, batch_size=4096)

    forms: tuple[str, ...] = option(("chance-capped",), "forms of the loss")
    batch_size: int = option(32, "real images per step", low=2)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        numbers, plots = {}, []
        grid_side, plane_side = (10, 12) if data.image_shape[0] == 1 else (8, 8)  # grids of color noise are large
        options = {"objective": "snnl-pixel", "batch_size": self.batch_size, "metrics_every": self.steps}
        for form in self.forms:
            settings = (f"form={form}", *self.options)
            runs = [self.train(form, data, context, seed, set=settings, **options) for seed in self.seeds]
            numbers[form] = last_metrics([log for run in runs for log in seed_logs(run)])
            generator, latent_dim = load_generator(runs[0].path), build_architecture(runs[0].config).latent_dim
            for name, latents in (
                ("samples", draw_latents(grid_side**2, latent_dim, 0)),
                ("plane", latent_plane(latent_dim, plane_side, 0)),
            ):
                plots.append(context.folder / f"{form}-{name}.png")
                save_png(draw_images(sample_images(generator, latents)), plots[-1])
        return ExperimentResult(numbers, metrics_table("form", numbers), plots)


@EXPERIMENTS.register("projected-generator")
class ProjectedGenerator(GeneratorExperiment):
    """Samples through the training of snnl-projected, beside the classic GAN at the same rates."""

    source = "Frosst et al. 2019, figure 23"
    cpu = dict(MNIST, forms=("log-odds", "literal"), steps=1500, stages=(100, 500, 1000, 1500))
    paper = dict(MNIST, forms=("log-odds", "literal"), steps=20000, stages=(1000, 5000, 10000, 20000))

    forms: tuple[str, ...] = option(("log-odds",), "forms of the loss")
    stages: tuple[int, ...] = option((3, 6), "steps at which samples are shown")

    def check(self) -> None:
        if not all(0 < stage <= self.steps for stage in self.stages):
            raise ValueError(f"stages must be steps from 1 to {self.steps}, got {self.stages}")

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        numbers, plots = {}, []
        num_shown = 64 if data.image_shape[0] == 1 else 36  # grids of color noise are large
        every = math.gcd(*self.stages, self.steps)
        shared = {"stages": self.stages, "learning_rate": 8e-4, "metrics_every": every}
        objectives = {form: ("snnl-projected", (f"form={form}",)) for form in self.forms} | {"gan": ("gan", ())}
        for title, (objective, settings) in objectives.items():
            settings = ("discriminator_learning_rate=0.0002", *settings, *self.options)
            options = {"objective": objective, "set": settings, **shared}
            runs = [self.train(title, data, context, seed, **options) for seed in self.seeds]
            numbers[title] = last_metrics([log for run in runs for log in seed_logs(run)])
            for step in self.stages:
                plots.append(context.folder / f"{title}-{step:06d}.png")
                save_png(draw_images(load_stage(runs[0], step)[:num_shown]), plots[-1])
        return ExperimentResult(numbers, metrics_table("objective, all at the same rates", numbers), plots)


@EXPERIMENTS.register("gan-entanglement")
class GanEntanglement(GeneratorExperiment):
    """Entanglement of real and synthetic images through the training of GANs, beside FID."""

    source = "Frosst et al. 2019, figures 4, 5 and 17"
    smoke = {"seeds": (0, 1), "steps": 8}
    cpu = dict(MNIST, objectives=ALL, steps=1000, metrics_every=100)
    paper = dict(MNIST, objectives=ALL, steps=20000, metrics_every=1000)

    objectives: tuple[str, ...] = option(("gan", "snnl-pixel"), "objectives to compare")
    metrics_every: int = option(4, "steps between two FIDs; entanglement is measured twice as often", low=1)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = self.load_data(context)
        every = self.metrics_every
        stages = sorted({every, self.steps // 4 // every * every, self.steps} - {0})
        logs: dict[str, list[Log]] = {}
        samples: dict[str, list[Tensor]] = {}
        diverged: list[str] = []
        for seed in self.seeds:
            for objective in self.objectives:
                options: dict[str, Any] = {"objective": objective, "stages": stages, "metrics_every": every}
                options |= {"log_every": max(1, every // 2), "set": self.options if objective != "snnl-pixel" else ()}
                try:
                    run = self.train(objective, data, context, seed, **options)
                except DivergedError as error:
                    diverged.append(f"{objective}-seed{seed}: {error}")
                    context.notify(diverged[-1])
                else:
                    logs.setdefault(objective, []).extend(seed_logs(run))
                    samples[objective] = [load_stage(run, step) for step in stages]
        all_logs = [log for each in logs.values() for log in each]
        numbers = {}
        for name, each in sorted(logs.items(), key=lambda item: mean(log[FID][1][-1] for log in item[1])):
            known = {title: [log[tag] for log in each if tag in log] for title, tag in METRICS.items()}
            by_step = {title: [dict(zip(*curve, strict=True)) for curve in curves] for title, curves in known.items()}
            numbers[name] = {**last_metrics(each), "by_step": by_step, **rank_correlations(each)}
        tags = [tag for tag in (*CORRELATIONS.values(), FID) if all(tag in log for log in all_logs)]
        across_runs = {
            title: _rank_correlation([_scores_with_fid(log, tag)[-1] for log in all_logs])
            for title, tag in CORRELATIONS.items()
            if tag in tags
        }
        order = torch.randperm(len(data.test_images), generator=torch.Generator().manual_seed(0))
        real = to_unit_range(data.test_images[order[:500]])
        panels = {
            f"{name}, step {step}": (real, images)
            for name, of_steps in samples.items()
            for step, images in zip(stages, of_steps, strict=True)
        }
        title, path = "t-SNE of real (blue) and synthetic (red) images", context.folder / "stages.png"
        plots = [
            plot_groups(logs, tags, context.folder / "curves.png"),
            plot_tsne(panels, len(stages), title, path, size=2.0),
        ]
        text = [*metrics_table("objective", numbers, [*CORRELATIONS]), "", *describe_correlations(numbers, across_runs)]
        text += [f"- Diverged and left out: {line}" for line in diverged]
        found = {"objectives": numbers, "correlation_of_last_steps": across_runs, "diverged": diverged}
        return ExperimentResult(found, text, plots)


def rank_correlations(logs: Sequence[Log]) -> dict[str, Any]:
    """Return statistics over the runs of Spearman's correlation between score and FID over the steps of a run."""
    found: dict[str, Any] = {}
    for title, tag in CORRELATIONS.items():
        values = [_rank_correlation(_scores_with_fid(log, tag)) for log in logs if tag in log]
        known = [value for value in values if value is not None]
        found[title] = summarize_correlations(known) if known else None
    return found


def _scores_with_fid(log: Log, tag: str) -> list[tuple[float, float]]:
    """Return score and FID at every step that has both."""
    score = dict(zip(*log[tag], strict=True))
    return [(score[step], fid) for step, fid in zip(*log[FID], strict=True) if step in score]


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's correlation, or None where it is undefined: fewer than three distinct values."""
    from scipy.stats import spearmanr

    first, second = zip(*pairs, strict=True)
    return float(spearmanr(first, second).statistic) if min(len({*first}), len({*second})) > 2 else None


def describe_correlations(numbers: Mapping[str, Any], across_runs: Mapping[str, float | None]) -> list[str]:
    """Return lines that say whether entanglement follows FID."""
    lines = ["Does entanglement follow FID? (Spearman's rank correlation; -1: the score rises whenever FID falls.)", ""]
    for title, between in across_runs.items():
        values = [value for each in numbers.values() if each[title] for value in each[title]["values"]]
        if values and between is not None:
            num_following = sum(value <= FOLLOWS for value in values)
            verdict = "follows" if between <= FOLLOWS else "does not follow"
            lines.append(
                f"- {title.capitalize()}: within a run the score follows FID ({FOLLOWS} or lower) in {num_following} "
                f"of {len(values)} runs; across runs, at the last step, it {verdict} it ({between:.2f})."
            )
    return lines
