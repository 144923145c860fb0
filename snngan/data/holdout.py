"""Which images are held out of a set without a test split: every tenth, evenly over the classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snngan.data import Dataset

_EVERY, _MOST, _SEED = 10, 2000, 0


def hold_out(name: str, images: Tensor, labels: Tensor | None) -> Dataset:
    """Return the set ``name`` with about a tenth of ``images`` held out, the same ones every time.

    Both parts are shuffled, so that their first images are of all classes even where the source was sorted.

    Args:
        name: the name of the set.
        images: (N, C, H, W), N >= 2; 1 to 2000 of them are held out.
        labels: (N,) int64 or None; with labels each class is held out in proportion, and classes of one image stay in
            training (except where every class has one image).
    """
    count = len(images)
    assert count >= 2, "too few images to hold one out"
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
    by_class = order if labels is None else order[labels[order].argsort(stable=True)]
    step = min(count, max(_EVERY, math.ceil(count / _MOST)))
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[by_class[step - 1 :: step]] = True
    if labels is not None:  # every step-th image of the sorted order: a class of two or more never loses all of them
        _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        divisible = counts[index] > 1
        if divisible.any():
            held_out &= divisible
            if not held_out.any():
                held_out[by_class[divisible[by_class]][-1]] = True
    train, test = order[~held_out[order]], order[held_out[order]]
    train_labels, test_labels = (None, None) if labels is None else (labels[train], labels[test])
    return Dataset(name, images[train], train_labels, images[test], test_labels)
