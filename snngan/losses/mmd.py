"""The maximum mean discrepancy of two sets of samples under a mixture of Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snngan.distributed import gather_rows
from snngan.losses.pairwise import mean_distance, squared_distances


def squared_mmd(real: Tensor, fake: Tensor, widths: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0)) -> Tensor:
    """Return the unbiased estimate () of the squared discrepancy of ``real`` (N, D) and ``fake`` (M, D).

    The kernel is the mean of exp(-d / T) over T = each of ``widths`` times the mean squared distance of the batch.
    N and M count the samples of all ranks, and are at least 2.
    Source: Gretton et al. 2012, eq. 3; the mixture is that of Li et al. 2017.
    """
    real, fake = gather_rows(real), gather_rows(fake)
    features = torch.cat([real, fake]).double()
    centered = features - features.detach().mean(0)
    distances = squared_distances(centered, centered)
    scale = mean_distance(distances.detach())
    scale = torch.where(scale > 0, scale, 1.0)  # if all samples are equal, every width gives the same kernel
    kernel = torch.stack([torch.exp(-distances / (width * scale)) for width in widths]).mean(0)
    kernel = kernel - torch.diag(kernel.diagonal())
    n, m = len(real), len(fake)
    within = kernel[:n, :n].sum() / (n * (n - 1)) + kernel[n:, n:].sum() / (m * (m - 1))
    return (within - 2 * kernel[:n, n:].mean()).to(torch.promote_types(real.dtype, torch.float32))
