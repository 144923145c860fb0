"""What the layers of a network put out for images, taken as one pass goes by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snngan.losses.entangled import layer_hooks


@torch.no_grad()
def activations(
    network: nn.Module, modules: Mapping[str, nn.Module], images: Tensor, chunk: int = 500
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits (N, K) and the activations (N, D) of each of ``modules``, float32 on the images' device.

    Args:
        network: in evaluation mode; maps images to logits.
        modules: of the network, by name, each run once a pass; see ``hidden_layers``.
        images: (N, C, H, W), N at least 1.
        chunk: images in each pass.
    """
    logits: list[Tensor] = []
    found: dict[str, Tensor] = {}
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        rows = slice(start, start + len(part))

        def see(name: str, output: Tensor, rows: slice = rows) -> None:
            points = output.flatten(1)
            if name not in found:  # whole at once: parts to be joined would take their memory twice
                found[name] = torch.empty(len(images), points.shape[1], device=points.device)
            found[name][rows] = points

        with layer_hooks(modules, see):
            logits.append(network(part).float())
    return torch.cat(logits), found
