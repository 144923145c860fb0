"""The fully connected autoencoder x-500-500-2000-d-2000-500-500-x of the implementation pt-snnl."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from snngan.models import ImageShape
from snngan.models.layers import fully_connected


class Autoencoder(nn.Module):
    """Encodes images as short codes and reconstructs them.

    ``encoder`` maps images (N, C, H, W) to codes (N, code); ``decoder`` maps codes to images in [-1, 1]. The layers of
    the encoder are ``encoder.fc1``, ``encoder.fc2``, ... (with ReLU) and ``encoder.code`` (linear). Name the layers of
    a layer loss explicitly: ``"*"`` means every nonlinearity, which includes the decoder's and excludes the code.

    Args:
        image_shape: (C, H, W).
        code: length of the code, at least 1.
        widths: units of the encoder's hidden layers; the decoder has them in reverse order.

    Example:
        >>> import torch
        >>> from snngan import EntangledLoss
        >>> model = Autoencoder((1, 28, 28), code=10)
        >>> def error(output, images, labels):
        ...     return nn.functional.mse_loss(output, images)
        >>> criterion = EntangledLoss(model, "encoder.code", alpha=0.1, task=error)  # disentangles the code
        >>> criterion(torch.rand(8, 1, 28, 28), torch.arange(8) % 4).backward()
    """

    def __init__(self, image_shape: ImageShape, code: int, widths: Sequence[int] = (500, 500, 2000)) -> None:
        super().__init__()
        if min(code, *widths) < 1:
            raise ValueError(f"code and widths must be 1 or more, got {code} and {tuple(widths)}")
        sizes = [math.prod(image_shape), *widths]
        encoder = {"flat": nn.Flatten(), **fully_connected(sizes), "code": nn.Linear(sizes[-1], code)}
        decoder: list[nn.Module] = []
        for inputs, outputs in pairwise([code, *sizes[:0:-1]]):
            decoder += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.encoder = nn.Sequential(OrderedDict(encoder))
        self.decoder = nn.Sequential(*decoder, nn.Linear(sizes[1], sizes[0]), nn.Unflatten(1, image_shape), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.decoder(self.encoder(images))
        return output
