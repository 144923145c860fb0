"""Frechet distance, precision and recall of generated digits in the features of a small classifier.

A stop-gap for the trials in docs/method.md until the package measures generators itself: 28x28 grey images only. The
classifier (2 convolutions, 2 linear layers) is trained on the training half, seed 123, 3 epochs, and judges against the
first 5000 images of the test half. Figures compare only within one such classifier.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import Dataset, to_unit_range

NUM_REAL = 5000
NEIGHBOURS = 5


class Scorer:
    """Scores uint8 images (N, 1, 28, 28) against a data set."""

    def __init__(self, dataset: Dataset, cache: Path) -> None:
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
        if cache.exists():
            self.network.load_state_dict(torch.load(cache, weights_only=True))
        else:
            self._train(dataset)
            cache.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self.network.state_dict(), cache)
        self.network.eval()
        self.real, _ = self._features(dataset.test_images[:NUM_REAL])

    def _train(self, dataset: Dataset) -> None:
        torch.manual_seed(123)
        for module in self.network:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        for _ in range(3):
            for rows in torch.randperm(len(dataset.train_images)).split(128):
                logits = self.network(to_unit_range(dataset.train_images[rows]))
                optimizer.zero_grad()
                F.cross_entropy(logits, dataset.train_labels[rows]).backward()
                optimizer.step()

    @torch.no_grad()
    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.cat([self.network[:-1](to_unit_range(chunk)) for chunk in images.split(500)])
        return features, self.network[-1](features)

    def score(self, images: np.ndarray) -> dict[str, float]:
        """Return fid, precision, recall, and how the classes of ``images`` are spread."""
        fake, logits = self._features(torch.from_numpy(images))
        shares = logits.argmax(1).bincount(minlength=10) / len(logits)
        radii_real, radii_fake = _radii(self.real), _radii(fake)
        distances = torch.cdist(self.real, fake)
        return {
            "fid": frechet(self.real, fake),
            "precision": float((distances <= radii_real[:, None]).any(0).float().mean()),
            "recall": float((distances <= radii_fake).any(1).float().mean()),
            "smallest_class": float(shares.min()),
            "class_distance": float((shares - 0.1).abs().sum() / 2),  # total variation from equal shares
        }


def _radii(points: Tensor) -> Tensor:
    return torch.cat([torch.cdist(rows, points).kthvalue(NEIGHBOURS + 1, dim=1).values for rows in points.split(1000)])


def frechet(real: Tensor, fake: Tensor) -> float:
    """Return the Frechet distance of two feature sets (N, D), (M, D) as Gaussians, by eigenvalues in float64."""
    real, fake = real.double(), fake.double()
    covariance_real, covariance_fake = real.T.cov(), fake.T.cov()
    values, vectors = torch.linalg.eigh(covariance_real)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_fake @ root).clamp_min(0).sqrt().sum()
    means = (real.mean(0) - fake.mean(0)).square().sum()
    return float(means + covariance_real.trace() + covariance_fake.trace() - 2 * cross)
