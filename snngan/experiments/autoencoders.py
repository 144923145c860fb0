"""Autoencoders trained with and without the loss, their codes, and pt-snnl's plot of these."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.config import option
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.evaluation.clusters import cluster_accuracy, k_means
from snngan.evaluation.plots import plot_scatter_panels, tsne
from snngan.experiments import EXPERIMENTS, Experiment, ExperimentContext, ExperimentResult
from snngan.experiments.points import normalized_loss
from snngan.experiments.runs import compute_once, held_out_subset, load_labeled
from snngan.experiments.tables import markdown_table, record, summarize_nested
from snngan.losses.entangled import EntangledLoss
from snngan.losses.temperature import parse_temperature
from snngan.models.autoencoder import Autoencoder
from snngan.seeds import seed_for
from snngan.training.divergence import DivergedError

CHUNK = 1000
"""Held-out images encoded at a time."""
NUM_DRAWN = 1000
"""Held-out images whose codes are plotted, and whose entanglement is measured."""
CODE = ("encoder.code",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "SNNL of the code": CODE,
    "SNNL of half the code": CODE,
    "SNNL of all encoder layers": ("encoder.fc?", "encoder.code"),
}
"""Layers whose loss is added; for half the code, the loss of its first units."""
MNIST = {"dataset": "mnist", "seeds": 4, "batch_size": 256, "code_size": 32, "widths": "500-500-2000"}
"""What the presets of both experiments have in common."""


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
        """Return the codes (N, code_size) of the held-out images, and the mean squared error of reconstructions.

        Raises:
            ValueError: the context's folder holds codes of other options or data.
            DivergedError: the loss is not finite.
        """
        path = context.folder / "codes" / f"{variant.replace(' ', '-')}-{seed}.safetensors"
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(AutoencoderExperiment)}
        settings["data"] = data.labeled_digest()
        found = compute_once(path, settings, lambda: self._train(variant, seed, data, context, path.stem))
        return found["codes"], float(found["errors"].mean())

    def _train(
        self, variant: str, seed: int, data: Dataset, context: ExperimentContext, name: str
    ) -> dict[str, Tensor]:
        context.notify(f"{name}: {self.steps} steps")
        device = context.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "weights"))
            network = Autoencoder(data.image_shape, self.code_size, [int(part) for part in self.widths.split("-")])
        network.to(device)
        criterion = EntangledLoss(
            network,
            VARIANTS[variant] or CODE,
            self.alpha if VARIANTS[variant] else 0.0,
            parse_temperature(self.temperature),
            units=self.code_size // 2 if "half" in variant else None,
            task=lambda output, images, labels: F.mse_loss(output, images),
        )
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
    """Train an autoencoder without the loss, and with that of the code, of half the code and of all encoder layers."""

    source = "pt-snnl, figure of its README"
    summary = "An autoencoder's latent code with the loss and without: pictures, and k-means' accuracy"

    seeds: int = option(2, "number of seeds", low=1)

    presets = {"cpu": {**MNIST, "steps": 600}, "paper": {**MNIST, "steps": 7000}}

    def run(self, context: ExperimentContext) -> ExperimentResult:
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
        numbers = summarize_nested(values)
        text = [
            f"{self.seeds} seeds, {self.steps} steps of {self.batch_size} images each, a code of {self.code_size} "
            "values. Accuracy of k-means (10 starts) on the held-out images' codes, under the best matching of "
            "clusters and classes. The loss uses the labels of training images; k-means uses no labels. Squared error "
            "of the reconstructions, with pixels in [-1, 1]. Entanglement: the loss of the whole code at its optimal "
            f"T, divided by the loss at an infinite T, for {len(subset)} held-out images. Mean over seeds (Student's "
            "95 % interval).",
            *markdown_table(
                ("", "k-means accuracy", "squared error", "entanglement of the code"),
                ([variant, *row.values()] for variant, row in numbers.items()),
            ),
        ]
        panels = {
            f"{variant}: {embed.__name__}": (embed(drawn[variant]), labels)
            for embed in (pca, tsne)
            for variant in ("baseline", "SNNL of the code")
        }
        return ExperimentResult(numbers, text, [plot_scatter_panels(panels, 2, context.folder / "codes.png")])


def pca(features: Tensor) -> Tensor:
    """Return the coordinates (N, 2) of features (N, D) along their two principal components."""
    centered = features - features.mean(0)
    coordinates: Tensor = centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:2].T
    return coordinates
