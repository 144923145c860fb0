"""Experiments on autoencoders: what they share, pt-snnl's plot of codes, and classes found without labels."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.config import option
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.evaluation.clusters import cluster_accuracy, confusion_matrix, k_means, match_clusters, spectral_clusters
from snngan.evaluation.plots import draw_scatter, new_figure, plot_scatter_panels, save_figure, tsne
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.experiments.points import normalized_loss
from snngan.experiments.runs import compute_once, held_out_subset, load_labeled
from snngan.experiments.tables import markdown_table, record, summarize_all
from snngan.losses.entangled import EntangledLoss
from snngan.losses.temperature import parse_temperature
from snngan.models.autoencoder import Autoencoder
from snngan.seeds import seed_for
from snngan.selfsupervised import cluster
from snngan.training.divergence import DivergedError

CHUNK = 1000
"""Held-out images encoded at a time."""
NUM_DRAWN = 1000
"""Held-out images whose codes are plotted, and whose entanglement is measured."""
CODE = "encoder.code"
VARIANTS = {
    "baseline": [],
    "SNNL of the code": [CODE],
    "SNNL of half the code": [CODE],
    "SNNL of all encoder layers": ["encoder.fc?", CODE],
}
"""Layers whose loss is added; for half the code, the loss of its first units."""
CPU: dict[str, Any] = {"dataset": "mnist", "seeds": 4, "steps": 600, "batch_size": 256, "code_size": 32}
CPU |= {"widths": "500-500-2000"}
NUM_BLOBS, BLOB_SIZE = 10, 100
"""Number of blobs, and of points in each."""
PUBLISHED = 0.986
"""Accuracy of the blog post's one run."""


class AutoencoderExperiment(Experiment):
    """An experiment that trains autoencoders."""

    dataset: str = option("digits", "data set that the autoencoders are trained on")
    steps: int = option(4, "number of optimizer steps", low=1)
    batch_size: int = option(32, "images per step", low=1)
    learning_rate: float = option(1e-3, "learning rate of Adam", low=1e-9, high=1)
    code_size: int = option(4, "length of the code", low=2)
    widths: str = option("16-16-32", "units of the encoder's hidden layers; the decoder has them in reverse order")
    alpha: float = option(0.1, "weight of the loss beside the mean squared error of pixels", low=1e-9, high=1e6)
    temperature: str = option("optimal", "temperature rule of the loss")

    def check(self) -> None:
        parse_temperature(self.temperature)
        if not all(part.isdigit() and int(part) for part in self.widths.split("-")):
            raise ValueError(f"widths must be positive integers such as 500-500-2000, got {self.widths!r}")

    def codes(self, variant: str, seed: int, data: Dataset, context: ExperimentContext) -> tuple[Tensor, float]:
        """Return the codes (N, code_size) of the held-out images, and the mean squared error of reconstructions."""
        path = context.folder / "codes" / f"{variant.replace(' ', '-')}-{seed}.safetensors"
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(AutoencoderExperiment)}
        settings["data"] = data.labeled_digest()
        found = compute_once(path, settings, lambda: self._train(variant, seed, data, context))
        return found["codes"], float(found["errors"].mean())

    def _train(self, variant: str, seed: int, data: Dataset, context: ExperimentContext) -> dict[str, Tensor]:
        context.notify(f"{variant.replace(' ', '-')}-{seed}: {self.steps} steps")
        device = context.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "weights"))
            network = Autoencoder(data.image_shape, self.code_size, [int(part) for part in self.widths.split("-")])
        network.to(device)
        layers, alpha = (VARIANTS[variant], self.alpha) if VARIANTS[variant] else ([CODE], 0.0)
        units = self.code_size // 2 if "half" in variant else None
        rule = parse_temperature(self.temperature)
        criterion = EntangledLoss(network, layers, alpha, rule, units=units, task=lambda *each: F.mse_loss(*each[:2]))
        batches = Batches(data.train_images, self.batch_size, seed=seed, device=device, labels=data.train_labels)
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        for step in range(1, self.steps + 1):
            images, labels = batches.next_images_and_labels()
            optimizer.zero_grad()
            loss = criterion(images, labels)
            loss.backward()
            optimizer.step()
            if (step % 50 == 0 or step == self.steps) and not bool(loss.isfinite()):
                raise DivergedError(f"step {step}: the autoencoder's loss is {loss.item()}: lower learning_rate")
        codes, errors = [], []
        with torch.no_grad():
            for chunk in torch.split(data.test_images, CHUNK):
                images = to_unit_range(chunk.to(device))
                codes.append(network.encoder(images))
                errors.append((network.decoder(codes[-1]) - images).square().flatten(1).mean(1))
        return {"codes": torch.cat(codes), "errors": torch.cat(errors)}


@EXPERIMENTS.register("latent-code")
class LatentCode(AutoencoderExperiment):
    """An autoencoder's latent code with the loss and without: pictures, and k-means' accuracy."""

    source = "pt-snnl, figure of its README"
    cpu = CPU
    paper = dict(CPU, steps=7000)

    seeds: int = option(2, "number of seeds", low=1)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        from sklearn.decomposition import PCA

        data = load_labeled(self.dataset, context)
        assert data.test_labels is not None
        subset, labels = held_out_subset(data, NUM_DRAWN)
        values: dict[str, Any] = {}
        drawn: dict[str, Tensor] = {}
        for variant in VARIANTS:
            for seed in range(self.seeds):
                codes, error = self.codes(variant, seed, data, context)
                accuracy = cluster_accuracy(data.test_labels, k_means(codes, data.num_classes), data.num_classes)
                record(values, variant, "k-means accuracy", value=accuracy)
                record(values, variant, "squared error", value=error)
                record(values, variant, "entanglement", value=normalized_loss(codes[subset], labels))
                if seed == 0:
                    drawn[variant] = codes[subset]
        numbers, header = summarize_all(values), ("", "k-means accuracy", "squared error", "entanglement of the code")
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, a code of {self.code_size} "
            "values. Accuracy of k-means (10 starts), which uses no labels, on held-out images' codes, under the best "
            "matching of clusters and classes. Squared error of reconstructions, with pixels in [-1, 1]. Entanglement: "
            f"the loss of the whole code at its optimal T, divided by that at an infinite T, for {len(subset)} "
            "held-out images. Mean over seeds (Student's 95 % interval).",
            *markdown_table(header, ([variant, *row.values()] for variant, row in numbers.items())),
        ]
        panels = {
            f"{name}: {title}": (torch.as_tensor(embed(drawn[name])), labels)
            for title, embed in (("pca", PCA(2).fit_transform), ("tsne", tsne))
            for name in ("baseline", "SNNL of the code")
        }
        return ExperimentResult(numbers, text, [plot_scatter_panels(panels, 2, context.folder / "codes.png")])


@EXPERIMENTS.register("self-supervised-blobs")
class SelfSupervisedBlobs(AutoencoderExperiment):
    """Classes without labels: the min-max objective against k-means and spectral clustering."""

    source = 'the blog post "Min-Max Loss, Self Supervised Classification"'
    cpu = dict(CPU, sets=50, spreads=(0.3, 1.0), restarts=5, cluster_steps=300, num_codes=5000)
    paper = dict(cpu, steps=7000)

    sets: int = option(1, "number of random sets of blobs", low=1)
    spreads: tuple[float, ...] = option(
        (0.3,), "standard deviations of a blob, for centers in a square of side 20", low=0.001
    )
    restarts: int = option(2, "number of starts, of which the one with the lowest loss is kept", low=1)
    cluster_steps: int = option(10, "optimizer steps of each start", low=1)
    seeds: int = option(1, "number of runs on the digits and on the codes, and of autoencoders", low=1)
    num_codes: int = option(200, "most held-out images whose codes are clustered", low=200)

    def run(self, context: ExperimentContext) -> ExperimentResult:
        data, digits = load_labeled(self.dataset, context), load_labeled("digits", context)
        accuracies: dict[str, Any] = {}
        plots = []
        for spread in self.spreads:
            rows = accuracies[f"standard deviation {spread:g}"] = {}
            for seed in range(self.sets):
                points, labels, best_accuracy = sample_blobs(spread, seed)
                record(rows, "nearest true center", value=best_accuracy)
                clusters = self._compare(points, labels, NUM_BLOBS, seed, context, rows)
                if seed == 0:
                    plots.append(plot_clusters(points, labels, clusters, context.folder / f"blobs-{spread:g}.png"))
            context.notify(f"{self.sets} sets of standard deviation {spread:g}")
        assert digits.train_labels is not None
        assert digits.test_labels is not None
        pixels = torch.cat([digits.train_images, digits.test_images]).flatten(1).float()
        labels = torch.cat([digits.train_labels, digits.test_labels])
        rows = accuracies[f"digits, {len(pixels)} images, pixels"] = {}
        for seed in range(self.seeds):
            self._compare(pixels, labels, digits.num_classes, seed, context, rows)
        subset, labels = held_out_subset(data, self.num_codes)
        for variant in ("baseline", "SNNL of the code"):
            rows = accuracies[f"{self.dataset}, {len(subset)} codes, {variant}"] = {}
            for seed in range(self.seeds):
                codes = self.codes(variant, seed, data, context)[0][subset]
                self._compare(codes, labels, data.num_classes, seed, context, rows)
        numbers = summarize_all(accuracies)
        table = []
        for name, rows in numbers.items():
            for method, row in rows.items():
                row["worst"] = min(row["values"])
                row["share above"] = sum(value > PUBLISHED for value in row["values"]) / len(row["values"])
                table.append([name, method, row, row["worst"], row["share above"]])
        text = [
            f"{NUM_BLOBS} blobs of {BLOB_SIZE} points with centers uniform in a square of side 20, {self.sets} sets; "
            f"{self.seeds} runs on digits and codes. {self.cluster_steps} steps per start; among {self.restarts} "
            "starts the one with the lowest loss is kept, without labels. k-means: 10 starts; spectral: "
            "scikit-learn's, 10 nearest neighbors. Nearest true center: the best rule on average, which knows the "
            "centers. The min-max objective is told that 10 points are near each point and nine tenths far; k-means is "
            "not. Accuracy under the best matching of clusters and classes: mean (Student's 95 % interval), worst, and "
            f"the share of runs above {PUBLISHED:.1%}, the accuracy of the post's one run. The SNNL codes are those of "
            "held-out images; their autoencoder was trained with labels of other images.",
            *markdown_table(("", "", "accuracy", "worst", "share above"), table, digits=4),
        ]
        return ExperimentResult(numbers, text, plots)

    def _compare(
        self, features: Tensor, labels: Tensor, count: int, seed: int, context: ExperimentContext, rows: dict[str, Any]
    ) -> Tensor:
        """Record each method's accuracy on features (N, D) in ``rows``; return the objective's clusters (N,)."""
        methods = "min-max, one start", f"min-max, {self.restarts} starts", "k-means", "spectral"

        def compute() -> dict[str, Tensor]:
            on_device = features.to(context.device)
            found = cluster(on_device, count, steps=self.cluster_steps, restarts=self.restarts, seed=seed)
            others = k_means(features, count, seed=seed), spectral_clusters(features, count, seed=seed)
            return dict(zip(methods, (found.starts[0], found.labels, *others), strict=True))

        digest = hashlib.sha256(features.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
        file = f"{digest}-{seed}-{self.restarts}-{self.cluster_steps}.safetensors"
        clusters = compute_once(context.folder / "clusters" / file, {}, compute)
        for method in methods:
            record(rows, method, value=cluster_accuracy(labels, clusters[method], count))
        return clusters[methods[1]]


def sample_blobs(spread: float, seed: int) -> tuple[Tensor, Tensor, float]:
    """Return points (N, 2), labels (N,), and the accuracy of the rule that knows the true centers."""
    from sklearn.datasets import make_blobs

    options = {"centers": NUM_BLOBS, "cluster_std": spread, "random_state": seed, "return_centers": True}
    points, labels, centers = map(torch.from_numpy, make_blobs(NUM_BLOBS * BLOB_SIZE, **options))
    nearest = torch.cdist(points, centers).argmin(1)
    return points.float(), labels.long(), float((nearest == labels).double().mean())


def plot_clusters(points: Tensor, labels: Tensor, clusters: Tensor, path: Path) -> Path:
    """Draw points (N, 2) by label and by cluster, and the confusion matrix."""
    predicted = match_clusters(labels, clusters, NUM_BLOBS)
    figure, (left, middle, right) = new_figure(3, size=3.6)
    for axes, colors, title in ((left, labels, "blob"), (middle, predicted, "class found without labels")):
        draw_scatter(axes, points, colors)
        axes.set_title(title, fontsize=9)
    counts = confusion_matrix(labels, predicted, NUM_BLOBS)
    right.imshow(counts.sqrt().numpy(), cmap="Blues")
    for row, column in counts.nonzero().tolist():
        value = int(counts[row, column])
        color = "white" if value > BLOB_SIZE / 2 else "black"
        right.text(column, row, str(value), ha="center", va="center", fontsize=6, color=color)
    right.set_xlabel("class found")
    right.set_ylabel("blob")
    right.set_title(f"{float((predicted == labels).double().mean()):.1%} agree", fontsize=9)
    return save_figure(figure, path)
