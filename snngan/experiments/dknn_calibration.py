"""Figures 9, 14, 18, 19 and 20: credibility against accuracy under attacks of growing strength."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.evaluation.attack_evaluation import Judge, adversarial, queries_of
from snngan.evaluation.plots import plot_credibility_by_accuracy
from snngan.experiments import EXPERIMENTS, Experiment, Finding, Setting, count
from snngan.experiments.pairs import Pair, compared_values
from snngan.experiments.running import shown
from snngan.registry import unknown_name
from snngan.robustness.attack_rule import Attack

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
    margin: float = option(0.5, "", low=0)
    """Of the triplet loss, whose distance is the cosine's: others would only grow."""
    epsilons: tuple[float, ...]
    """Strengths of the attacks, of pixels in [0, 1], beside the images as they are."""
    attack_steps: int = count()
    step_size: float = 0.01
    """Of BIM, whatever its strength."""
    num_images: int = count()
    """Images attacked, at most."""
    points: int = option(MISSING, "", low=75)
    """Training images that DkNN looks among, at most."""

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
        dataset = self.data(setting)
        networks, layers = self.networks(dataset, setting)
        images, labels = queries_of(dataset, self.num_images)

        def made(network: nn.Module, name: str) -> list[Tensor]:
            return [adversarial(network, attack, images, labels, setting.device) for attack in self._attacks(name)]

        setting.notify(f"attacks on {sum(map(len, networks.values()))} networks")
        transfers = {side: [made(network, "bim") for network in each] for side, each in networks.items()}
        found: dict[str, dict[str, list[Points]]] = {}
        for side, each in networks.items():
            for seed, network in enumerate(each):
                other = (seed + 1) % self.seeds
                shows = {FGSM: made(network, "fgsm"), BIM: transfers[side][seed], ALIKE: transfers[side][other]}
                if side == "baseline":
                    shows |= {f"BIM from {name}": each[other] for name, each in transfers.items() if name != side}
                else:
                    shows[PLAIN] = transfers["baseline"][other]
                setting.notify(f"{side}, seed {seed}: the nearest of {self.points} training images")
                judge = Judge(network, layers, dataset, setting.device, points=self.points)
                plain = judge(images).figures(labels)
                for title, attacked in shows.items():
                    rows = [plain, *(judge(moved).figures(labels) for moved in attacked)]
                    points = {name: [row[name] for row in rows] for name in plain}
                    found.setdefault(title, {}).setdefault(side, []).append(points)
                del judge
        found[PLAIN] = {"baseline": found[ALIKE]["baseline"], **found.get(PLAIN, {})}  # for it the two are one
        return self.finding(found, len(images), min(self.points, len(dataset.train_images)), setting)

    def _attacks(self, name: str) -> list[Attack]:
        path = () if name == "fgsm" else (self.attack_steps, self.step_size)
        return [Attack(name, epsilon, *path) for epsilon in self.epsilons]

    def finding(
        self, found: Mapping[str, Mapping[str, list[Points]]], num_images: int, num_points: int, setting: Setting
    ) -> Finding:
        """Return what the figures of each attack on each side come to."""
        middle = (len(self.epsilons) + 1) // 2
        text = [
            f"{self.seeds} seeds, {num_images} test images, {num_points} training images vouch; strengths "
            f"{', '.join(f'{epsilon:g}' for epsilon in self.epsilons)} and none; BIM: {self.attack_steps} steps of "
            f"{self.step_size:g}. Correlation: Pearson's, of DkNN's accuracy and mean credibility over the strengths; "
            "gap: the mean distance of the two, 0 where each is what the other says. Mean over seeds (Student's 95 % "
            "interval); in brackets the difference from the baseline, seed by seed, and the p-value of a paired "
            "t-test. For the baseline, examples from the same loss and from cross-entropy are the same.",
            "", f"| attack | on | network's accuracy at {self.epsilons[middle - 1]:g} | DkNN's | credibility | "
            "correlation | gap |", "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        attacks: dict[str, dict[str, dict[str, Any]]] = {}
        for title in (FGSM, BIM, ALIKE, PLAIN, *(each for each in found if each not in (FGSM, BIM, ALIKE, PLAIN))):
            baseline = found[title]["baseline"]
            for name, points in found[title].items():
                row: dict[str, Any] = {"by_seed": points}
                cells = [f"{statistics.mean(each[key][middle] for each in points):.3f}"
                         for key in ("accuracy", "dknn_accuracy", "credibility")]  # fmt: skip
                for figure, take in FIGURES.items():
                    row[figure] = beside(baseline, points, take)
                    cells.append(cell(row[figure], brackets=name != "baseline"))
                attacks.setdefault(title, {})[name] = row
                text.append(f"| {title} | {name} | {' | '.join(cells)} |")
        panels = {title: {name: [(each["dknn_accuracy"], each["credibility"]) for each in row["by_seed"]]
                          for name, row in sides.items()} for title, sides in attacks.items()}  # fmt: skip
        numbers = {
            "epsilons": [0.0, *self.epsilons],
            "num_images": num_images,
            "points": num_points,
            "attacks": attacks,
        }
        return Finding(numbers, text, [plot_credibility_by_accuracy(panels, setting.folder / "credibility.png")])


def correlation(points: Points) -> float | None:
    """Return Pearson's correlation of accuracy and credibility, or None where one of them does not vary."""
    pairs = torch.tensor([points["dknn_accuracy"], points["credibility"]], dtype=torch.float64)
    if bool((pairs.amax(1) == pairs.amin(1)).any()):
        return None
    return float(torch.corrcoef(pairs)[0, 1])


def gap(points: Points) -> float:
    """Return the mean distance of accuracy and credibility."""
    pairs = zip(points["dknn_accuracy"], points["credibility"], strict=True)
    return statistics.mean(abs(accuracy - credibility) for accuracy, credibility in pairs)


FIGURES: Mapping[str, Callable[[Points], float | None]] = MappingProxyType({"correlation": correlation, "gap": gap})


def beside(
    baseline: list[Points], points: list[Points], take: Callable[[Points], float | None]
) -> dict[str, Any] | None:
    """Return statistics of a figure, of its difference from the baseline seed by seed, and the p-value of that."""
    before, after = ([value for each in side if (value := take(each)) is not None] for side in (baseline, points))
    if len(before) < len(baseline) or len(after) < len(points):
        return None
    paired = compared_values({"baseline": before, "entangled": after}, min)
    return {**paired["entangled"], "difference": paired["difference"], "p_value": paired["p_value"]}


def cell(row: Mapping[str, Any] | None, *, brackets: bool) -> str:
    """Return what the table says of :func:`beside`; nothing where there is nothing."""
    if row is None:
        return ""
    p_value = "" if row["p_value"] is None else f", p {row['p_value']:.2g}"
    return shown(row) + (f" [{shown(row['difference'], 2)}{p_value}]" if brackets else "")


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
