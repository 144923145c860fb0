"""Losses and weights that are not finite: where they are looked for, and the message that says what helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from snngan.config import ClassifyConfig, Config
from snngan.distributed import mean_over_ranks

HUGE = 1e4
"""A weight of this size is taken to mean that a network grows without bound."""


class DivergedError(RuntimeError):
    """A loss or a weight is not finite: the message names step, network and parameter, and says what helps."""


class LossMonitor:
    """Keeps the losses of the last steps on the device and reads them periodically: reading waits for a GPU."""

    def __init__(self) -> None:
        self._unread: list[tuple[int, str, Tensor]] = []

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep the losses of one step by name: () of one network, or (E,) of several."""
        self._unread += [(step, name, loss.detach()) for name, loss in losses.items()]

    def read(self) -> list[tuple[int, str, list[float]]]:
        """Return step, name and values of each loss kept since the last call, means over the ranks, in one read."""
        if not self._unread:
            return []
        values = mean_over_ranks(torch.cat([loss.reshape(-1) for _, _, loss in self._unread]))
        parts = torch.split(values.cpu(), [loss.numel() for _, _, loss in self._unread])
        found = [(step, name, part.tolist()) for (step, name, _), part in zip(self._unread, parts, strict=True)]
        self._unread.clear()
        return found


def collect_weights(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the floating-point parameters and buffers of networks by a name for a message."""
    return {
        f"the {name}'s {key}": tensor
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether every value of all tensors is finite; waits for the device once."""
    flags = [tensor.isfinite().all() for tensor in tensors]
    return not flags or bool(torch.stack(flags).all())


def describe_values(tensors: Mapping[str, Tensor]) -> str:
    """Return in words which of some tensors, by name, is not finite, or else which is largest."""
    bad = {name: int((~tensor.isfinite()).sum()) for name, tensor in tensors.items()}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        name, count = next(iter(bad.items()))
        more = f" (and some of {len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"{count} of the {tensors[name].numel()} values of {name}{more} are not finite"
    sizes = {name: float(tensor.abs().max()) for name, tensor in tensors.items() if tensor.numel()}
    if not sizes:
        return "the networks have 0 weights"
    name = max(sizes, key=lambda each: sizes[each])
    return f"all weights are finite, the largest is {sizes[name]:.3g} in {name}"


def advise(config: Config, networks: Mapping[str, nn.Module]) -> str:
    """Return what helps a run of ``config`` that diverges, from first to last."""
    remedies = ["a lower --learning-rate"]
    if isinstance(config, ClassifyConfig) and (config.alpha or config.alpha_final):
        remedies.append("an --alpha nearer to 0")
    if config.precision == "bf16":
        remedies.append("--precision fp32")
    weights: Sequence[Tensor] = list(networks["discriminator"].parameters()) if "discriminator" in networks else []
    if any(bool((weight.detach().abs() > HUGE).any()) for weight in weights):
        remedies.append("an objective that bounds its discriminator, such as wgan-gp or hinge")
    return "Try " + ", or ".join(remedies)


def explain_divergence(config: Config, networks: Mapping[str, nn.Module], images: Tensor) -> str:
    """Return why a loss is not finite, as far as the weights and the real ``images`` show it, and what helps."""
    if images.is_floating_point() and not bool(images.isfinite().all()):
        return "the real images hold NaN or infinity. Correct the data, and start a new run"
    return f"{describe_values(collect_weights(networks))}. {advise(config, networks)}"
