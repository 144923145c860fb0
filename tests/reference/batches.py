"""Labeled batches that are hard for a loss of distances, each small enough for the loops."""

from __future__ import annotations

import torch
from torch import Tensor

COUNT = 14
INTEGERS = [
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool
]  # fmt: skip
"""The types of labels."""


def _random(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(COUNT, 5, generator=rng), torch.arange(COUNT) % 3


def _duplicated(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every sample occurs several times, with several labels."""
    features, labels = _random(rng)
    return features[torch.arange(COUNT) // 4], labels


def _duplicated_in_class(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each class is one value, so that the loss approaches 0 with T."""
    features, labels = _random(rng)
    return features[labels], labels


def _near_duplicates(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Duplicates that differ in the last digits of float32."""
    features, labels = _duplicated(rng)
    return features + 1e-6 * torch.randn(COUNT, 5, generator=rng), labels


def _one_class(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(COUNT, 5, generator=rng), torch.full((COUNT,), 7)


def _singletons(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the samples are alone in their class."""
    half = COUNT // 2
    return torch.randn(COUNT, 5, generator=rng), torch.cat([torch.arange(half) + 10, torch.arange(half) % 2])


def _no_anchor(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(COUNT, 5, generator=rng), torch.arange(COUNT)


def _sparse(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """784 dimensions, like MNIST images, a fifth of them above 0."""
    ink = torch.rand(COUNT, 784, generator=rng) * (torch.rand(COUNT, 784, generator=rng) < 0.2)
    return ink, torch.arange(COUNT) % 3


def _far(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Far from the origin, where Gram matrices lose every digit unless features are centered."""
    features, labels = _random(rng)
    return features + 1e4, labels


def _heavy_tailed(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    features, labels = _random(rng)
    return features.sign() * (2 * features).abs().exp(), labels


def _separable(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    features, labels = _random(rng)
    return features + 100 * labels[:, None], labels


def _outlier(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    features, labels = _random(rng)
    return features * torch.where(torch.arange(COUNT) == 0, 1e3, 1.0)[:, None], labels


_MAKERS = {
    maker.__name__.removeprefix("_"): maker
    for maker in (
        _random, _duplicated, _duplicated_in_class, _near_duplicates, _one_class, _singletons, _no_anchor, _sparse,
        _far, _heavy_tailed, _separable, _outlier,
    )
}  # fmt: skip
NAMES = tuple(_MAKERS)


def make_batch(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the features (N, D) float32 and labels (N,) of a named kind of batch."""
    return _MAKERS[name](torch.Generator().manual_seed(seed))
