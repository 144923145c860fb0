"""Figures 4, 5 and 17: how entangled synthetic and real images are while a GAN trains, for many objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from snngan.config import option
from snngan.data import to_unit_range
from snngan.evaluation.plots import plot_groups, plot_stages
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.generators import METRICS, MNIST, GeneratorExperiment, last_metrics, metrics_table
from snngan.experiments.runs import Log, load_stage, seed_logs
from snngan.experiments.tables import last_value
from snngan.stats import summarize
from snngan.training.divergence import DivergedError

FID = "metrics/fid"
CORRELATIONS = {
    "rank correlation in pixels": "entanglement/input_score",
    "rank correlation in features": "metrics/entanglement_features",
}
"""Names of the correlations between FID and a score, and the tags of the scores."""
FOLLOWS = -0.7
"""A score follows FID if their rank correlation is this or lower."""
ALL = ("gan", "minimax", "wgan", "wgan-gp", "lsgan", "hinge", "mmd", "snnl-pixel", "snnl-projected")


@EXPERIMENTS.register("gan-entanglement")
class GanEntanglement(GeneratorExperiment):
    """Train every objective for the same number of generator steps, with its recommended settings."""

    source = "Frosst et al. 2019, figures 4, 5 and 17"
    summary = "Entanglement of real and synthetic images through the training of GANs, beside FID"

    objectives: tuple[str, ...] = option(("gan", "snnl-pixel"), "objectives to compare")
    metrics_every: int = option(4, "steps between two FIDs; entanglement is measured twice as often", low=1)

    presets = {
        "smoke": {"seeds": (0, 1), "steps": 8},
        "cpu": {**MNIST, "objectives": ALL, "steps": 1000, "metrics_every": 100},
        "paper": {**MNIST, "objectives": ALL, "steps": 20000, "metrics_every": 1000},
    }

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
        numbers = {
            name: {**last_metrics(each), "by_step": _metrics_by_step(each), **rank_correlations(each)}
            for name, each in sorted(logs.items(), key=lambda item: mean(map(last_value(FID), item[1])))
        }
        tags = [tag for tag in (*CORRELATIONS.values(), FID) if all(tag in log for log in all_logs)]
        across_runs = {
            title: _rank_correlation([_scores_with_fid(log, tag)[-1] for log in all_logs])
            for title, tag in CORRELATIONS.items()
            if tag in tags
        }
        order = torch.randperm(len(data.test_images), generator=torch.Generator().manual_seed(0))
        real = to_unit_range(data.test_images[order[:500]])
        plots = [
            plot_groups(logs, tags, context.folder / "curves.png"),
            plot_stages(real, samples, stages, context.folder / "stages.png"),
        ]
        text = [*metrics_table("objective", numbers, [*CORRELATIONS]), "", *describe_correlations(numbers, across_runs)]
        text += [f"- Diverged and left out: {line}" for line in diverged]
        found = {"objectives": numbers, "correlation_of_last_steps": across_runs, "diverged": diverged}
        return ExperimentResult(found, text, plots)


def _metrics_by_step(logs: Sequence[Log]) -> dict[str, list[dict[int, float]]]:
    return {title: [dict(zip(*log[tag], strict=True)) for log in logs if tag in log] for title, tag in METRICS.items()}


def rank_correlations(logs: Sequence[Log]) -> dict[str, Any]:
    """Return statistics over the runs of Spearman's correlation between score and FID over the steps of a run."""
    found: dict[str, Any] = {}
    for title, tag in CORRELATIONS.items():
        values = [_rank_correlation(_scores_with_fid(log, tag)) for log in logs if tag in log]
        known = [value for value in values if value is not None]
        found[title] = summarize(known) if known else None
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
