"""The maximum mean discrepancy of two sets of samples under a mixture of Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snngan.losses.pairwise import split_classes, squared_distances


def squared_mmd(
    real: Tensor,
    fake: Tensor,
    widths: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0),
    *,
    classes: tuple[Tensor, Tensor] | None = None,
    num_classes: int = 1,
) -> Tensor:
    """Return the unbiased estimate () of the squared discrepancy of ``real`` (N, D) and ``fake`` (M, D).

    The kernel is the mean of exp(-d / T) over T = each of ``widths`` times the mean squared distance of the batch.
    N and M count the samples of all ranks, and are at least 2. With ``classes`` (N,) and (M,), 0 to ``num_classes`` - 1
    and each as frequent as the others, it is the mean of the discrepancies within classes.
    Source: Gretton et al. 2012, eq. 3; the mixture is that of Li et al. 2017.
    """
    real, fake = (
        split_classes(side, None if classes is None else classes[index], num_classes)
        for index, side in enumerate((real, fake))
    )
    features = torch.cat([real, fake], 1).double()
    centered = features - features.detach().mean(1, keepdim=True)
    distances = squared_distances(centered, centered)
    n, m = real.shape[1], fake.shape[1]
    scale = distances.detach().sum((1, 2), keepdim=True) / ((n + m) * (n + m - 1))
    scale = torch.where(scale > 0, scale, 1.0)  # if all samples are equal, every width gives the same kernel
    kernel = torch.stack([torch.exp(-distances / (width * scale)) for width in widths]).mean(0)
    kernel = kernel - torch.diag_embed(kernel.diagonal(dim1=1, dim2=2))
    within = kernel[:, :n, :n].sum((1, 2)) / (n * (n - 1)) + kernel[:, n:, n:].sum((1, 2)) / (m * (m - 1))
    found: Tensor = (within - 2 * kernel[:, :n, n:].mean((1, 2))).mean()
    return found.to(torch.promote_types(real.dtype, torch.float32))
