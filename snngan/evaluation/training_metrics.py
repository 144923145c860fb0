"""The cheap figures while a generator trains: on a fixed noise and fixed held-out images, so that curves are smooth."""

from __future__ import annotations

from pathlib import Path

import torch

from snngan.config import TrainConfig
from snngan.data import Dataset, to_uint8
from snngan.evaluation.feature_classifier import kept_features
from snngan.evaluation.features import Extractor, Pixels, features_of
from snngan.evaluation.frechet import Moments, frechet_distance
from snngan.evaluation.kernel import unbiased_squared_mmd
from snngan.evaluation.measure import NEIGHBOURS
from snngan.evaluation.nearest_neighbors import neighbor_figures
from snngan.losses.snnl import entanglement
from snngan.seeds import seed_for
from snngan.training.gan import Sampler

COUNT = 1000
"""Held-out images, and samples, in each reading."""


class TrainingMetrics:
    """Figures of the averaged generator, by TensorBoard tag.

    They are taken in the features of a small classifier of the data set where one has been trained (by ``snngan
    evaluate``), under ``features/``; else of the pixels, under ``pixels/``, without those that mean nothing there.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, folder: Path, device: torch.device) -> None:
        self.extractor: Extractor = kept_features(dataset, folder, device) or Pixels()
        self.is_pixels = isinstance(self.extractor, Pixels)
        generator = torch.Generator().manual_seed(seed_for(config.seed, "watch"))
        rows = torch.randperm(len(dataset.test_images), generator=generator)[:COUNT]
        self.real = features_of(self.extractor, dataset.test_images[rows])
        self.moments = Moments(self.real.shape[1])
        self.moments.update(self.real)
        self.noise = generator.get_state()
        self.device = device

    def __call__(self, sample: Sampler, latent_dim: int) -> dict[str, float]:
        """Return the figures of as many samples as there are real images, whatever the step."""
        generator = torch.Generator()
        generator.set_state(self.noise)
        latents = torch.randn(len(self.real), latent_dim, generator=generator)
        samples = torch.cat([sample(chunk.to(self.device)).cpu() for chunk in torch.split(latents, 100)])
        fake = features_of(self.extractor, samples if self.is_pixels else to_uint8(samples))
        figures: dict[str, float] = {}
        if len(fake) > NEIGHBOURS:
            found = neighbor_figures(self.real, fake, NEIGHBOURS)
            names = ("precision", "recall", "density", "coverage")
            figures |= {name: getattr(found, name) for name in names} | {"1nn_accuracy": found.accuracy}
        if not self.is_pixels:
            made = Moments(fake.shape[1])
            made.update(fake)
            figures |= {"fid": frechet_distance(self.moments, made), "kid": unbiased_squared_mmd(self.real, fake)}
            figures["entanglement_score"] = entanglement(self.real, fake).score
        return {f"{'pixels' if self.is_pixels else 'features'}/{name}": value for name, value in figures.items()}
