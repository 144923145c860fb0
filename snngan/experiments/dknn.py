"""Figures 9, 12, 14 and 18 to 21: DkNN's credibility under attacks and for images of other data sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import option
from snngan.data import DATASETS, Dataset
from snngan.data.datasets import data_folder
from snngan.evaluation.attack_evaluation import DkNNEvaluator, Prediction, make_adversarial, select_queries
from snngan.evaluation.plots import plot_credibility_by_accuracy, plot_tsne
from snngan.evaluation.sources import open_source
from snngan.experiments import EXPERIMENTS, ExperimentContext, ExperimentResult
from snngan.experiments.classifiers import CPU, PAPER, BaselineComparison
from snngan.experiments.runs import load_labeled
from snngan.experiments.tables import as_text, compare_paired, markdown_table, paired_table, record, summarize_all
from snngan.registry import unknown_name
from snngan.robustness.attacks import Attack

Curves = dict[str, list[float]]
"""Metrics of one network by name, one value per strength of the attack."""
FGSM, BIM, SAME_LOSS = "FGSM, white box", "BIM, white box", "BIM from the same loss"
CROSS_ENTROPY = "BIM from cross-entropy"
STRENGTHS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
ATTACKS = {"alpha": -0.02, "triplet_alpha": -0.3, "epsilons": STRENGTHS, "step_size": 0.01}
OUTLIERS = ("notmnist", "fashion-mnist", "kmnist")


@EXPERIMENTS.register("dknn-calibration")
class DknnCalibration(BaselineComparison):
    """DkNN's credibility against its accuracy under attacks, with and without entanglement.

    Attack each variant's networks directly, by examples of the next seed's network, and by those of a baseline; attack
    baselines also by examples from the networks of the other variants (figure 20).
    """

    source = "Frosst et al. 2019, figures 9, 14 and 18 to 20"
    cpu = dict(CPU, **ATTACKS, attack_steps=40, num_images=500, num_train_images=20000)
    paper = dict(PAPER, **ATTACKS, attack_steps=1000, num_images=5000, num_train_images=60000)

    seeds: int = option(2, "number of seeds", low=2)
    regularizer: tuple[str, ...] = option(("snnl", "triplet"), "layer losses compared with the baseline")
    triplet_alpha: float = option(-0.1, "weight of the triplet loss")
    margin: float = option(0.5, "margin of the triplet loss, whose distance is the cosine distance", low=0)
    epsilons: tuple[float, ...] = option((0.1, 0.3), "strengths of the attacks, for pixels in [0, 1]")
    attack_steps: int = option(2, "steps of BIM", low=1)
    step_size: float = option(0.2, "step size of BIM at every strength, for pixels in [0, 1]")
    num_images: int = option(40, "most test images attacked", low=1)
    num_train_images: int = option(200, "most training images among which DkNN searches neighbors", low=75)

    def check(self) -> None:
        _ = self.variants, self._attacks("bim")

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        known = super().variants
        triplet = {"alpha": self.triplet_alpha, "regularizer": f"triplet:{self.margin:g}", "distance": "cosine"}
        others = {"snnl": ("entangled", known["entangled"]), "triplet": ("triplet", triplet)}
        for name in self.regularizer:
            if name not in others:
                raise unknown_name("regularizer", name, others)
        return {"baseline": known["baseline"], **dict(others[name] for name in self.regularizer)}

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        networks, layers = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)

        def attack(network: nn.Module, name: str) -> list[Tensor]:
            return [make_adversarial(network, each, images, labels, context.device) for each in self._attacks(name)]

        context.notify(f"attacks on {len(networks)} networks")
        bim = {key: attack(network, "bim") for key, network in networks.items()}
        curves: dict[str, dict[str, list[Curves]]] = defaultdict(lambda: defaultdict(list))
        for (variant, seed), network in networks.items():
            other = (seed + 1) % self.seeds
            attacks = {FGSM: attack(network, "fgsm"), BIM: bim[variant, seed], SAME_LOSS: bim[variant, other]}
            if variant == "baseline":
                attacks |= {f"BIM from {name}": bim[name, other] for name in self.variants if name != variant}
            else:
                attacks[CROSS_ENTROPY] = bim["baseline", other]
            context.notify(f"{variant}, seed {seed}: neighbors among {self.num_train_images} training images")
            dknn = DkNNEvaluator(network, layers, data, context.device, num_train_images=self.num_train_images)
            plain = dknn(images).metrics(labels)
            for title, examples in attacks.items():
                rows = [plain, *(dknn(each).metrics(labels) for each in examples)]
                curves[title][variant].append({name: [row[name] for row in rows] for name in plain})
            del dknn  # before the next one takes as much memory
        # examples from a baseline are examples from cross-entropy
        curves[CROSS_ENTROPY] = {"baseline": curves[SAME_LOSS]["baseline"], **curves[CROSS_ENTROPY]}
        middle = (len(self.epsilons) + 1) // 2
        attacked: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        panels: dict[str, dict[str, list[Any]]] = defaultdict(dict)
        table = []
        for title in dict.fromkeys((FGSM, BIM, SAME_LOSS, CROSS_ENTROPY, *curves)):
            baseline = curves[title]["baseline"]
            for variant, by_seed in curves[title].items():
                keys = ("accuracy", "dknn_accuracy", "credibility")
                means = [f"{mean(each[key][middle] for each in by_seed):.3f}" for key in keys]
                row = {each.__name__: compare_with_baseline(baseline, by_seed, each) for each in (correlation, gap)}
                attacked[title][variant] = {"by_seed": by_seed, **row}
                panels[title][variant] = [(each["dknn_accuracy"], each["credibility"]) for each in by_seed]
                table.append([title, variant, *means, *(_format(each, variant) for each in row.values())])
        num_train_images = min(self.num_train_images, len(data.train_images))
        header = ("attack", "on", f"network's accuracy at {self.epsilons[middle - 1]:g}", "DkNN's", "credibility")
        text = [
            f"{self.seeds} seeds, {len(images)} test images, neighbors among {num_train_images} training images; "
            f"strengths {', '.join(f'{epsilon:g}' for epsilon in self.epsilons)} and none; BIM: {self.attack_steps} "
            f"steps of {self.step_size:g}. Correlation: Pearson's, between DkNN's accuracy and mean credibility over "
            "the strengths; gap: the mean distance between the two, 0 where credibility equals accuracy. Mean over "
            "seeds (Student's 95 % interval); in brackets the difference from the baseline, seed by seed, and the "
            "p-value of a paired t-test. For the baseline, examples from the same loss and from cross-entropy are the "
            "same.",
            *markdown_table((*header, "correlation", "gap"), table),
        ]
        plot = plot_credibility_by_accuracy(panels, context.folder / "credibility.png")
        sizes = {"num_images": len(images), "num_train_images": num_train_images}
        return ExperimentResult({"epsilons": [0.0, *self.epsilons], **sizes, "attacks": attacked}, text, [plot])

    def _attacks(self, name: str) -> list[Attack]:
        steps = () if name == "fgsm" else (self.attack_steps, self.step_size)
        return [Attack(name, epsilon, *steps) for epsilon in self.epsilons]


def correlation(curves: Curves) -> float | None:
    """Return Pearson's correlation of accuracy and credibility, or None where one of them is constant."""
    pairs = torch.tensor([curves["dknn_accuracy"], curves["credibility"]], dtype=torch.float64)
    return None if bool((pairs.amax(1) == pairs.amin(1)).any()) else float(torch.corrcoef(pairs)[0, 1])


def gap(curves: Curves) -> float:
    """Return the mean distance between accuracy and credibility."""
    pairs = zip(curves["dknn_accuracy"], curves["credibility"], strict=True)
    return mean(abs(accuracy - credibility) for accuracy, credibility in pairs)


def compare_with_baseline(
    baseline: Sequence[Curves], curves: Sequence[Curves], measure: Callable[[Curves], float | None]
) -> dict[str, Any] | None:
    """Return statistics of a measure and of its difference from the baseline; None where a seed has no value."""
    values: dict[str, list[Any]] = {"baseline": [*map(measure, baseline)], "variant": [*map(measure, curves)]}
    if None in values["baseline"] + values["variant"]:
        return None
    paired = compare_paired(values, min)
    return {**paired["variant"], "difference": paired["difference"], "p_value": paired["p_value"]}


def _format(row: Mapping[str, Any] | None, variant: str) -> str:
    if row is None or variant == "baseline":
        return as_text(row)
    p_value = "" if row["p_value"] is None else f", p {row['p_value']:.2g}"
    return f"{as_text(row)} [{as_text(row['difference'], 2)}{p_value}]"


@EXPERIMENTS.register("outliers")
class Outliers(BaselineComparison):
    """Telling images of other data sets by DkNN's credibility, with and without entanglement."""

    source = "Frosst et al. 2019, figures 12 and 21"
    cpu = dict(CPU, outliers=OUTLIERS, alpha=-0.02, num_images=2000, num_drawn=500, num_train_images=20000)
    paper = dict(PAPER, outliers=OUTLIERS, alpha=-0.02, num_images=9250, num_drawn=1000, num_train_images=60000)

    outliers: tuple[str, ...] = option(("mnist-5k",), "data sets of outliers, or of files NAME.npz in the data folder")
    num_images: int = option(60, "most test images, and most outliers of each data set", low=1)
    num_drawn: int = option(30, "number of images of each kind in the plot", low=1)
    num_train_images: int = option(200, "most training images among which DkNN searches neighbors", low=75)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data = load_labeled(self.dataset, context)
        outliers = {name: outlier_images(name, data, self.num_images, context) for name in self.outliers}
        networks, layers = self.train_networks(data, context)
        images, labels = select_queries(data, self.num_images)
        areas: dict[str, Any] = {}
        accuracies: dict[str, Any] = {}
        panels: dict[str, tuple[Tensor, Tensor]] = {}
        for (variant, seed), network in networks.items():
            context.notify(f"{variant}, seed {seed}: neighbors among {self.num_train_images} training images")
            dknn = DkNNEvaluator(network, layers, data, context.device, num_train_images=self.num_train_images)
            known = dknn(images)
            record(accuracies, variant, value=known.metrics(labels)["accuracy"])
            for name, others in outliers.items():
                found = dknn(others)
                for (score, high), low in zip(_scores(known).items(), _scores(found).values(), strict=True):
                    record(areas, f"{name}, {score}", variant, value=area_under_roc(high, low))
                if seed == 0:
                    panels[f"{variant}, {name}"] = known.logits[: self.num_drawn], found.logits[: self.num_drawn]
            del dknn  # before the next one takes as much memory
        rows = {name: compare_paired(values) for name, values in areas.items()}
        numbers = {"auroc": rows, "accuracy": summarize_all(accuracies)}
        accuracy = ", ".join(f"{name} {as_text(value, 4)}" for name, value in numbers["accuracy"].items())
        text = [
            f"{self.seeds} seeds, {len(images)} test images, "
            + ", ".join(f"{len(others)} of {name}" for name, others in outliers.items())
            + f"; neighbors among {min(self.num_train_images, len(data.train_images))} training images; test accuracy: "
            f"{accuracy}. AUROC of telling test images from outliers: 1 is always, 0.5 is chance.",
            *paired_table(rows, 3),
        ]
        title = "t-SNE of logits, seed 0: test images blue, outliers red"
        plot = plot_tsne(panels, len(outliers), title, context.folder / "logits.png", size=2.8)
        return ExperimentResult(numbers, text, [plot])


def _scores(prediction: Prediction) -> dict[str, Tensor]:
    """Return scores that should be high for test images and low for outliers; the second needs no DkNN."""
    probability = prediction.logits.softmax(1).amax(1)
    return {"credibility": prediction.dknn.credibility, "highest probability": probability}


def outlier_images(name: str, data: Dataset, count: int, context: ExperimentContext) -> Tensor:
    """Return the first ``count`` test images (N, C, H, W) of another source, resized to those of ``data``.

    Raises:
        ValueError: the source is missing, or its images have other channels or are smaller.
    """
    path = data_folder(context.data_dir) / f"{name}.npz"
    _, height, width = data.image_shape
    images = open_source(
        str(path) if name not in DATASETS.names() and path.exists() else name,
        data_dir=context.data_dir,
        image_size=height if height == width else None,
        notify=context.notify,
    ).first(count)
    if images.shape[1:] != data.image_shape or images.dtype != data.test_images.dtype:
        expected, given = ("x".join(map(str, shape)) for shape in (data.image_shape, images.shape[1:]))
        raise ValueError(f"images of {name} must be {expected} like those of {data.name}, got {given}")
    return images


def area_under_roc(known: Tensor, outliers: Tensor) -> float:
    """Return the area under the ROC curve of telling scores (N,) of known images from lower ones (M,) of outliers."""
    from sklearn.metrics import roc_auc_score

    is_known = torch.cat([torch.ones(len(known)), torch.zeros(len(outliers))])
    return float(roc_auc_score(is_known.numpy(), torch.cat([known, outliers]).double().numpy()))
