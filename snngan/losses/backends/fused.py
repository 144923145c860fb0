"""The log-odds of a batch on a GPU, in Triton: no tile leaves the chip, and memory is O(N D).

Each program holds a block of anchors and walks over their neighbors. It keeps four numbers an anchor: the distance of
the nearest neighbor and the sum of exp(-(d - nearest)/T), of the anchor's class and of the others. A sum that meets a
nearer neighbor is scaled to it, so no T is too cold; the log-odds are formed from these numbers in float64. The
backward pass makes the weights anew and gathers S_ij (x_i - x_j) over j, where S = W + W^T and W_ij is the slope of
the log-odds of i along d_ij.

Sums are in float32. What tells precisions apart is the distances, d_ij = factor * (own_i + own_j + |x_i - x_j|^2):

- Up to ``THIN`` dimensions |x_i - x_j|^2 is the sum of squared differences in float32, in which nothing cancels.
- Beyond, it is |x_i|^2 + |x_j|^2 - 2 x_i x_j of centered points. ``PRECISION`` says how products are taken: "ieee",
  the default, in float32 on the ordinary cores; "tf32x3" on the matrix units from float32 split in two TF32 numbers,
  which keeps all digits but the last; "tf32" with three digits. The lengths |x_i|^2 are such products themselves and
  round alike, so that duplicates are at distance 0.
- The products of weights and points in the gradient, where nothing is magnified, are split TF32 under "ieee" too.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.losses.autograd import first_derivatives_only

PRECISION: Literal["ieee", "tf32x3", "tf32"] = "ieee"
"""Of products of points, as said above."""
THIN = 16
WIDEST = 256
"""Dimensions up to which a gradient's block of anchors stays on the chip."""
RATES = (1e-12, 1e22)
"""Bounds of 1/T in the kernels, where the largest coordinate is 1/2 to 1: weights beyond are as at infinity and 0."""
FAR = 1e15
"""The distance there of what is no neighbor, a point itself or none: no T within the bounds gives it a weight."""
LARGEST_BLOCK = 128


def refusal(points: Tensor) -> str | None:
    """Return why this backend does not take ``points`` (N, ...), or None where it does."""
    dims = math.prod(points.shape[1:])
    if points.dtype == torch.float64:
        return 'backend="fused" takes points of float32 or narrower, not float64: use backend="tiled"'
    if not 1 <= dims <= WIDEST:
        return f'backend="fused" takes points of 1 to {WIDEST} dimensions, not {dims}: use backend="tiled"'
    if not is_available(points.device):
        return (
            'backend="fused" needs Triton and points on an NVIDIA GPU of compute capability 8 or above, '
            f'not on {points.device}: use backend="tiled"'
        )
    return None


def is_available(device: torch.device) -> bool:
    """Return whether Triton is there and can run on ``device``, or anywhere through its interpreter."""
    if not _has_triton():
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class _Blocks(NamedTuple):
    """A program's anchors, the neighbors that it takes at a time, and its warps."""

    rows: int
    columns: int
    warps: int


class _Batch:
    """The points of a batch as the kernels want them: divided by ``unit``, and filled up so that no block reads past
    the end.

    ``own`` is the own_i of the module's formula; for points that are not thin |x_i|^2 is added to it.
    """

    def __init__(
        self, points: Tensor, squares: Tensor, unit: Tensor, labels: Tensor, factor: float, inverse: Tensor
    ) -> None:
        self.count, self.dims = points.shape
        self.width = math.ceil(self.count / LARGEST_BLOCK + 1) * LARGEST_BLOCK
        self.padded = 1 << (self.dims - 1).bit_length()
        self.thin, self.precision = self.dims <= THIN, PRECISION
        self.unit, self.inverse = unit, factor * inverse * unit.square()
        self.rate = (self.inverse / math.log(2)).clamp(*RATES).float()
        if self.thin:
            self.points = points.new_zeros(self.dims, self.width)
            self.points[:, : self.count] = points.T / self.unit
        else:
            self.points = points.new_zeros(self.width, self.padded)
            self.points[: self.count, : self.dims] = points / self.unit
        self.labels = self._filled(labels, 0)
        lengths = torch.linalg.vector_norm(points, dim=1, dtype=torch.float64).square()
        own = squares.squeeze(1) - lengths
        own = own.where(own > 1e-3 * lengths, 0.0)  # else the two differ by rounding
        self.own = self._filled((own / self.unit.square()).float(), FAR)
        if not self.thin:
            plain, self.own = self.own, torch.empty_like(self.own)
            self._launch("lengths", _Blocks(64, 64, 4), 1, self.width, plain, self.own)

    def _filled(self, values: Tensor, value: float) -> Tensor:
        """Return ``values`` (..., N) as (..., width), with ``value`` in the new places."""
        return F.pad(values, (0, self.width - self.count), value=value)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return the distance of the nearest neighbor and the sum over all (2, N), of the class and of the others."""
        near, sums = self._run("sums", (4, self.count), self.count).chunk(2, dim=1)
        nearest = near.amin(0)
        sums = sums * torch.exp2((nearest - near) * self.rate)
        return nearest.double(), sums.sum(0, dtype=torch.float64)

    def pull(self, nearest: Tensor, of: Tensor, moving: slice) -> Tensor:
        """Return the sum (n, D) over j of S_ij (x_i - x_j), for the n points ``moving``.

        ``of`` (2, N): what a weight counts for in the slope of its anchor, of the class and of the others.
        """
        kept = self._filled(torch.cat([nearest, of]).float(), 0.0)
        anchors = moving.stop - moving.start
        pulled: Tensor = self._run("pull", (anchors, self.dims), anchors, kept, moving.start, moving.stop).sum(0)
        return pulled

    def _run(self, name: str, shape: tuple[int, int], anchors: int, *inputs: Tensor | int) -> Tensor:
        """Return what a kernel finds in each share of the neighbors: (shares, *shape)."""
        from triton.runtime.errors import OutOfResources

        blocks = self._blocks(name)
        while True:
            programs = _num_processors(self.points.device) * 32 // blocks.warps
            shares = max(1, programs // math.ceil(anchors / blocks.rows))
            share = math.ceil(self.count / shares / LARGEST_BLOCK) * LARGEST_BLOCK
            shares = math.ceil(self.count / share)
            found: Tensor = self.own.new_empty((shares, *shape))
            arguments = (self.own, self.labels, self.rate, *inputs, found, self.count, self.width, share)
            options = {"D": self.dims, "COLUMNS": blocks.columns, "THIN": self.thin}
            try:
                self._launch(name, blocks, shares, anchors, *arguments, **options)
            except OutOfResources:  # of memory on the chip, which other GPUs have less of than an H200
                if blocks.rows == 16:
                    raise
                blocks = blocks._replace(rows=blocks.rows // 2)
            else:
                return found

    def _blocks(self, name: str) -> _Blocks:
        """Return what keeps the compiler, for an H200, from spilling registers."""
        pulling = name == "pull"
        if self.thin:
            return _Blocks(64, 8 if self.dims <= 12 else 4, 1) if pulling else _Blocks(128, 8, 1)
        if self.precision == "ieee":
            return _Blocks(128, 32, 8) if pulling else _Blocks(64, 64, 4)
        if self.precision == "tf32x3":
            if self.dims > 128:
                return _Blocks(64, 32 if pulling else 64, 4)
            return _Blocks(128, 32 if pulling else 64, 8)
        return _Blocks(128, 64, 8)

    def _launch(
        self, name: str, blocks: _Blocks, shares: int, anchors: int, *arguments: Tensor | int, **options: int
    ) -> None:
        from snngan.losses.backends import fused_kernels

        chunk = 16 if self.precision == "ieee" else min(self.padded, 64)
        with torch.cuda.device(self.points.get_device()):
            getattr(fused_kernels, name)[(math.ceil(anchors / blocks.rows), shares)](
                self.points, *arguments, PADDED=self.padded, CHUNK=chunk, ROWS=blocks.rows, PRECISION=self.precision,
                num_warps=blocks.warps, num_stages=1, **options,
            )  # fmt: skip


def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


class FusedLogOdds(torch.autograd.Function):
    """Log-odds z (N,) in float64 of ``points`` (N, D), centered or of unit length; once differentiable.

    ``squares`` (N, 1), ``unit`` and ``factor`` are those of :class:`Pairs`, ``labels`` (N,) any integers, ``members``
    (N,) how many points bear the label of each; only the points ``moving`` want a gradient. ``link`` (0, D) is
    connected with the points; see :func:`first_derivatives_only`.
    """

    @staticmethod
    def forward(
        ctx: Any, link: Tensor, points: Tensor, squares: Tensor, unit: Tensor, labels: Tensor, members: Tensor,
        factor: float, inverse: Tensor, moving: slice,
    ) -> Tensor:  # fmt: skip
        reason = refusal(points)
        if reason:
            raise ValueError(reason)
        batch = _Batch(points, squares, unit, labels, factor, inverse)
        nearest, sums = batch.sums()
        anchors, has_other = members > 1, members < len(points)
        ctx.save_for_backward(link, nearest, sums, anchors & has_other)
        ctx.batch, ctx.moving, ctx.dtype = batch, moving, points.dtype
        odds = batch.inverse * (nearest[0] - nearest[1]) + sums[1].log() - sums[0].log()
        return odds.masked_fill_(~has_other, -torch.inf).masked_fill_(~anchors, 0.0)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None, None, None, None, None, None]:
        _, nearest, sums, active = ctx.saved_tensors
        batch, moving = ctx.batch, ctx.moving
        of = torch.stack([grad, -grad]).div_(sums).where(active, 0.0)
        gradient = torch.zeros((batch.count, batch.dims), dtype=ctx.dtype, device=grad.device)
        if moving.start < moving.stop:
            gradient[moving] = batch.pull(nearest, of, moving) * (2 * batch.inverse / batch.unit)
        return None, gradient, None, None, None, None, None, None, None
