"""One run on several processes, as ``torchrun`` starts them.

Every rank holds the same networks and draws the same global batch, of which it takes its own share; gradients are
averaged before each optimizer step. So the run equals that of a single process with the same global batch, up to the
rounding of sums. Only rank 0 evaluates and writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from snngan.distributed import is_distributed, rank_and_world_size
from snngan.files import SaveError
from snngan.training.device import choose_device

T = TypeVar("T")
TIMEOUT = timedelta(hours=2)
"""How long a rank waits for another: rank 0 may be computing metrics."""


class RankLostError(RuntimeError):
    """Another rank ended before this one."""


def started_by_torchrun() -> bool:
    """Return whether this process is one of several that ``torchrun`` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Choose this process's device and, if ``torchrun`` started several processes, join their group.

    Args:
        device: as the user names it; with ``auto`` or ``cuda``, each process of a machine gets its own GPU.

    Raises:
        ValueError: the device does not exist, there are fewer GPUs than processes, or another rank ended early.
    """
    chosen = choose_device(device)
    if not started_by_torchrun():
        yield chosen
        return
    if chosen.index is not None:
        raise ValueError(f"--device {device}: under torchrun each process gets its own GPU; use --device cuda")
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield chosen
    except RuntimeError as error:
        if is_lost_rank_error(error):
            raise ValueError("another process ended before the run was created") from error
        raise
    run_on_all_ranks(lambda: None)  # no rank leaves while another one still communicates
    dist.destroy_process_group()  # not after an error, when it might wait for ever


def exit_without_finalizing(status: int) -> NoReturn:
    """Leave a process of a group that was destroyed, without finalizing the Python interpreter.

    Threads of torch's Gloo backend may outlive the group, and abort the process when they need the interpreter then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_lost_rank_error(error: RuntimeError) -> bool:
    """Return whether ``error`` says that another rank could not be reached."""
    words = str(error).lower()
    said = any(word in words for word in ("gloo", "nccl", "connection closed"))
    return is_distributed() and (isinstance(error, dist.DistError) or (type(error) is RuntimeError and said))


def run_on_all_ranks(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, after every rank has done it.

    Raises:
        ValueError: it raised one on some rank; the message is that of the lowest such rank.
    """
    if not is_distributed():
        return work()
    found: list[T] = []
    problem = None
    try:
        found.append(work())
    except (ValueError, SaveError) as error:
        problem = str(error)
    problems: list[str | None] = [None] * rank_and_world_size()[1]
    dist.all_gather_object(problems, problem)
    for each in problems:
        if each is not None:
            raise ValueError(each)
    return found[0]


def is_main_process() -> bool:
    """Return whether this process is the one that evaluates and writes."""
    return rank_and_world_size()[0] == 0


def broadcast_from_rank0(value: Any) -> Any:
    """Return the ``value`` that rank 0 passed; the other ranks wait for it."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def any_rank(flag: bool) -> bool:
    """Return whether ``flag`` is true on some rank."""
    if not is_distributed():
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks, in one message per dtype."""
    if not is_distributed():
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for own in by_dtype.values():
        flat = torch.cat([gradient.flatten() for gradient in own])
        dist.all_reduce(flat)
        flat /= rank_and_world_size()[1]
        for gradient, part in zip(own, torch.split(flat, [each.numel() for each in own]), strict=True):
            gradient.copy_(part.view_as(gradient))


def check_same_step(step: int) -> None:
    """Raise ``ValueError`` unless every rank passes the same ``step``."""
    first = broadcast_from_rank0(step)

    def check() -> None:
        if step != first:
            raise ValueError("the processes do not see the same checkpoints in the run's folder, which all must share")

    run_on_all_ranks(check)


def check_share(batch_size: int, num_classes: int = 1) -> None:
    """Raise ``ValueError`` unless the ranks can share a batch, and the images of each class in it, equally."""
    count = rank_and_world_size()[1]
    unit = count * max(1, num_classes)
    if batch_size % unit:
        classes = f" with as many images of each of {num_classes} classes" * (num_classes > 1)
        raise ValueError(
            f"a batch of {batch_size} cannot be shared equally by {count} processes{classes}: --batch-size is that of "
            f"all together; use {batch_size // unit * unit or unit}"
        )
