"""One rank of a gloo group: compare the loss across ranks with that of the whole batch in one process.

    python tests/unit/losses/ranks.py RANK COUNT,COUNT,... FILE

Rank i has the i-th COUNT of samples; the ranks meet through FILE. Exits with 0 if all agree.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from snngan import RelativeTemperature, SoftNearestNeighborLoss, soft_nearest_neighbor_loss
from snngan.losses.log_odds import log_odds
from snngan.losses.pairwise import build_real_fake_batch

RULES = (3.0, RelativeTemperature(0.1, 0.3), "optimal")


def batch(count: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (count,), generator=rng)
    return torch.randn(count, 5, generator=rng) + labels[:, None], labels


def check(own: slice, world: int) -> None:
    features, labels = batch(30)
    options = itertools.product(("dense", "tiled"), RULES, ("sqeuclidean", "cosine"), ("mean", "sum", "none"))
    for backend, rule, distance, reduction in options:
        whole, part = features.clone().requires_grad_(), features[own].clone().requires_grad_()
        arguments: Any = (rule, distance, reduction, backend)
        expected = soft_nearest_neighbor_loss(whole, labels, *arguments)
        value = soft_nearest_neighbor_loss(part, labels[own], *arguments, across_ranks=True)
        assert_close(value, expected)
        expected.square().sum().backward()
        value.square().sum().backward()
        assert_close(part.grad, world * whole.grad[own])


def check_groups(own: slice, world: int) -> None:
    features, labels = batch(30)
    groups = torch.arange(30) % 7 % 3  # unequal, and each on several ranks
    for backend, rule in itertools.product(("dense", "tiled"), RULES):
        whole, part = features.clone().requires_grad_(), features[own].clone().requires_grad_()
        options: Any = {"temperature": rule, "backend": backend}
        expected = soft_nearest_neighbor_loss(whole, labels, groups=groups, **options)
        value = soft_nearest_neighbor_loss(part, labels[own], groups=groups[own], across_ranks=True, **options)
        assert_close(value, expected)
        expected.backward()
        value.backward()
        assert_close(part.grad, world * whole.grad[own])


def check_module(own: slice) -> None:
    """Weights trained under DistributedDataParallel are those of one process."""
    features, labels = batch(30)
    results = []
    for across in (False, True):
        torch.manual_seed(0)
        network: nn.Module = nn.Linear(5, 3)
        if across:
            network = DistributedDataParallel(network)
        criterion = SoftNearestNeighborLoss("learned", across_ranks=across)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        some = own if across else slice(None)
        for _ in range(4):
            optimizer.zero_grad()
            criterion(network(features[some]), labels[some]).backward()
            optimizer.step()
        assert int(criterion.num_anchors) + int(criterion.num_left_out) == 30
        results.append([*(value.detach() for value in network.parameters()), *criterion.state_dict().values()])
    assert_close(*results)


def check_real_and_fake(own: slice, world: int) -> None:
    real, fake = batch(30)[0].double(), batch(60)[0][30:].double()
    for mean_of_real in (False, True):
        found = []
        for across in (False, True):
            some = own if across else slice(None)
            leaf = fake[some].clone().requires_grad_()
            both = build_real_fake_batch(real[some], leaf, mean_of_real=mean_of_real, across_ranks=across)
            odds = log_odds(both, RelativeTemperature(0.2)(both)).squeeze(0)
            odds.square().sum().backward()
            assert leaf.grad is not None
            found.append((odds.detach().sort().values, leaf.grad[own] * world if not across else leaf.grad))
        assert_close(*found)


def check_refusals(rank: int) -> None:
    for leaf in (torch.zeros(3, 2 + rank), torch.zeros(3, 2, dtype=(torch.float64, torch.float32)[rank % 2])):
        with pytest.raises(ValueError, match="on every rank"):
            soft_nearest_neighbor_loss(leaf, torch.arange(3), across_ranks=True)


def main() -> None:
    rank, counts = int(sys.argv[1]), [int(count) for count in sys.argv[2].split(",")]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=len(counts))
    start = sum(counts[:rank])
    own = slice(start, start + counts[rank])
    check(own, len(counts))
    check_groups(own, len(counts))
    check_real_and_fake(own, len(counts))
    check_module(own)
    check_refusals(rank)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the interpreter, which aborts the process (pytorch issue 179291)


if __name__ == "__main__":
    main()
