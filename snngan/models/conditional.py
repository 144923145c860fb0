"""Layers of class-conditional networks, which take labels (N,) beside their input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LabeledSequential(nn.ModuleList):
    """A sequence of layers that passes ``labels`` (N,) on to those that take them."""

    takes_labels = True

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        for layer in self:
            inputs = layer(inputs, labels) if getattr(layer, "takes_labels", False) else layer(inputs)
        return inputs


class OneHotInput(nn.Module):
    """Appends the one-hot code of the labels to vectors (N, D): the result is (N, D + num_classes)."""

    takes_labels = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        code = labels[:, None] == torch.arange(self.num_classes, device=labels.device)  # F.one_hot reads values
        return torch.cat([vectors, code.to(vectors.dtype)], 1)


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalization (N, C, H, W) with a scale and a shift for each class.

    Source: Dumoulin et al. 2017, "A Learned Representation for Artistic Style", and Miyato and Koyama 2018.
    """

    takes_labels = True

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = nn.Embedding(num_classes, channels), nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        scale, shift = (each(labels)[:, :, None, None] for each in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(maps), scale)


class ProjectionDiscriminator(nn.Module):
    """The output (N, output_dim) of a linear layer on features (N, D), and of another one for each class.

    With one output the second is the inner product of the features with an embedding of the class: Miyato and Koyama
    2018, "cGANs with Projection Discriminator", eq. 3.
    """

    def __init__(self, features: nn.Module, dims: int, output_dim: int, num_classes: int) -> None:
        super().__init__()
        self.features, self.linear = features, nn.Linear(dims, output_dim)
        self.by_class = nn.Embedding(num_classes, output_dim * dims)
        nn.init.normal_(self.by_class.weight, std=dims**-0.5)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        outputs: Tensor = self.linear(features)
        weights = self.by_class(labels).view(*outputs.shape, -1)
        return torch.baddbmm(outputs[..., None], weights, features[..., None]).squeeze(-1)


def sequential(layers: list[nn.Module], num_classes: int) -> nn.Module:
    """Return the layers one after the other, as a network that takes labels if there are classes."""
    return LabeledSequential(layers) if num_classes else nn.Sequential(*layers)


def with_output(layers: list[nn.Module], dims: int, output_dim: int, num_classes: int) -> nn.Module:
    """Return a discriminator (N, output_dim) on the features (N, dims) of ``layers``, by projection for classes."""
    if num_classes:
        return ProjectionDiscriminator(nn.Sequential(*layers), dims, output_dim, num_classes)
    return nn.Sequential(*layers, nn.Linear(dims, output_dim))
