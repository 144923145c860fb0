"""The classic adversarial losses, as functions of the discriminator's outputs for real and for fake images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.distributed import local_shard, rank_and_world_size


def logistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the binary cross-entropy () of logits for real (N, 1) and fake (M, 1): Goodfellow et al. 2014, eq. 1."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """Return -E log D (): Goodfellow et al. 2014, section 3, for fake logits (M, 1)."""
    return F.softplus(-fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """Return E log(1 - D) (): the value of Goodfellow et al. 2014, eq. 1, which saturates; fake logits (M, 1)."""
    return -F.softplus(fake).mean()


def wasserstein_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the negative mean difference () of critic values (N, 1) and (M, 1): Arjovsky et al. 2017, eq. 3."""
    return fake.mean() - real.mean()


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """Return the negative mean critic value () of fake images (M, 1)."""
    return -fake.mean()


def least_squares_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the squared distance () of the outputs from 1 (real) and 0 (fake): Mao et al. 2017, eq. 9."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """Return the squared distance () of the outputs for fake images (M, 1) from 1: Mao et al. 2017, eq. 9."""
    return (fake - 1).square().mean() / 2


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the hinge loss () with margin 1 on both sides: Lim and Ye 2017, eq. 4."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (|gradient| - 1)^2 () of ``critic`` at random positions between real and fake images.

    There is one position on the line between each pair of ``real`` (N, ...) and ``fake`` (N, ...), drawn from torch's
    default generator. If the batch is spread over ranks, each draws the positions of all and takes its own.
    Source: Gulrajani et al. 2017, eq. 3.
    """
    count = len(real) * rank_and_world_size()[1]
    weights = local_shard(torch.rand(count, *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype))
    between = torch.lerp(real, fake, weights).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    penalty: Tensor = (norms - 1).square().mean()
    return penalty
