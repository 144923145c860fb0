"""Batch normalization over the batches of all ranks, on CPU and GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.distributed import is_distributed, mean_over_ranks, rank_and_world_size


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization (N, C, ...) whose statistics in training mode are those of all ranks' batches of equal size.

    Unlike ``torch.nn.SyncBatchNorm`` it runs on the CPU too, and its gradient is differentiable, as gradient penalties
    need it. It takes over the parameters and buffers of ``norm``, which can load its state.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        if norm.momentum is None or not norm.track_running_stats:
            raise ValueError("batch normalization over several processes needs a momentum and running statistics")
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values, shape = features.float(), (1, -1, *[1] * (features.dim() - 2))
        dims = [dim for dim in range(features.dim()) if dim != 1]
        mean = mean_over_ranks(values.mean(dims))
        centered = values - mean.view(shape)
        variance = mean_over_ranks(centered.square().mean(dims))
        with torch.no_grad():
            count = features.numel() / features.shape[1] * rank_and_world_size()[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        normalized = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalized = torch.addcmul(self.bias.view(shape), normalized, self.weight.view(shape))
        return normalized.to(features.dtype)


def convert_batch_norm(network: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d and BatchNorm2d in ``network`` by :class:`SyncBatchNorm` if there are several ranks.

    Returns:
        ``network``, changed in place, or the replacement if ``network`` itself is one of these layers.
    """
    if not is_distributed():
        return network
    if isinstance(network, nn.BatchNorm1d | nn.BatchNorm2d):
        return SyncBatchNorm(network)
    for name, child in network.named_children():
        setattr(network, name, convert_batch_norm(child))
    return network
