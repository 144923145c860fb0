"""Figures 4, 5 and 17: how entangled synthetic and real images are while a GAN trains, whatever it is trained by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from snngan.config import TrainConfig
from snngan.data import Dataset, to_unit_range
from snngan.evaluation.plots import plot_groups, plot_stages
from snngan.evaluation.report import read_metrics
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.running import (
    FIGURES,
    Log,
    last_figures,
    samples_at,
    table_of_figures,
    trained,
    with_features,
)
from snngan.stats import summarize
from snngan.training.divergence import DivergedError
from snngan.training.run_folder import GanRun

CORRELATIONS = {
    "rank correlation in pixels": "entanglement/input_score",
    "rank correlation in features": "metrics/entanglement_features",
}
FOLLOWS = -0.7
"""The rank correlation from which on the score is said to follow FID."""
ALL = ("gan", "minimax", "wgan", "wgan-gp", "lsgan", "hinge", "mmd", "snnl-pixel", "snnl-projected")


@EXPERIMENTS.register("gan-entanglement")
@dataclass(frozen=True, kw_only=True)
class GanEntanglement(Experiment):
    """Trains every objective with several seeds for as many generator steps, at its recommended settings."""

    dataset: str
    objectives: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    every: int
    """Steps between FID readings; entanglement is read twice as often."""
    options: tuple[str, ...] = ()
    """Of the networks, as for ``--set``; left out where an objective's network has no such option."""

    source: ClassVar[str] = "Frosst et al. 2019, figures 4, 5 and 17"
    summary: ClassVar[str] = "Entanglement of real and synthetic images through the training of GANs, beside FID"
    presets: ClassVar[Mapping[str, Experiment]]

    def run(self, setting: Setting) -> Finding:
        dataset = with_features(self.dataset, setting)
        stages = sorted({self.every, self.steps // 4 // self.every * self.every, self.steps} - {0})
        logs: dict[str, list[Log]] = {}
        last: dict[str, GanRun] = {}
        diverged: list[str] = []
        for seed in self.seeds:
            for objective in self.objectives:
                path = setting.folder / "runs" / f"{objective}-seed{seed}"
                try:
                    last[objective] = trained(self._config(objective, seed, setting), dataset, path, setting, stages)
                    logs.setdefault(objective, []).append(read_metrics(last[objective]))
                except DivergedError as error:
                    diverged.append(f"{path.name}: {error}")
                    setting.notify(diverged[-1])
        every = [log for of_seeds in logs.values() for log in of_seeds]
        numbers = {
            objective: last_figures(of_seeds) | _by_step(of_seeds) | rank_correlations(of_seeds)
            for objective, of_seeds in sorted(logs.items(), key=lambda item: _last_fid(item[1]))
        }
        drawn = [tag for tag in (*CORRELATIONS.values(), "metrics/fid") if all(tag in log for log in every)]
        figures = [plot_groups(logs, drawn, setting.folder / "curves.png")]
        figures.append(self._stages(dataset, last, stages, setting.folder / "stages.png"))
        among = {title: _rank_correlation([_pairs(log, tag)[-1] for log in every])
                 for title, tag in CORRELATIONS.items() if tag in drawn}  # fmt: skip
        text = [*table_of_figures("objective", numbers, [*CORRELATIONS]), "", *statement(numbers, among)]
        text += [f"- Diverged and left out: {line}" for line in diverged]
        found = {"objectives": numbers, "correlation_of_last_steps": among, "diverged": diverged}
        return Finding(found, text, figures)

    def _config(self, objective: str, seed: int, setting: Setting) -> TrainConfig:
        return TrainConfig(
            dataset=self.dataset, data_dir=setting.data_dir, objective=objective, seed=seed,
            steps=self.steps, set=() if objective == "snnl-pixel" else self.options, metrics_every=self.every,
            log_every=max(1, self.every // 2), sample_every=self.steps, checkpoint_every=max(1, self.steps // 10),
        )  # fmt: skip

    def _stages(self, dataset: Dataset, runs: Mapping[str, GanRun], stages: Sequence[int], path: Path) -> Path:
        real = to_unit_range(dataset.test_images[torch.randperm(len(dataset.test_images), generator=torch.Generator()
                                                                .manual_seed(0))[:500]])  # fmt: skip
        made = {name: [samples_at(run, step) for step in stages] for name, run in runs.items()}
        return plot_stages(real, made, stages, path)


GanEntanglement.presets = MappingProxyType(
    {
        "smoke": GanEntanglement(
            dataset="digits", objectives=("gan", "snnl-pixel"), seeds=(0, 1), steps=8, every=4, options=("width=16",)
        ),
        "cpu": GanEntanglement(dataset="mnist", objectives=ALL, seeds=(0, 1, 2), steps=1000, every=100),
        "paper": GanEntanglement(dataset="mnist", objectives=ALL, seeds=(0, 1, 2), steps=20000, every=1000),
    }
)


def _by_step(logs: Sequence[Log]) -> dict[str, Any]:
    """Return each figure of each seed by step: ``{"by_step": {title: [{step: value}]}}``."""
    return {
        "by_step": {
            title: [dict(zip(*log[tag], strict=True)) for log in logs if tag in log] for title, tag in FIGURES.items()
        }
    }


def rank_correlations(logs: Sequence[Log]) -> dict[str, Any]:
    """Return mean and interval over the runs of Spearman's correlation of score and FID over the steps of a run."""
    found: dict[str, Any] = {}
    for title, tag in CORRELATIONS.items():
        values = [_rank_correlation(_pairs(log, tag)) for log in logs if tag in log]
        known = [value for value in values if value is not None]
        found[title] = summarize(known) if known else None
    return found


def _pairs(log: Log, tag: str) -> list[tuple[float, float]]:
    """Return score and FID of every step that has both."""
    score = dict(zip(*log[tag], strict=True))
    return [(score[step], fid) for step, fid in zip(*log["metrics/fid"], strict=True) if step in score]


def _last_fid(logs: Sequence[Log]) -> float:
    return sum(log["metrics/fid"][1][-1] for log in logs) / len(logs)


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's correlation, or None where there is none: few pairs, or a side that stays the same."""
    from scipy.stats import spearmanr

    first, second = zip(*pairs, strict=True)
    return float(spearmanr(first, second).statistic) if min(len({*first}), len({*second})) > 2 else None


def statement(numbers: Mapping[str, Any], among: Mapping[str, float | None]) -> list[str]:
    """Say whether entanglement follows FID, in words that the figures decide."""
    lines = ["Does entanglement follow FID? (Spearman's rank correlation; -1: the score rises whenever FID falls.)", ""]
    for title, between in among.items():
        within = [found[title] for found in numbers.values() if found[title]]
        values = [value for statistic in within for value in statistic["values"]]
        if not values or between is None:
            continue
        followed = sum(value <= FOLLOWS for value in values)
        verdict = "follows" if between <= FOLLOWS else "does not follow"
        lines.append(
            f"- {title.capitalize()}: through a run the score follows FID ({FOLLOWS} or lower) in {followed} of "
            f"{len(values)} runs; from run to run, at the last step, it {verdict} it ({between:.2f})."
        )
    return lines
