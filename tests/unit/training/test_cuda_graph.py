"""A step never waits for the device, so that it can be a CUDA graph; what reads values is refused as one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from reference.runs import CPU, gan_config, new_run, state_of, train_run
from reference.states import differences
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from snngan.config import TrainConfig
from snngan.data import Dataset
from snngan.objectives import OBJECTIVES
from snngan.training.gan import GanTrainer
from snngan.training.resolve import build_objective

META = torch.device("meta")
CASES = [
    *((name, ()) for name in OBJECTIVES.names()),
    ("snnl-pixel", ("temperature=absolute:3", "distance=cosine")),
    ("snnl-pixel", ("temperature=annealed:1", "form=literal")),
    ("snnl-projected", ("temperature=annealed:2", "form=log-odds-linear")),
    ("gan", ("discriminator_steps=3", "spectral_norm=true", "discriminator_norm=layer")),
    *((name, ("conditional=true", "batch_size=18")) for name in OBJECTIVES.names()),
]
READING = [("snnl-pixel", "learned:1"), ("snnl-pixel", "optimal"), ("snnl-projected", "optimal")]
ON_CASES = pytest.mark.parametrize(
    ("objective", "settings"), CASES, ids=[" ".join((name, *settings)) for name, settings in CASES]
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class HostOperations(TorchDispatchMode):
    """Note each operation that takes or returns a tensor of the host: on a GPU the host would wait for a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        found = operation(*arguments, **(options or {}))
        if any(tensor.device == CPU for tensor in tensors_in([arguments, options, found])):
            self.names.append(str(operation))
        return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step run on tensors without values: whatever reads one fails, as it would in a CUDA graph."""
    monkeypatch.setattr(  # Adam counts its steps on the host there
        "snngan.training.gan.make_optimizer",
        lambda name, weights, rate, betas: torch.optim.SGD([{"params": list(weights), "initial_lr": rate}], lr=rate),
    )
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


def update_without_values(config: TrainConfig, dataset: Dataset) -> list[str]:
    """Do two updates on tensors without values and return the names of what touched the host."""
    trainer = GanTrainer(config, dataset, META)
    updates = config.discriminator_steps if trainer.has_discriminator else 0
    count = config.batch_size
    drawn = [torch.empty(count, *config.image_shape, dtype=torch.uint8, device=META)] * max(1, updates)
    drawn += [torch.empty(count, trainer.latent_dim, device=META)] * (updates + 1)
    drawn += [torch.empty(count, dtype=torch.int64, device=META)] * max(1, updates)
    trainer.step(1)
    with HostOperations() as host:
        for _ in range(2):
            trainer.update(torch.empty((), device=META), *drawn)
    return host.names


@ON_CASES
def test_an_update_reads_no_value_and_copies_none_to_the_device(
    dataset: Dataset, labeled: Dataset, without_values: None, objective: str, settings: tuple[str, ...]
) -> None:
    data = labeled if "conditional=true" in settings else dataset
    config = gan_config(data, *settings, objective=objective)
    assert update_without_values(config, data) == []
    assert not build_objective(config).reads_values(16, config.image_shape, META)


def test_copies_from_the_host_are_seen() -> None:
    with HostOperations() as host:
        torch.tensor([1.0]).to(META)
        torch.empty(2, device=META) + torch.empty((), device=META)
    assert any("to_copy" in name for name in host.names)
    assert not any("add" in name for name in host.names)


@pytest.mark.parametrize(("objective", "temperature"), READING)
def test_objectives_that_read_values_say_so(
    dataset: Dataset, without_values: None, objective: str, temperature: str
) -> None:
    config = gan_config(dataset, f"temperature={temperature}", objective=objective)
    assert build_objective(config).reads_values(16, config.image_shape, META)
    with pytest.raises(RuntimeError, match="meta"):
        update_without_values(config, dataset)


@pytest.mark.parametrize(("size", "reads"), [(256, False), (257, True)])
def test_a_loss_in_tiles_reads_values(dataset: Dataset, size: int, reads: bool) -> None:
    in_pixels, other = (build_objective(gan_config(dataset, objective=name)) for name in ("snnl-pixel", "gan"))
    assert in_pixels.reads_values(size, (1, 28, 28), META) == reads
    assert not other.reads_values(size, (1, 28, 28), META)


@pytest.mark.gpu
@needs_cuda
def test_a_graph_that_would_read_values_is_refused(dataset: Dataset) -> None:
    config = gan_config(dataset, "temperature=optimal", objective="snnl-pixel", cuda_graph=True)
    with pytest.raises(ValueError, match="--cuda-graph: a step would read values"):
        GanTrainer(config, dataset, torch.device("cuda"))


@pytest.mark.gpu
@needs_cuda
@ON_CASES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_equals_the_plain_steps(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, objective: str, settings: tuple[str, ...], precision: str
) -> None:
    """Three plain steps, four replayed, the random points of a gradient penalty among them."""
    states = []
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    for name, graph in (("plain", False), ("graph", True)):
        config = gan_config(dataset, *settings, objective=objective, precision=precision, cuda_graph=graph, steps=7)
        run = new_run(name, config)
        train_run(run, dataset, device=torch.device("cuda"))
        states.append(state_of(run))
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if precision == "fp32" else {"rtol": 5e-2, "atol": 5e-3}
    assert_close(states[1]["networks"], states[0]["networks"], **tolerance)
    assert differences(states[0]["cuda_rng"], states[1]["cuda_rng"]) == []


@pytest.mark.gpu
@needs_cuda
@ON_CASES
@pytest.mark.parametrize("graph", [False, True])
def test_no_step_waits_for_the_gpu(dataset: Dataset, objective: str, settings: tuple[str, ...], graph: bool) -> None:
    config = gan_config(dataset, *settings, objective=objective, cuda_graph=graph)
    trainer = GanTrainer(config, dataset, torch.device("cuda"))
    for step in range(1, 6):  # kernels are built, algorithms chosen, the graph recorded
        trainer.step(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6, 12):  # an epoch ends
            trainer.step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("arch", ["dcgan", "sngan"])
@pytest.mark.parametrize("objective", ["gan", "wgan-gp", "snnl-projected"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_of_convolutions_trains(
    colors: Dataset, monkeypatch: pytest.MonkeyPatch, arch: str, objective: str, precision: str
) -> None:
    """And of the Triton loss, which is used for more than 8 samples here."""
    monkeypatch.setattr("snngan.losses.backends.MAX_DENSE_SAMPLES", 8)
    losses = []
    for graph in (False, True):
        config = gan_config(
            colors, objective=objective, arch=arch, set=("width=8",), precision=precision, cuda_graph=graph
        )
        trainer = GanTrainer(config, colors, torch.device("cuda"))
        losses.append([float(loss) for step in range(1, 7) for loss in trainer.step(step).values()][-2:])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2 if precision == "fp32" else 0.2, abs=1e-2)
