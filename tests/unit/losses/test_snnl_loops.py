"""The oracles themselves, compared with values computed by hand."""

from __future__ import annotations

import math

import torch
from reference.batches import NAMES, make_batch
from reference.snnl_loops import (
    distances_loop,
    log_odds_loop,
    losses_at,
    mean_distance_loop,
    snnl_loop,
    squared_mmd_loop,
)
from torch.testing import assert_close

FEATURES = torch.tensor([[0.0], [1.0], [3.0]])


def test_three_samples_by_hand() -> None:
    distances = distances_loop(FEATURES)
    assert [[float(d) for d in row] for row in distances] == [[0, 1, 9], [1, 0, 4], [9, 4, 0]]
    assert mean_distance_loop(distances) == 28 / 6
    losses = snnl_loop(distances, torch.tensor([0, 0, 1]), temperature=2.0)
    assert sorted(losses) == [0, 1]
    assert math.isclose(losses[0].item(), -math.log(math.exp(-0.5) / (math.exp(-0.5) + math.exp(-4.5))))
    assert math.isclose(losses[1].item(), -math.log(math.exp(-0.5) / (math.exp(-0.5) + math.exp(-2))))
    odds = log_odds_loop(distances, torch.tensor([0, 0, 1]), temperature=2.0)
    assert math.isclose(odds[0].item(), -4)
    assert math.isclose(odds[1].item(), -1.5)


def test_cosine_by_hand() -> None:
    rows = distances_loop(torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]]), "cosine")
    expected = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    assert_close(torch.tensor(rows).float(), expected)


def test_mmd_by_hand() -> None:
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    scale = 2 * (1 + 0 + 4 + 1 + 1 + 4) / 12
    near, far = math.exp(-1 / scale), math.exp(-4 / scale)
    expected = near + far - 2 * (1 + far + near + near) / 4
    assert math.isclose(squared_mmd_loop(real, fake, (1.0,)), expected)


def test_the_vectorized_form_agrees_with_the_loop() -> None:
    inverses = torch.tensor([0.0, 0.01, 0.3, 2.0, 50.0], dtype=torch.float64)
    for name in NAMES:
        features, labels = make_batch(name)
        loops = distances_loop(features)
        sweep = losses_at(torch.stack([torch.stack(row) for row in loops]), labels, inverses)
        for inverse, value in zip(inverses.tolist(), sweep, strict=True):
            losses = list(snnl_loop(loops, labels, 1 / inverse if inverse else math.inf).values())
            mean = torch.stack(losses).mean() if losses else torch.zeros((), dtype=torch.float64)
            assert_close(value, mean, rtol=1e-12, atol=1e-12)
