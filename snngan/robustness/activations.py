"""The activations of a network's layers for a set of images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snngan.losses.entangled import layer_hooks


@torch.no_grad()
def compute_activations(
    network: nn.Module, modules: Mapping[str, nn.Module], images: Tensor, chunk: int = 500
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits (N, K) and the activations (N, D) of each of ``modules``, float32 on the images' device.

    Args:
        network: in evaluation mode; maps images to logits.
        modules: modules of the network by name, each called once in a forward pass; see ``hidden_layers``.
        images: (N, C, H, W) with N at least 1.
        chunk: number of images in each forward pass.
    """
    logits: list[Tensor] = []
    activations: dict[str, Tensor] = {}
    for start in range(0, len(images), chunk):

        def store(name: str, output: Tensor, start: int = start) -> None:
            features = output.flatten(1)
            if name not in activations:  # allocated whole: concatenating the chunks would take twice the memory
                activations[name] = torch.empty(len(images), features.shape[1], device=features.device)
            activations[name][start : start + chunk] = features

        with layer_hooks(modules, store):
            logits.append(network(images[start : start + chunk]).float())
    return torch.cat(logits), activations
