"""The gradient penalty of a critic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snngan.distributed import local_shard, rank_and_world_size


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (|gradient| - 1)^2 () of ``critic`` at random positions between real and fake images.

    There is one position on the line between each pair of ``real`` (N, ...) and ``fake`` (N, ...), drawn from torch's
    default generator. If the batch is spread over ranks, each draws the positions of all and takes its own.
    Source: Gulrajani et al. 2017, eq. 3.
    """
    count = len(real) * rank_and_world_size()[1]
    weights = local_shard(torch.rand(count, *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype))
    between = torch.lerp(real, fake, weights).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
    return penalty
