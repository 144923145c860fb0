"""The log-odds of a batch on a GPU, in Triton: no tile leaves the chip, and memory is O(N D).

Each program holds a block of anchors and loops over their neighbors. It keeps four numbers per anchor: the distance of
the nearest neighbor and the sum of exp(-(d - nearest)/T), for the anchor's class and for the others. When a nearer
neighbor appears, the sum is rescaled to it, so no T is too low. The log-odds are computed from these numbers in
float64. The backward pass computes the weights again and sums S_ij (x_i - x_j) over j, where S = W + W^T and W_ij is
the slope of the log-odds of i along d_ij.

Sums are in float32. Precision depends on the distances, d_ij = factor * (offset_i + offset_j + |x_i - x_j|^2):

- Up to ``LOW_DIM`` dimensions |x_i - x_j|^2 is the sum of squared differences in float32, in which nothing cancels.
- Beyond, it is |x_i|^2 + |x_j|^2 - 2 x_i x_j of centered features. ``PRECISION`` is that of the products: "ieee", the
  default, in float32 on the ordinary cores; "tf32x3" on the matrix units from float32 split into two TF32 numbers,
  which keeps all digits except the last; "tf32" with three digits. The norms |x_i|^2 are such products too and round
  alike, so that duplicates have distance 0.
- The products of weights and features in the gradient, where nothing is magnified, use split TF32 for "ieee" too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.backends import LogOdds
from snngan.losses.pairwise import PairwiseBatch

PRECISION: Literal["ieee", "tf32x3", "tf32"] = "ieee"
"""Of products of features; see above."""
LOW_DIM = 16
RATES = (1e-12, 1e22)
"""Bounds of 1/T in the kernels, where the largest norm is 1/2 to 1: beyond them weights are those at infinity and 0."""
LARGEST_BLOCK = 128


class Blocks(NamedTuple):
    """The anchors of a program, the neighbors that it processes at a time, and its warps."""

    rows: int
    columns: int
    warps: int


def choose_blocks(kernel: str, dims: int, precision: str, capability: tuple[int, int]) -> Blocks:
    """Return the largest blocks at which a kernel spills no registers, on GPUs of this compute capability or of later
    ones, and fits in the memory of their chips. ``scripts/check_kernels`` compiles all of them. Beyond 128 dimensions
    TF32 spills some bytes.
    """
    is_recent = capability >= (9, 0)  # larger chips, whose matrix units read this memory themselves
    if dims <= LOW_DIM:
        return Blocks(128, 8, 1) if kernel == "sum_weights" else Blocks(64, 8 if dims <= 10 else 4, 1)
    if kernel == "add_squared_norms":  # on the same units as the products of other kernels, so that they round alike
        return Blocks(64 if is_recent else 32, 0, 4)
    if capability >= (10, 0) and (kernel, precision) == ("sum_gradient", "ieee") and dims <= 128:
        return Blocks(128, 16, 8)
    return BLOCKS[kernel, precision, is_recent][dims > 128]


BLOCKS: dict[tuple[str, str, bool], tuple[Blocks, Blocks]] = {
    ("sum_weights", "ieee", False): (Blocks(64, 64, 8), Blocks(64, 64, 8)),
    ("sum_weights", "tf32x3", False): (Blocks(64, 16, 4), Blocks(32, 16, 4)),
    ("sum_weights", "tf32", False): (Blocks(128, 64, 8), Blocks(64, 64, 8)),
    ("sum_gradient", "ieee", False): (Blocks(64, 32, 8), Blocks(32, 32, 8)),
    ("sum_gradient", "tf32x3", False): (Blocks(32, 32, 8), Blocks(32, 32, 8)),
    ("sum_gradient", "tf32", False): (Blocks(128, 32, 8), Blocks(32, 32, 8)),
    ("sum_weights", "ieee", True): (Blocks(64, 64, 8), Blocks(64, 64, 8)),
    ("sum_weights", "tf32x3", True): (Blocks(128, 64, 8), Blocks(64, 16, 4)),
    ("sum_weights", "tf32", True): (Blocks(128, 64, 8), Blocks(128, 64, 8)),
    ("sum_gradient", "ieee", True): (Blocks(128, 32, 8), Blocks(32, 32, 8)),
    ("sum_gradient", "tf32x3", True): (Blocks(128, 16, 8), Blocks(32, 32, 8)),
    ("sum_gradient", "tf32", True): (Blocks(128, 32, 8), Blocks(32, 32, 8)),
}
"""By kernel, precision and whether the GPU is of compute capability 9.0 or later: up to 128 dimensions, and beyond."""


def kernel_constants(kernel: str, dims: int, precision: str, blocks: Blocks) -> dict[str, Any]:
    """Return the constants that a kernel is compiled for."""
    padded = _padded(dims)
    constants = {"PADDED": padded, "ROWS": blocks.rows, "PRECISION": precision}
    constants["CHUNK"] = 16 if precision == "ieee" else min(padded, 64)
    if kernel != "add_squared_norms":
        constants |= {"D": dims, "COLUMNS": blocks.columns, "LOW_DIM": dims <= LOW_DIM}
    return constants


def _padded(dims: int) -> int:
    """Return the next power of two."""
    return 1 << (dims - 1).bit_length()


class _Launcher:
    """The arrays of a batch as the kernels need them: divided by ``norm_bound``, and padded so that no block reads
    past the end.

    ``offsets`` holds offset_i of the module's formula, to which |x_i|^2 is added for more than ``LOW_DIM`` dimensions.
    """

    def __init__(self, batch: PairwiseBatch, inverse: Tensor) -> None:
        from snngan.losses.backends import fused_kernels  # needs Triton

        self.kernels, features = fused_kernels, batch.features
        self.count, self.dims = features.shape
        self.width = math.ceil(self.count / LARGEST_BLOCK + 1) * LARGEST_BLOCK
        self.low_dim, self.precision = self.dims <= LOW_DIM, PRECISION
        is_cuda = features.device.type == "cuda"  # else Triton's interpreter
        self.capability = torch.cuda.get_device_capability(features.device) if is_cuda else (9, 0)
        self.norm_bound, self.inverse = batch.norm_bound, batch.distance_factor * inverse * batch.norm_bound.square()
        self.rate = (self.inverse / math.log(2)).clamp(*RATES).float()
        if self.low_dim:
            self.features = features.new_zeros(self.dims, self.width)
            self.features[:, : self.count] = features.T / self.norm_bound
        else:
            self.features = features.new_zeros(self.width, _padded(self.dims))
            self.features[: self.count, : self.dims] = features / self.norm_bound
        self.labels = self._pad(batch.labels, 0)
        squared_norms = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64).square()
        offsets = batch.squared_norms.squeeze(1) - squared_norms
        offsets = offsets.where(offsets > 1e-3 * squared_norms, 0.0)  # smaller ones are rounding
        self.offsets = self._pad((offsets / self.norm_bound.square()).float(), fused_kernels.MASKED_DISTANCE)
        if not self.low_dim:
            offsets, self.offsets = self.offsets, torch.empty_like(self.offsets)
            blocks = choose_blocks("add_squared_norms", self.dims, self.precision, self.capability)
            self._launch("add_squared_norms", blocks, 1, self.width, offsets, self.offsets)

    def _pad(self, values: Tensor, value: float) -> Tensor:
        return F.pad(values, (0, self.width - self.count), value=value)

    def sum_weights(self) -> tuple[Tensor, Tensor]:
        """Return the distance of the nearest neighbor and the sum over all (2, N), of the class and of the others."""
        near, sums = self._run("sum_weights", (4, self.count), self.count).chunk(2, dim=1)
        nearest = near.amin(0)
        sums = sums * torch.exp2((nearest - near) * self.rate)
        return nearest.double(), sums.sum(0, dtype=torch.float64)

    def sum_gradient(self, nearest: Tensor, slopes: Tensor, rows: slice) -> Tensor:
        """Return the sum (n, D) over j of S_ij (x_i - x_j), for the n samples ``rows``.

        ``slopes`` (2, N): those of each anchor's log-odds by a weight of its class, and of the others.
        """
        saved = self._pad(torch.cat([nearest, slopes]).float(), 0.0)
        anchors = rows.stop - rows.start
        return self._run("sum_gradient", (anchors, self.dims), anchors, saved, rows.start, rows.stop).sum(0)

    def _run(self, name: str, shape: tuple[int, int], anchors: int, *inputs: Tensor | int) -> Tensor:
        """Return the results of a kernel for each share of the neighbors: (shares, *shape)."""
        from triton.runtime.errors import OutOfResources

        blocks = choose_blocks(name, self.dims, self.precision, self.capability)
        while True:
            programs = _num_processors(self.features.device) * 32 // blocks.warps
            shares = max(1, programs // math.ceil(anchors / blocks.rows))
            share = math.ceil(self.count / shares / LARGEST_BLOCK) * LARGEST_BLOCK
            shares = math.ceil(self.count / share)
            result: Tensor = self.offsets.new_empty((shares, *shape))
            arguments = (self.offsets, self.labels, self.rate, *inputs, result, self.count, self.width, share)
            try:
                self._launch(name, blocks, shares, anchors, *arguments)
            except OutOfResources:  # memory on the chip, of which older GPUs have less
                if blocks.rows == 16:
                    raise
                blocks = blocks._replace(rows=blocks.rows // 2)
            else:
                return result

    def _launch(self, name: str, blocks: Blocks, shares: int, anchors: int, *arguments: Tensor | int) -> None:
        constants = kernel_constants(name, self.dims, self.precision, blocks)
        kernel = getattr(self.kernels, name)[(math.ceil(anchors / blocks.rows), shares)]
        with torch.cuda.device(self.features.get_device()):
            kernel(self.features, *arguments, **constants, num_warps=blocks.warps, num_stages=1)


def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def fused_log_odds(batch: PairwiseBatch, inverses: Tensor) -> LogOdds:
    """Compute log-odds as ``LogOdds`` describes."""
    launchers = [_Launcher(batch, inverse) for inverse in inverses]
    odds, saved = [], [batch.is_anchor & batch.has_other_class]
    for launcher in launchers:
        nearest, sums = launcher.sum_weights()
        saved += [nearest, sums]
        z = launcher.inverse * (nearest[0] - nearest[1]) + sums[1].log() - sums[0].log()
        odds.append(z.masked_fill_(~batch.has_other_class, -torch.inf).masked_fill_(~batch.is_anchor, 0.0))
    return (
        torch.stack(odds),
        saved,
        partial(_gradients, launchers, batch.needs_grad, batch.features.dtype),
    )


def _gradients(
    launchers: list[_Launcher], rows: slice, dtype: torch.dtype, grad: Tensor, is_active: Tensor, *saved: Tensor
) -> Iterator[Tensor]:
    for k in reversed(range(len(launchers))):
        launcher, nearest, sums = launchers[k], *saved[2 * k : 2 * k + 2]
        slopes = torch.stack([grad[k], -grad[k]]).div_(sums).where(is_active, 0.0)
        gradient = torch.zeros((launcher.count, launcher.dims), dtype=dtype, device=grad.device)
        if rows.start < rows.stop:
            factor = 2 * launcher.inverse / launcher.norm_bound
            gradient[rows] = launcher.sum_gradient(nearest, slopes, rows) * factor
        yield gradient
