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
from snngan.evaluation.figures import curves_of_groups, embedded_stages
from snngan.evaluation.report import read_metrics
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting
from snngan.experiments.running import Log, mean_interval, samples_at, shown, trained, with_features
from snngan.training.runlog import RunFolder

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
        dataset = with_features(setting.dataset or self.dataset, setting)
        stages = [step for step in (self.every, self.steps // 4 // self.every * self.every, self.steps) if step]
        logs: dict[str, list[Log]] = {}
        last: dict[str, RunFolder] = {}
        for seed in self.seeds:
            for objective in self.objectives:
                path = setting.folder / "runs" / f"{objective}-seed{seed}"
                last[objective] = trained(self._config(objective, seed, setting), dataset, path, setting, stages)
                logs.setdefault(objective, []).append(read_metrics(last[objective]))
        numbers = {objective: _statistics(of_seeds) for objective, of_seeds in logs.items()}
        correlation = _correlation(logs)
        tags = ("entanglement/input_score", "features/fid")
        figures = [curves_of_groups(logs, tags, setting.folder / "curves.png")]
        figures.append(self._stages(dataset, last, stages, setting.folder / "stages.png"))
        return Finding({"objectives": numbers, "correlation": correlation}, _text(numbers, correlation), figures)

    def _config(self, objective: str, seed: int, setting: Setting) -> TrainConfig:
        return TrainConfig(
            dataset=setting.dataset or self.dataset, data_dir=setting.data_dir, objective=objective, seed=seed,
            steps=self.steps, set=() if objective == "snnl-pixel" else self.options, evaluate_every=self.every,
            track_every=max(1, self.every // 2), sample_every=self.steps, checkpoint_every=self.steps,
        )  # fmt: skip

    def _stages(self, dataset: Dataset, runs: Mapping[str, RunFolder], stages: Sequence[int], path: Path) -> Path:
        real = to_unit_range(dataset.test_images[torch.randperm(len(dataset.test_images), generator=torch.Generator()
                                                                .manual_seed(0))[:500]])  # fmt: skip
        made = {name: [samples_at(run, step) for step in stages] for name, run in runs.items()}
        return embedded_stages(real, made, stages, path)


GanEntanglement.presets = MappingProxyType(
    {
        "smoke": GanEntanglement(
            dataset="digits", objectives=("gan", "snnl-pixel"), seeds=(0, 1), steps=8, every=4, options=("width=16",)
        ),
        "cpu": GanEntanglement(dataset="mnist", objectives=ALL, seeds=(0, 1, 2), steps=1000, every=100),
        "paper": GanEntanglement(dataset="mnist", objectives=ALL, seeds=(0, 1, 2), steps=20000, every=1000),
    }
)


def _statistics(logs: Sequence[Log]) -> dict[str, Any]:
    """Return mean and interval over seeds, at the last step and by step."""
    found: dict[str, Any] = {}
    for tag in ("features/fid", "features/precision", "features/recall", "entanglement/input_score",
                "entanglement/real_anchors", "entanglement/fake_anchors"):  # fmt: skip
        found[tag] = mean_interval([log[tag][1][-1] for log in logs])
        found[tag]["by_step"] = {"steps": logs[0][tag][0], "values": [log[tag][1] for log in logs]}
    return found


def _correlation(logs: Mapping[str, Sequence[Log]]) -> dict[str, Any]:
    """Return Spearman's rank correlation of entanglement score and FID: within runs, and over last steps."""
    within: dict[str, list[float]] = {}
    ends: list[tuple[float, float]] = []
    for objective, of_seeds in logs.items():
        for log in of_seeds:
            score = dict(zip(*log["entanglement/input_score"], strict=True))
            pairs = [(score[step], fid) for step, fid in zip(*log["features/fid"], strict=True) if step in score]
            correlation = _rank_correlation(pairs)
            if correlation is not None:
                within.setdefault(objective, []).append(correlation)
            ends.append(pairs[-1])
    means = {name: mean_interval(values) for name, values in within.items()}
    return {"within_runs": means, "last_steps": _rank_correlation(ends)}


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's correlation, or None where there is none: few pairs, or a side that stays the same."""
    from scipy.stats import spearmanr

    first, second = zip(*pairs, strict=True)
    return float(spearmanr(first, second).statistic) if min(len({*first}), len({*second})) > 2 else None


def _text(numbers: Mapping[str, Any], correlation: Mapping[str, Any]) -> list[str]:
    names = ("features/fid", "entanglement/input_score", "features/precision", "features/recall")
    lines = [
        "Mean over seeds at the last step (Student's 95 % interval). FID, precision and recall in the features of a "
        "small classifier, 1000 held-out images against 1000 samples; the score in pixel space. Rank correlation: "
        "Spearman's, of score and FID over the steps of a run (-1: entanglement rises as FID falls).",
        "",
        "| objective | FID | entanglement score | precision | recall | rank correlation |",
        "|---|---|---|---|---|---|",
    ]
    for objective, found in sorted(numbers.items(), key=lambda item: float(item[1]["features/fid"]["mean"])):
        within = correlation["within_runs"].get(objective)
        cells = [shown(found[name]) for name in names] + [shown(within, 2) if within else ""]
        lines.append(f"| {objective} | {' | '.join(cells)} |")
    if correlation["last_steps"] is not None:
        lines += ["", f"Over the last steps of all runs the rank correlation is {correlation['last_steps']:.2f}."]
    return lines
