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


def zero_centered_penalty(outputs: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared norm () of the slopes of a discriminator's ``outputs`` (N, K) by its ``images`` (N, ...).

    That is |gradient|^2 for K = 1. For more it is an unbiased estimate of the squared norm of the Jacobian, by the
    gradient along random signs, drawn from torch's default generator. An output must not depend on other images, as it
    does with batch normalization. Source: Mescheder et al. 2018, eq. 9.
    """
    if outputs.shape[1] > 1:
        count = len(outputs) * rank_and_world_size()[1]
        signs = torch.rand(count, outputs.shape[1], device=outputs.device, dtype=outputs.dtype) < 0.5
        outputs = torch.where(local_shard(signs), outputs, -outputs)
    (gradient,) = torch.autograd.grad(outputs.sum(), images, create_graph=True)
    penalty: Tensor = gradient.flatten(1).square().sum(1).mean()
    return penalty
