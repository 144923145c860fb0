"""What the training loops share: how they end, the watch over losses and weights, the state of torch's generators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from snngan.losses.gather import mean_over_ranks

Report = Callable[[int, dict[str, float]], None]
DIVERGED_REMEDY = "the checkpoints before it are kept. Try a lower --learning-rate"


class DivergedError(RuntimeError):
    """A loss or a weight that is not finite: the message names step, loss and network."""


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    step: int
    finished: bool
    """False: it was asked to stop, and saved first."""
    scalars: dict[str, float]
    """The last reading, by TensorBoard tag."""
    seconds: float
    tracking_seconds: float
    """How much of ``seconds`` went into entanglement readings."""
    measuring_seconds: float
    """How much went into the other figures."""


class LossWatch:
    """Keeps the losses of the last steps on the device and reads them only now and then: reading waits for a GPU."""

    def __init__(self, check_every: int) -> None:
        self.check_every = check_every
        self._unread: list[tuple[int, str, Tensor, Sequence[str]]] = []

    def note(self, step: int, name: str, loss: Tensor, networks: Sequence[str] = ()) -> None:
        """Remember a loss at one step: () of one network, or (E,) of several ``networks``; default: ``name``."""
        self._unread.append((step, name, loss.detach(), networks or [name]))

    def check(self) -> dict[str, float]:
        """Return the newest value of each loss by tag, the mean where several networks have it.

        Raises:
            DivergedError: one of the losses since the last check is not finite.
        """
        values = {}
        read = self._of_all_ranks()
        for (step, name, _, networks), each in zip(self._unread, read, strict=True):
            for network, value in zip(networks, each, strict=True):
                if not math.isfinite(value):
                    raise DivergedError(f"step {step}: the {network}'s loss is {value}; {DIVERGED_REMEDY}")
            values[f"loss/{name}"] = math.fsum(each) / len(each)
        self._unread.clear()
        return values

    def _of_all_ranks(self) -> list[list[float]]:
        """Return the values of each loss that is unread, the mean over ranks, in one message and one read."""
        if not self._unread:
            return []
        losses = [loss.reshape(-1) for _, _, loss, _ in self._unread]
        values = iter(mean_over_ranks(torch.cat(losses)).tolist())
        return [list(islice(values, len(loss))) for loss in losses]


def check_weights(step: int, networks: Mapping[str, nn.Module]) -> None:
    """Raise ``DivergedError`` if a network holds NaN or infinity: a finite loss can have a gradient that is not."""
    for name, network in networks.items():
        if not all(bool(part.isfinite().all()) for part in network.state_dict().values()):
            raise DivergedError(
                f"step {step}: the {name}'s weights are not finite, though its loss was; {DIVERGED_REMEDY}"
            )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's own generators, for a checkpoint."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch_rng": torch.get_rng_state(), "cuda_rng": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Bring torch's own generators to where :func:`random_state` found them."""
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], device)
