"""A batch spread over the ranks of a process group as one batch: every pair counts, also those between ranks.

Each rank gathers the points of all and takes the loss of the whole, with gradient for its own points only: nothing is
communicated backward, and that costs a rank N^2 D operations forward but only its share backward. Own gradients are
multiplied by the number of ranks, since ``DistributedDataParallel`` divides their sum over ranks by it: parameters get
the gradient of the loss of the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def gathered(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, slice]:
    """Return the points (N, D) and labels (N,) of all ranks, in the order of ranks, and where this rank's are.

    Call it on every rank of the default process group, with any number of points on each, of one dtype and shape.

    Args:
        features: this rank's points (n, ...), flattened to (n, D).
        labels: their integer labels (n,).

    Raises:
        ValueError: there is no process group, or the ranks' points differ in dimension or dtype.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("a loss across ranks needs a process group: call torch.distributed.init_process_group first")
    points, labels = features.flatten(1), labels.to(features.device, torch.int64)
    world, rank = dist.get_world_size(), dist.get_rank()
    width = points.shape[1] * points.element_size()
    shape = torch.tensor([len(points), points.shape[1], width], device=points.device)
    shapes = torch.stack(_all_gather(shape)).tolist()
    counts = [count for count, *_ in shapes]
    if len({tuple(form) for _, *form in shapes}) > 1:
        forms = ", ".join(f"{dims} dimensions in {size} bytes" for _, dims, size in shapes)
        raise ValueError(f"points must have one dimension and dtype on every rank, not {forms}")
    # Points and labels travel as bytes in one message, filled up to the largest rank's.
    message = points.new_empty((max(counts), width + 8), dtype=torch.uint8)
    message[: len(points), :width] = points.detach().contiguous().view(torch.uint8)
    message[: len(points), width:] = labels[:, None].contiguous().view(torch.uint8)
    messages = torch.cat([part[:count] for part, count in zip(_all_gather(message), counts, strict=True)])
    everyone = messages[:, :width].contiguous().view(points.dtype)
    first = sum(counts[:rank])
    own = slice(first, first + len(points))
    if points.requires_grad:
        mine = points.view_as(points)
        mine.register_hook(lambda gradient: gradient * world)  # type: ignore[no-untyped-call]
        everyone = torch.cat([everyone[: own.start], mine, everyone[own.stop :]])
    return everyone, messages[:, width:].contiguous().view(torch.int64).squeeze(1), own


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank, and how many there are: 0 and 1 without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def across_ranks() -> bool:
    """Return whether there are several ranks, whose batches are to be one."""
    return rank_and_world_size()[1] > 1


def local_shard(whole: Tensor) -> Tensor:
    """Return this rank's rows (N / ranks, ...) of the ``whole`` (N, ...) that every rank has."""
    rank, count = rank_and_world_size()
    size = len(whole) // count
    return whole[rank * size : (rank + 1) * size]


def rows_of_all(rows: Tensor) -> Tensor:
    """Return the rows (N, D) of all ranks, of this one's (n, D) with gradient as :func:`gathered` has it."""
    if not across_ranks():
        return rows
    return gathered(rows, torch.zeros(len(rows), dtype=torch.int64))[0]


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean over ranks of a ``tensor`` that has one shape on all, with gradient through every rank's.

    The sum over ranks of their losses is what is differentiated, as ``gathered`` has it.
    """
    if not across_ranks():
        return tensor
    total: Tensor = _Sum.apply(tensor)
    return total / rank_and_world_size()[1]


class _Sum(torch.autograd.Function):
    """The sum over ranks; what one rank's value does to every rank's loss comes back to it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient.contiguous())
        return total


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """Return ``tensor`` of each rank, of one shape on all."""
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor)
    return tensors
