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


class _Blocks(NamedTuple):
    """The anchors of a program, the neighbors that it processes at a time, and its warps."""

    rows: int
    columns: int
    warps: int


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
        self.padded_dims = 1 << (self.dims - 1).bit_length()
        self.low_dim, self.precision = self.dims <= LOW_DIM, PRECISION
        self.norm_bound, self.inverse = batch.norm_bound, batch.distance_factor * inverse * batch.norm_bound.square()
        self.rate = (self.inverse / math.log(2)).clamp(*RATES).float()
        if self.low_dim:
            self.features = features.new_zeros(self.dims, self.width)
            self.features[:, : self.count] = features.T / self.norm_bound
        else:
            self.features = features.new_zeros(self.width, self.padded_dims)
            self.features[: self.count, : self.dims] = features / self.norm_bound
        self.labels = self._pad(batch.labels, 0)
        squared_norms = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64).square()
        offsets = batch.squared_norms.squeeze(1) - squared_norms
        offsets = offsets.where(offsets > 1e-3 * squared_norms, 0.0)  # smaller ones are rounding
        self.offsets = self._pad((offsets / self.norm_bound.square()).float(), fused_kernels.MASKED_DISTANCE)
        if not self.low_dim:
            offsets, self.offsets = self.offsets, torch.empty_like(self.offsets)
            self._launch("add_squared_norms", _Blocks(64, 64, 4), 1, self.width, offsets, self.offsets)

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

        blocks = self._blocks(name)
        while True:
            programs = _num_processors(self.features.device) * 32 // blocks.warps
            shares = max(1, programs // math.ceil(anchors / blocks.rows))
            share = math.ceil(self.count / shares / LARGEST_BLOCK) * LARGEST_BLOCK
            shares = math.ceil(self.count / share)
            result: Tensor = self.offsets.new_empty((shares, *shape))
            arguments = (self.offsets, self.labels, self.rate, *inputs, result, self.count, self.width, share)
            options = {"D": self.dims, "COLUMNS": blocks.columns, "LOW_DIM": self.low_dim}
            try:
                self._launch(name, blocks, shares, anchors, *arguments, **options)
            except OutOfResources:  # memory on the chip, of which other GPUs have less than an H200
                if blocks.rows == 16:
                    raise
                blocks = blocks._replace(rows=blocks.rows // 2)
            else:
                return result

    def _blocks(self, name: str) -> _Blocks:
        """Return the sizes at which the compiler does not spill registers on an H200."""
        is_gradient = name == "sum_gradient"
        if self.low_dim:
            return _Blocks(64, 8 if self.dims <= 12 else 4, 1) if is_gradient else _Blocks(128, 8, 1)
        if self.precision == "ieee":
            return _Blocks(128, 32, 8) if is_gradient else _Blocks(64, 64, 4)
        if self.precision == "tf32x3":
            if self.dims > 128:
                return _Blocks(64, 32 if is_gradient else 64, 4)
            return _Blocks(128, 32 if is_gradient else 64, 8)
        return _Blocks(128, 64, 8)

    def _launch(
        self, name: str, blocks: _Blocks, shares: int, anchors: int, *arguments: Tensor | int, **options: Any
    ) -> None:
        options |= {"PADDED": self.padded_dims, "ROWS": blocks.rows, "PRECISION": self.precision}
        options["CHUNK"] = 16 if self.precision == "ieee" else min(self.padded_dims, 64)
        kernel = getattr(self.kernels, name)[(math.ceil(anchors / blocks.rows), shares)]
        with torch.cuda.device(self.features.get_device()):
            kernel(self.features, *arguments, **options, num_warps=blocks.warps, num_stages=1)


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
