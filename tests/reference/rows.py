"""Images of three classes that any classifier can learn: each class has its own bright row."""

from __future__ import annotations

import torch

from snngan.data import Dataset


def bright_rows(num_train: int, num_test: int, noise: int, bright: int) -> Dataset:
    """Return images of 8x8 with ``noise`` below that level, the row of their class brighter by ``bright``."""
    count = num_train + num_test
    labels = torch.arange(count) % 3
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, noise, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, labels + 2] += bright
    return Dataset("rows", images[:num_train], labels[:num_train], images[num_train:], labels[num_train:])
