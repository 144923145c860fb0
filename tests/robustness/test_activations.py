"""Activations of a network's layers equal those of a forward pass by hand, before a later module overwrites them."""

from __future__ import annotations

import torch
from torch import nn

from snngan.losses.entangled import hidden_layers
from snngan.robustness.activations import compute_activations


def test_activations_equal_those_of_a_forward_pass_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3))
    images = torch.randn(7, 1, 4, 4)
    logits, found = compute_activations(model, hidden_layers(model, ["0", "1"]), images, chunk=3)
    by_hand = model[0](images)
    torch.testing.assert_close(found["0"], by_hand.flatten(1))  # not what the in-place ReLU wrote over it
    torch.testing.assert_close(found["1"], by_hand.relu().flatten(1))
    torch.testing.assert_close(logits, model[3](by_hand.relu().flatten(1)))
    assert not logits.requires_grad
    assert not found["0"].requires_grad
