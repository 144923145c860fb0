"""One batch spread over the ranks of a process group: every pair counts, also those between ranks.

Each rank gathers the samples of all and computes the loss of the whole batch, with gradient for its own samples only.
Nothing is communicated in the backward pass: a rank does N^2 D operations forward but only its share backward. Its
gradients are multiplied by the number of ranks, because ``DistributedDataParallel`` divides their sum over ranks by it:
parameters get the gradient of the loss of the whole batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks: 0 and 1 without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_distributed() -> bool:
    """Return whether there are several ranks."""
    return rank_and_world_size()[1] > 1


def local_shard(whole: Tensor) -> Tensor:
    """Return this rank's rows (N / ranks, ...) of ``whole`` (N, ...), which is the same on all ranks."""
    rank, world_size = rank_and_world_size()
    size = len(whole) // world_size
    return whole[rank * size : (rank + 1) * size]


def gather_batch(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, slice]:
    """Return the features (N, D) and labels of all ranks, in rank order, and which rows are this rank's.

    Call it on every rank of the default process group with its features (n, ...) and integer labels (n,) or (n, K),
    where n may differ between ranks.

    Raises:
        ValueError: the process group is missing, or the ranks' features differ in dimension or dtype.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("across_ranks requires a process group: call torch.distributed.init_process_group first")
    features, labels = features.flatten(1), labels.to(features.device, torch.int64)
    rank, world_size = rank_and_world_size()
    width = features.shape[1] * features.element_size()
    shape = torch.tensor([len(features), features.shape[1], width], device=features.device)
    shapes = torch.stack(_all_gather(shape)).tolist()
    counts = [count for count, *_ in shapes]
    if len({tuple(form) for _, *form in shapes}) > 1:
        forms = ", ".join(f"{dims} dimensions in {size} bytes" for _, dims, size in shapes)
        raise ValueError(f"features must have the same dimension and dtype on every rank, got {forms}")
    # Features and labels are sent as bytes in one message, padded to the size of the largest rank's.
    columns = math.prod(labels.shape[1:])
    message = features.new_empty((max(counts), width + 8 * columns), dtype=torch.uint8)
    message[: len(features), :width] = features.detach().contiguous().view(torch.uint8)
    message[: len(features), width:] = labels.reshape(len(labels), columns).contiguous().view(torch.uint8)
    messages = torch.cat([part[:count] for part, count in zip(_all_gather(message), counts, strict=True)])
    gathered = messages[:, :width].contiguous().view(features.dtype)
    start = sum(counts[:rank])
    local = slice(start, start + len(features))
    if features.requires_grad:
        own = features.view_as(features)
        own.register_hook(lambda gradient: gradient * world_size)  # type: ignore[no-untyped-call]
        gathered = torch.cat([gathered[: local.start], own, gathered[local.stop :]])
    return gathered, messages[:, width:].contiguous().view(torch.int64).view(-1, *labels.shape[1:]), local


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (N, D) of all ranks, with gradient for this rank's (n, D)."""
    if not is_distributed():
        return rows
    return gather_batch(rows, torch.zeros(len(rows), dtype=torch.int64))[0]


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of all ranks' ``tensor``, of one shape; its gradient is that of the sum of all ranks' losses."""
    if not is_distributed():
        return tensor
    total: Tensor = _SumOverRanks.apply(tensor)
    return total / rank_and_world_size()[1]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _SumOverRanks.apply(gradient.contiguous())
        return total


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """Return every rank's ``tensor``, of the same shape on all."""
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor)
    return tensors
