"""The autoencoder: layer sizes and names, and training with a layer loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snngan import EntangledLoss
from snngan.losses.entangled import hidden_layers
from snngan.models.autoencoder import Autoencoder


def test_sizes_and_names() -> None:
    model = Autoencoder((1, 28, 28), code=10)
    sizes = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(784, 500), (500, 500), (500, 2000), (2000, 10), (10, 2000), (2000, 500), (500, 500), (500, 784)]
    assert list(hidden_layers(model, ["encoder.fc?", "encoder.code"])) == [
        "encoder.fc1", "encoder.fc2", "encoder.fc3", "encoder.code"
    ]  # fmt: skip
    images = torch.rand(3, 1, 28, 28)
    assert model.encoder(images).shape == (3, 10)
    assert model(images).shape == images.shape


def test_training_reconstructs_and_disentangles_the_code() -> None:
    labels = torch.arange(60) % 3
    generator = torch.Generator().manual_seed(0)
    images = (torch.randn(60, 1, 4, 4, generator=generator) / 2 + labels.view(-1, 1, 1, 1) / 4).tanh()
    values = {}
    for alpha in (0.0, 1.0):
        torch.manual_seed(0)
        model = Autoencoder((1, 4, 4), code=4, widths=(32,))
        criterion = EntangledLoss(
            model, "encoder.code", alpha, task=lambda output, inputs, labels: F.mse_loss(output, inputs)
        )
        first = criterion(images, labels)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(150):
            optimizer.zero_grad()
            loss = criterion(images, labels)
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.7 * float(first.detach())
        values[alpha] = float(criterion.read(images, labels)[1]["encoder.code"])
    assert values[1.0] < 0.5 * values[0.0]


@pytest.mark.parametrize(("code", "widths"), [(0, (4,)), (2, (4, 0))])
def test_sizes_below_1_are_refused(code: int, widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        Autoencoder((1, 4, 4), code, widths)
