"""The metrics logged while a generator trains, of fixed noise and fixed held-out images, so that curves are smooth."""

from __future__ import annotations

from pathlib import Path

import torch

from snngan.config import TrainConfig
from snngan.data import Dataset, to_uint8
from snngan.evaluation.feature_classifier import load_features
from snngan.evaluation.features import Extractor, Pixels, extract_features
from snngan.metrics import FeatureStatistics, choose_metrics, compute_metrics
from snngan.seeds import seed_for
from snngan.training.gan import GanTrainer

NUM_IMAGES = 1000
"""Largest number of held-out images; as many samples are drawn."""


class TrainingMetrics:
    """Metrics of the EMA generator, by TensorBoard tag.

    They are computed in the features of a small classifier of the data set, under ``metrics/NAME``, if one has been
    trained (by ``snngan evaluate``); else in pixels, under ``metrics/pixels/NAME``, without those that mean nothing
    there.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, folder: Path, device: torch.device) -> None:
        self.extractor: Extractor = load_features(dataset, folder, device) or Pixels()
        self.is_pixels = isinstance(self.extractor, Pixels)
        generator = torch.Generator().manual_seed(seed_for(config.seed, "watch"))
        rows = torch.randperm(len(dataset.test_images), generator=generator)[:NUM_IMAGES]
        self.real = FeatureStatistics.from_features(
            extract_features(self.extractor, dataset.test_images[rows]), dataset.test_images[rows]
        )
        self.metrics = [
            metric
            for metric in choose_metrics().values()
            if "training" not in metric.needs
            and metric.min_images <= len(rows)
            and (metric.logged_in_pixels or not self.is_pixels)
        ]
        self.noise = generator.get_state()
        self.labels = dataset.test_labels[rows] if config.conditional and dataset.test_labels is not None else None

    def __call__(self, trainer: GanTrainer, number: int) -> dict[str, float]:
        """Return the metrics of as many samples as there are real images, whatever the step."""
        generator = torch.Generator()
        generator.set_state(self.noise)
        latents = torch.randn(len(self.real.features), trainer.latent_dim, generator=generator)
        inputs = [latents] if self.labels is None else [latents, self.labels]
        chunks = zip(*(each.split(100) for each in inputs), strict=True)  # type: ignore[no-untyped-call]
        samples = torch.cat([trainer.sample(*(each.to(trainer.device) for each in chunk)).cpu() for chunk in chunks])
        images = samples if trainer.config.is_points else to_uint8(samples)
        features = extract_features(self.extractor, samples if self.is_pixels else images)
        values, _ = compute_metrics(self.metrics, self.real, FeatureStatistics.from_features(features, images))
        return {f"metrics/{'pixels/' if self.is_pixels else ''}{name}": value for name, value in values.items()}
