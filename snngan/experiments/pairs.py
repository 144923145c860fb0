"""What experiments on classifiers share; and baseline beside entangled ones, with the same seeds and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from snngan.config import ClassifyConfig
from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.evaluation.classifier import load_members
from snngan.evaluation.report import read_metrics
from snngan.experiments import Setting, count
from snngan.experiments.running import Log, shown, trained_classifier
from snngan.models import CLASSIFIERS
from snngan.stats import summarize
from snngan.training.plan import option_names
from snngan.training.run_folder import ClassifierRun


def fitting_network(dataset: Dataset) -> str:
    """Return the paper's network for a data set: cnn for gray images, resnet15 for colored ones."""
    return "cnn" if dataset.image_shape[0] == 1 else "resnet15"


@dataclass(frozen=True, kw_only=True)
class Classifiers:
    """The size of an experiment that trains classifiers with seeds 0 to ``seeds - 1``."""

    dataset: str
    seeds: int = count()
    steps: int = count()
    batch_size: int = count()
    learning_rate: float
    every: int = count()
    """Steps between readings."""
    arch: str | None = None
    """Default: the paper's for the kind of images."""
    optimizer: str = "adam"
    learning_rate_final: float | None = None
    options: tuple[str, ...] = ()
    """Of the network, as for ``--set``; left out where it has no such option."""

    def data(self, setting: Setting) -> Dataset:
        """Return the data set that the networks are trained on."""
        return load_dataset(self.dataset, data_dir=setting.data_dir, notify=setting.notify)

    def config(self, arch: str, setting: Setting, **chosen: Any) -> ClassifyConfig:
        """Return the run of this size of a network, ``self.arch`` before ``arch``, with what else is ``chosen``."""
        arch = self.arch or arch
        known = option_names(CLASSIFIERS[arch])
        return ClassifyConfig(
            dataset=self.dataset, data_dir=setting.data_dir, arch=arch, seeds=f"0:{self.seeds}",
            set=tuple(option for option in self.options if option.partition("=")[0] in known),
            steps=self.steps, batch_size=self.batch_size, optimizer=self.optimizer, learning_rate=self.learning_rate,
            learning_rate_final=self.learning_rate_final, log_every=self.every,
            checkpoint_every=max(1, self.steps // 10), **chosen,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pair(Classifiers):
    """What the experiments on a baseline and an entangled classifier have in common."""

    alpha: float
    temperature: str = "optimal"

    @property
    def sides(self) -> dict[str, dict[str, Any]]:
        """What is chosen for each side's run, by its name."""
        return {name: {"alpha": alpha, "temperature": self.temperature}
                for name, alpha in (("baseline", 0.0), ("entangled", self.alpha))}  # fmt: skip

    def runs(self, dataset: Dataset, setting: Setting) -> dict[str, ClassifierRun]:
        """Return the finished run of each side."""
        runs = {}
        for name, chosen in self.sides.items():
            config = self.config(fitting_network(dataset), setting, **chosen)
            runs[name] = trained_classifier(config, dataset, setting.folder / "runs" / name, setting)
        return runs

    def trained(self, setting: Setting) -> tuple[str, dict[str, list[Log]]]:
        """Return the network's name, and the logs of each side, one a seed."""
        runs = self.runs(self.data(setting), setting)
        return runs["baseline"].plan.arch, {name: logs_of_seeds(run) for name, run in runs.items()}

    def networks(self, dataset: Dataset, setting: Setting) -> tuple[dict[str, list[nn.Module]], tuple[str, ...]]:
        """Return the trained networks of each side, one a seed, and the names of their hidden layers."""
        runs = self.runs(dataset, setting)
        networks = {
            name: [network.to(setting.device).eval() for network in load_members(run, setting.device)[0].networks()]
            for name, run in runs.items()
        }
        return networks, runs["baseline"].plan.layers


def logs_of_seeds(run: ClassifierRun) -> list[Log]:
    """Return the metrics of each seed of a run under the tags of a single one."""
    log, seeds = read_metrics(run), run.plan.seeds
    if len(seeds) == 1:
        return [log]
    return [
        {tag.removeprefix(f"seed-{seed}/"): values for tag, values in log.items() if tag.startswith(f"seed-{seed}/")}
        for seed in seeds
    ]


def last_of(tag: str) -> Callable[[Log], float]:
    """Return what takes the last value of a tag from a log."""
    return lambda log: log[tag][1][-1]


def compared(
    logs: Mapping[str, Sequence[Log]], take: Callable[[Log], float], best: Callable[..., float] = max
) -> dict[str, Any]:
    """Return :func:`compared_values` of what ``take`` finds in both sides' logs."""
    return compared_values({side: [take(log) for log in each] for side, each in logs.items()}, best)


def compared_values(values: Mapping[str, Sequence[float]], best: Callable[..., float] = max) -> dict[str, Any]:
    """Return statistics of two sides' values, one a seed, of the second less the first, and a p-value.

    The p-value is that of a paired t-test; None for a single seed, and where all differences are equal.
    """
    from scipy.stats import ttest_rel

    first, second = values.values()
    differences = [after - before for before, after in zip(first, second, strict=True)]
    tested = len({*differences}) > 1
    return {
        **{side: summarize(each, best) for side, each in values.items()},
        "difference": summarize(differences, best),
        "p_value": float(ttest_rel(second, first).pvalue) if tested else None,
    }


def table_of_pairs(rows: Mapping[str, Mapping[str, Any]], digits: int = 4) -> list[str]:
    """Return the Markdown table of :func:`compared` by name, of the same two sides in each row."""
    first, second = [side for side in next(iter(rows.values())) if side not in ("difference", "p_value")]
    lines = [
        f"| | {first}: mean, best | {second}: mean, best | difference | p |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        sides = [f"{shown(row[side], digits)}, {row[side]['best']:.{digits}g}" for side in (first, second)]
        p_value = "" if row["p_value"] is None else f"{row['p_value']:.2g}"
        lines.append(f"| {name} | {sides[0]} | {sides[1]} | {shown(row['difference'], digits)} | {p_value} |")
    return lines
