"""Which images are held out where a set comes without a test half: every tenth, evenly over the classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snngan.data import Dataset

_EVERY, _MOST, _SEED = 10, 2000, 0


def hold_out(name: str, images: Tensor, labels: Tensor | None) -> Dataset:
    """Return the set ``name`` with about a tenth of ``images`` held out, the same ones every time.

    Both halves come shuffled, so that their first images are of all classes even where the source was sorted.

    Args:
        name: the name of the set.
        images: (N, C, H, W), N >= 2.
        labels: (N,) int64 or None; with them each class gives its share, and classes of one image stay in training.

    Returns:
        A data set that holds out at least 1 image and at most 2000. Where each class has one image, a class is lost.
    """
    count = len(images)
    assert count >= 2, "one half would be empty"
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
    by_class = order if labels is None else order[labels[order].argsort(stable=True)]
    step = min(count, max(_EVERY, math.ceil(count / _MOST)))
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[by_class[step - 1 :: step]] = True
    if labels is not None:  # no two that are held out follow each other, so only a class of one image can be lost
        _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        divisible = counts[index] > 1
        if divisible.any():
            held_out &= divisible
            if not held_out.any():
                held_out[by_class[divisible[by_class]][-1]] = True
    train, test = order[~held_out[order]], order[held_out[order]]
    return Dataset(
        name=name,
        train_images=images[train],
        train_labels=None if labels is None else labels[train],
        test_images=images[test],
        test_labels=None if labels is None else labels[test],
    )
