"""Batch normalization over ranks, here over one; training on two ranks is tested in tests/integration/training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from snngan.models import batch_norm
from snngan.models.batch_norm import SyncBatchNorm, convert_batch_norm


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_one_rank_computes_what_torch_does(shape: tuple[int, ...], affine: bool) -> None:
    """Outputs, statistics, and the second derivatives that a gradient penalty needs."""
    torch.manual_seed(0)
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3, affine=affine)
    synced = SyncBatchNorm(copy.deepcopy(norm))
    for _ in range(3):
        batch, results = torch.randn(shape), []
        for layer in (norm, synced):
            inputs = batch.clone().requires_grad_()
            output = layer(inputs)
            (slope,) = torch.autograd.grad(output.exp().sum(), inputs, create_graph=True)
            results.append((output, slope, *torch.autograd.grad(slope.square().sum(), inputs)))
        assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    assert list(synced.state_dict()) == list(norm.state_dict())
    assert_close(synced.state_dict(), norm.state_dict())
    norm.load_state_dict(synced.state_dict())
    assert torch.equal(synced.eval()(batch), norm.eval()(batch))


def test_every_batch_norm_is_replaced_and_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Sequential(nn.BatchNorm1d(3))
    assert convert_batch_norm(plain) is plain and type(plain[0]) is nn.BatchNorm1d  # one process keeps torch's layers
    monkeypatch.setattr(batch_norm, "is_distributed", lambda: True)  # the means are still those of this process
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    parameters, state = list(network.parameters()), network.state_dict()
    assert convert_batch_norm(network) is network
    assert isinstance(network[1], SyncBatchNorm) and isinstance(network[2][1], SyncBatchNorm)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)
    norm = nn.BatchNorm1d(3).eval()
    converted = convert_batch_norm(norm)
    assert isinstance(converted, SyncBatchNorm) and not converted.training and converted.weight is norm.weight
    with pytest.raises(ValueError, match="needs a momentum and running statistics"):
        convert_batch_norm(nn.BatchNorm1d(3, momentum=None))
