"""Figures 9, 14, 18, 19 and 20: credibility against accuracy under attacks of growing strength."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.evaluation.credibility import Judge, adversarial, queries_of
from snngan.evaluation.figures import credibility_by_accuracy
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair
from snngan.experiments.running import shown
from snngan.intervals import summary
from snngan.registry import unknown_name
from snngan.robustness.rule import Attack

Points = dict[str, list[float]]
"""Figures of one network, one a strength of the attack, by name."""
FGSM, BIM, ALIKE, PLAIN = "FGSM, white box", "BIM, white box", "BIM from the same loss", "BIM from cross-entropy"


@EXPERIMENTS.register("dknn-calibration")
@dataclass(frozen=True, kw_only=True)
class DknnCalibration(Pair, Experiment):
    """Each side's networks are attacked themselves, by examples of the next seed's, and by those of a baseline's.

    Baselines are also attacked from the networks of the other sides (figure 20).
    """

    source: ClassVar[str] = "Frosst et al. 2019, figures 9, 14 and 18 to 20"
    summary: ClassVar[str] = "DkNN's credibility against its accuracy under attacks, with and without entanglement"
    presets: ClassVar[Mapping[str, Experiment]]

    seeds: int = option(2, "", low=2)
    regularizer: tuple[str, ...] = ("snnl", "triplet")
    """Which sides there are beside the baseline."""
    triplet_alpha: float
    margin: float = 0.5
    """Of the triplet loss, whose distance is the cosine's: others would only grow."""
    epsilons: tuple[float, ...]
    """Strengths of the attacks, of pixels in [0, 1], beside the images as they are."""
    attack_steps: int = count()
    step_size: float = 0.01
    """Of BIM, whatever its strength."""
    num_images: int = count()
    """Images attacked."""
    points: int = count()
    """Training images that DkNN looks among."""

    def __post_init__(self) -> None:
        assert self.sides
        assert all(self._attacks("bim"))

    @property
    def sides(self) -> dict[str, dict[str, Any]]:
        known = super().sides
        triplet = {"alpha": self.triplet_alpha, "regularizer": f"triplet:{self.margin:g}", "distance": "cosine"}
        others = {"snnl": ("entangled", known["entangled"]), "triplet": ("triplet", triplet)}
        for name in self.regularizer:
            if name not in others:
                raise unknown_name("regularizer", name, others)
        return {"baseline": known["baseline"], **dict(others[name] for name in self.regularizer)}

    def run(self, setting: Setting) -> Finding:
        dataset, networks, layers = self.networks(setting)
        images, labels = queries_of(dataset, self.num_images)

        def made(network: nn.Module, name: str) -> list[Tensor]:
            attacks = (None, *self._attacks(name))
            return [adversarial(network, attack, images, labels, setting.device) for attack in attacks]

        setting.notify(f"attacks on {sum(map(len, networks.values()))} networks")
        transfers = {side: [made(network, "bim") for network in each] for side, each in networks.items()}
        found: dict[str, dict[str, list[Points]]] = {}
        for side, each in networks.items():
            for seed, network in enumerate(each):
                other = (seed + 1) % self.seeds
                shows = {FGSM: made(network, "fgsm"), BIM: transfers[side][seed], ALIKE: transfers[side][other]}
                shows[PLAIN] = transfers["baseline"][other]
                if side == "baseline":
                    shows |= {f"BIM from {name}": each[other] for name, each in transfers.items() if name != side}
                setting.notify(f"{side}, seed {seed}: the nearest of {self.points} training images")
                judge = Judge(network, layers, dataset, setting.device, points=self.points)
                for title, shown_images in shows.items():
                    points = self._judged(judge, shown_images, labels)
                    found.setdefault(title, {}).setdefault(side, []).append(points)
                del judge
        return self._finding(found, setting)

    def _attacks(self, name: str) -> list[Attack]:
        """Return the attack of each strength; FGSM takes one step, of all of it."""
        return [Attack(name, epsilon, self.attack_steps, self.step_size) for epsilon in self.epsilons]

    def _judged(self, judge: Judge, shown_images: Sequence[Tensor], labels: Tensor) -> Points:
        """Return the figures of images of each strength."""
        rows = [judge(images).figures(labels) for images in shown_images]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _finding(self, found: Mapping[str, Mapping[str, list[Points]]], setting: Setting) -> Finding:
        numbers: dict[str, Any] = {"epsilons": [0.0, *self.epsilons]}
        text = [
            f"{self.seeds} seeds, {self.num_images} test images, {self.points} training images vouch; strengths "
            f"{', '.join(f'{epsilon:g}' for epsilon in self.epsilons)} and none; BIM: {self.attack_steps} steps of "
            f"{self.step_size:g}. Correlation: Pearson's, of DkNN's accuracy and mean credibility over the strengths; "
            "gap: the mean distance of the two, 0 where each is what the other says. Mean over seeds (Student's 95 % "
            "interval).",
            "", "| attack | on | correlation | gap | accuracy, plain | DkNN's, plain | credibility, plain |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        panels: dict[str, dict[str, Any]] = {}
        for title, sides in found.items():
            panels[title] = {name: [(each["dknn_accuracy"], each["credibility"]) for each in points]
                             for name, points in sides.items()}  # fmt: skip
            numbers[title] = {}
            for name, points in sides.items():
                correlations = [correlation(each["dknn_accuracy"], each["credibility"]) for each in points]
                known = [value for value in correlations if value is not None]
                numbers[title][name] = {
                    "correlation": summary(known) if known else None,
                    "gap": summary([gap(each["dknn_accuracy"], each["credibility"]) for each in points], min),
                    "by_seed": points,
                }
                row = numbers[title][name]
                plain = [f"{statistics.mean(each[key][0] for each in points):.3f}"
                         for key in ("accuracy", "dknn_accuracy", "credibility")]  # fmt: skip
                corr = shown(row["correlation"]) if row["correlation"] else ""
                text.append(f"| {title} | {name} | {corr} | {shown(row['gap'])} | {' | '.join(plain)} |")
        return Finding(numbers, text, [credibility_by_accuracy(panels, setting.folder / "credibility.png")])


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Pearson's correlation, or None where one of them does not vary."""
    pairs = torch.tensor([list(first), list(second)], dtype=torch.float64)
    if bool((pairs.amax(1) == pairs.amin(1)).any()):
        return None
    return float(torch.corrcoef(pairs)[0, 1])


def gap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the mean distance of two sequences, place by place."""
    return statistics.mean(abs(own - other) for own, other in zip(first, second, strict=True))


STRENGTHS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)

DknnCalibration.presets = MappingProxyType(
    {
        "smoke": DknnCalibration(
            dataset="digits", alpha=-0.1, triplet_alpha=-0.1, seeds=2, steps=6, batch_size=32, learning_rate=1e-3,
            every=6, options=("width=4", "units=16"), epsilons=(0.1, 0.3), attack_steps=2, step_size=0.2, num_images=40,
            points=200,
        ),
        "cpu": DknnCalibration(
            dataset="mnist", alpha=-0.02, triplet_alpha=-0.3, seeds=4, steps=1000, batch_size=256, learning_rate=1e-3,
            every=250, options=("width=16", "units=128"), epsilons=STRENGTHS, attack_steps=40, num_images=500,
            points=20000,
        ),
        "paper": DknnCalibration(
            dataset="mnist", alpha=-0.02, triplet_alpha=-0.3, seeds=4, steps=14000, batch_size=256, learning_rate=1e-4,
            every=1000, epsilons=STRENGTHS, attack_steps=1000, num_images=5000, points=60000,
        ),
    }
)  # fmt: skip
