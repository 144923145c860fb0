"""What the training loops share: how they end, the watch over losses and weights, the state of torch's generators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from snngan.distributed import mean_over_ranks

Report = Callable[[int, dict[str, float]], None]
EXPLODED = 1e4
"""The size of a weight that speaks for a network that grows without bound."""


class DivergedError(RuntimeError):
    """A loss or a weight that is not finite: the message names step, network and parameter, and says what helps."""


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


class LossMonitor:
    """Keeps the losses of the last steps on the device and reads them only now and then: reading waits for a GPU."""

    def __init__(self, check_every: int, explain: Callable[[], str] = lambda: "no network was looked at") -> None:
        self.check_every = check_every
        self._explain = explain
        self._unread: list[tuple[int, str, Tensor, Sequence[str]]] = []

    def judge(self, step: int, name: str, loss: Tensor) -> None:
        """Raise ``DivergedError`` if a loss () is not finite, before anything follows from it; this waits for it."""
        self._refuse(step, name, float(loss.detach()))

    def _refuse(self, step: int, network: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(f"step {step}: the {network}'s loss is {loss}; {self._explain()}")

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
                self._refuse(step, network, value)
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


def check_weights(
    step: int, networks: Mapping[str, nn.Module], remembered: Mapping[str, Tensor], remedies: Sequence[str]
) -> None:
    """Raise ``DivergedError`` if a network, or what its optimizer has ``remembered`` of it, holds NaN or infinity.

    A finite loss can have a gradient that is not, and a weight whose squared gradient overflows never moves again.
    """
    values = {**_values_of(networks), **remembered}
    if values and not bool(torch.stack([part.isfinite().all() for part in values.values()]).all()):
        raise DivergedError(f"step {step}: {culprit(values)}, though the losses were. {_try(remedies, networks)}")


def explained(networks: Mapping[str, nn.Module], remedies: Sequence[str], images: Tensor | None = None) -> str:
    """Return why a loss is not finite, as far as weights and the real ``images`` show it, and what helps."""
    if images is not None and images.is_floating_point() and not bool(images.isfinite().all()):
        return "the real images hold NaN or infinity. Mend the data, and begin a new run"
    return f"{culprit(_values_of(networks))}. {_try(remedies, networks)}"


def remedies_of(precision: str, *alphas: float) -> list[str]:
    """Return what helps a run that diverges, whose loss has another part of weights ``alphas``, from first to last."""
    remedies = ["a lower --learning-rate"]
    if any(alphas):
        remedies.append("an --alpha nearer to 0")
    if precision == "bf16":
        remedies.append("--precision fp32")
    return remedies


def _try(remedies: Sequence[str], networks: Mapping[str, nn.Module]) -> str:
    """Return ``remedies`` as advice, and what helps a discriminator of huge weights; NaN is not huge."""
    weights = networks["discriminator"].parameters() if "discriminator" in networks else ()
    if any(bool((weight.detach().abs() > EXPLODED).any()) for weight in weights):
        remedies = [*remedies, "an objective that bounds its discriminator, such as wgan-gp or hinge"]
    return "Try " + ", or ".join(remedies)


def culprit(values: Mapping[str, Tensor]) -> str:
    """Return in words which of some tensors, by name, is not finite, or else which is largest."""
    bad = {name: int((~part.isfinite()).sum()) for name, part in values.items()}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        name, count = next(iter(bad.items()))
        more = f" (and some of {len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"{count} of the {values[name].numel()} values of {name}{more} are not finite"
    sizes = {name: float(part.abs().max()) for name, part in values.items() if part.numel()}
    if not sizes:
        return "there are no weights"
    name = max(sizes, key=lambda each: sizes[each])
    return f"all weights are finite, the largest {sizes[name]:.3g} in {name}"


def _values_of(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the numbers of networks by a name for a message."""
    return {
        f"the {name}'s {key}": part
        for name, network in networks.items()
        for key, part in network.state_dict().items()
        if part.is_floating_point()
    }


def remembered(
    network: str, weights: Iterable[tuple[str, Tensor]], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return what an optimizer keeps of the named ``weights`` of a ``network``, by a name for a message."""
    return {
        f"{key} of the {network}'s {name}": part
        for name, weight in weights
        for key, part in optimizer.state.get(weight, {}).items()
        if isinstance(part, Tensor)
    }


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's own generators, for a checkpoint."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch_rng": torch.get_rng_state(), "cuda_rng": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Bring torch's own generators to where :func:`random_state` found them."""
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], device)
