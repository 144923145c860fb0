"""The drift of synthetic samples toward real ones and away from each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snngan.losses.pairwise import split_classes, squared_distances


def drifting_loss(
    real: Tensor,
    fake: Tensor,
    temperatures: Sequence[float] = (0.02, 0.05, 0.2),
    *,
    classes: tuple[Tensor, Tensor] | None = None,
    num_classes: int = 1,
) -> Tensor:
    r"""Return the mean squared distance () of ``fake`` (M, D) from where they drift.

    .. math:: \operatorname{mean} |x - (x + V)|^2,\quad V = \sum_T V_T / \operatorname{rms}(V_T)

    with :math:`x + V` held fixed: the gradient by x is -V, up to a factor, and the value says nothing. Samples are
    scaled to a mean distance of sqrt(D) between real ones, of which temperatures are multiples. N and M count the
    samples of all ranks, and are at least 2. With ``classes`` (N,) and (M,), 0 to ``num_classes`` - 1 and each as
    frequent as the others, samples drift within their class.
    Source: Deng et al. 2026, "Generative Modeling via Drifting", section 3.4 and appendix A.
    """
    dtype = torch.promote_types(fake.dtype, torch.float32)
    real, fake = (
        split_classes(side, None if classes is None else classes[index], num_classes).double()
        for index, side in enumerate((real.detach(), fake))
    )
    count, dims = real.shape[1:]
    mean_distance = squared_distances(real, real).sqrt().sum((1, 2)).mean() / (count * (count - 1))
    unit = torch.where(mean_distance > 0, mean_distance, 1.0) / dims**0.5
    real, fake = real / unit, fake / unit
    with torch.no_grad():
        distances = _distances(real, fake)
        fields = torch.stack([_field(real, fake, distances, each * dims**0.5) for each in temperatures])
        size = fields.square().mean((1, 2, 3), keepdim=True).sqrt()
        target = fake + (fields / torch.where(size > 0, size, 1.0)).sum(0)
    loss: Tensor = (fake - target).square().mean()
    return loss.to(dtype)


def drift_field(real: Tensor, fake: Tensor, temperature: float) -> Tensor:
    r"""Return where each of ``fake`` (..., M, D) drifts among ``real`` (..., N, D), (..., M, D).

    .. math:: V(x) = \sum_{y^+, y^-} a(x, y^+) a(x, y^-) (y^+ - y^-),\quad
              a = \sqrt{\operatorname{softmax}_y(-|x - y| / T) \operatorname{softmax}_x(-|x - y| / T)}

    over the real samples y+ and the other synthetic samples y-; the first softmax is over both.
    Source: Deng et al. 2026, eq. 11 and algorithm 2.
    """
    return _field(real, fake, _distances(real, fake), temperature)


def _distances(real: Tensor, fake: Tensor) -> Tensor:
    """Return the distances (..., M, N + M) of ``fake`` to ``real`` and to each other, infinite to themselves."""
    among_fake = squared_distances(fake, fake).sqrt()
    own = torch.eye(fake.shape[-2], dtype=torch.bool, device=fake.device)
    return torch.cat([squared_distances(fake, real).sqrt(), among_fake.masked_fill(own, torch.inf)], -1)


def _field(real: Tensor, fake: Tensor, distances: Tensor, temperature: float) -> Tensor:
    """Return :func:`drift_field` for the :func:`_distances` of the samples."""
    count, logits = fake.shape[-2], -distances / temperature
    weights = ((logits.log_softmax(-1) + logits.log_softmax(-2)) / 2).exp()
    attraction, repulsion = weights[..., :-count], weights[..., -count:]
    toward = (attraction * repulsion.sum(-1, keepdim=True)) @ real
    away: Tensor = (repulsion * attraction.sum(-1, keepdim=True)) @ fake
    return toward - away
