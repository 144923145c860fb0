"""The step: it leaves the device to itself, compiled or as a graph it is the same, what cannot be one is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.states import differences
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from snngan.config import Plan, TrainConfig
from snngan.data import Dataset
from snngan.data.batches import Batches
from snngan.objectives import OBJECTIVES
from snngan.training import players as players_module
from snngan.training.checkpoint import load_newest
from snngan.training.device import preferred_layout, set_up
from snngan.training.game import Game, compiled
from snngan.training.gan import train_gan
from snngan.training.optimizers import make_optimizer
from snngan.training.plan import check_config, make_plan
from snngan.training.players import build_players
from snngan.training.run_folder import GanRun

CPU, META = torch.device("cpu"), torch.device("meta")
GAMES = [
    *((name, ()) for name in OBJECTIVES.names()),
    ("snnl-pixel", ("temperature=absolute:3", "distance=cosine")),
    ("snnl-pixel", ("temperature=annealed:1", "form=literal")),
    ("snnl-projected", ("temperature=annealed:2", "form=log-odds-linear")),
    ("gan", ("discriminator_steps=3", "spectral_norm=true", "discriminator_norm=layer")),
]
"""On networks of mlp; those on a GPU below are also played by convolutions."""
WAITING = [("snnl-pixel", "learned:1"), ("snnl-pixel", "optimal"), ("snnl-projected", "optimal")]
ON_GAMES = pytest.mark.parametrize(
    ("objective", "settings"), GAMES, ids=[" ".join((name, *settings)) for name, settings in GAMES]
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class OnTheHost(TorchDispatchMode):
    """Note each operation that takes or gives a tensor of the host: on a GPU the host would wait for a copy."""

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
def on_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step run on tensors without values: whatever asks for one fails, as a CUDA graph would."""
    plain = {"adam": torch.optim.SGD, "rmsprop": torch.optim.SGD}  # Adam's count of steps is the host's there
    monkeypatch.setattr(
        players_module, "make_optimizer", lambda name, weights, rate, betas: plain[name](weights, lr=rate)
    )
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


def play_on_no_device(plan: Plan) -> list[str]:
    """Play two steps and return the names of what touched the host."""
    noise = torch.Generator().manual_seed(0)
    images = torch.zeros(32, *plan.image_shape, dtype=torch.uint8)
    game = Game(build_players(plan, META), plan, Batches(images, 16, seed=0, device=CPU), noise, META)
    count = max(1, game.updates)
    drawn = [torch.empty(16, *plan.image_shape, dtype=torch.uint8, device=META)] * count
    drawn += [torch.empty(16, game.players.latent_dim, device=META)] * (game.updates + 1)
    share = torch.empty((), device=META)
    with OnTheHost() as host:
        for _ in range(2):
            game.play(share, *drawn)
    return host.names


@ON_GAMES
def test_no_step_asks_for_a_value_or_copies_one_to_the_device(
    plan_of: Callable[..., Plan], on_no_device: None, objective: str, settings: tuple[str, ...]
) -> None:
    assert play_on_no_device(plan_of(*settings, objective=objective)) == []


def test_the_watch_sees_copies_from_the_host() -> None:
    with OnTheHost() as host:
        torch.tensor([1.0]).to(META)
        torch.empty(2, device=META) + torch.empty((), device=META)
    assert any("to_copy" in name for name in host.names)
    assert not any("add" in name for name in host.names)


@pytest.mark.parametrize(("objective", "temperature"), WAITING)
def test_objectives_that_wait_say_so(
    plan_of: Callable[..., Plan], on_no_device: None, objective: str, temperature: str
) -> None:
    """And the test above sees what it should."""
    plan = plan_of(f"temperature={temperature}", objective=objective)
    assert players_module.build_objective(plan).waits(16, plan.image_shape, META)
    with pytest.raises(RuntimeError, match="meta"):
        play_on_no_device(plan)


@ON_GAMES
def test_objectives_that_do_not_wait_say_so(
    plan_of: Callable[..., Plan], objective: str, settings: tuple[str, ...]
) -> None:
    plan = plan_of(*settings, objective=objective)
    assert not players_module.build_objective(plan).waits(16, plan.image_shape, META)


@pytest.mark.parametrize(("objective", "size", "waits"), [("snnl-pixel", 256, False), ("snnl-pixel", 257, True)])
def test_a_loss_over_tiles_waits(plan_of: Callable[..., Plan], objective: str, size: int, waits: bool) -> None:
    assert players_module.build_objective(plan_of(objective=objective)).waits(size, (1, 28, 28), META) == waits
    assert not players_module.build_objective(plan_of(objective="gan")).waits(size, (1, 28, 28), META)


def test_a_graph_of_what_waits_is_refused(plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snngan.training.plan.choose_device", lambda name: META)
    assert plan_of(objective="snnl-pixel", cuda_graph=True).cuda_graph
    with pytest.raises(ValueError, match="--cuda-graph: a step would read values"):
        plan_of("temperature=optimal", objective="snnl-pixel", cuda_graph=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuda_graph": True, "device": "cpu"}, "--cuda-graph needs a CUDA device"),
        ({"compile": True, "objective": "wgan-gp"}, "wgan-gp differentiates its networks twice"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(TrainConfig(**options))


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        check_config(TrainConfig(compile=True))


def test_a_compiled_run_is_the_plain_one(
    run_of: Callable[..., GanRun], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, calls = [], []
    monkeypatch.setattr("snngan.training.game.compiled", lambda network: calls.append(network) or compiled(network))
    for name, compiles in (("plain", False), ("compiled", True)):
        run = run_of(name, compile=compiles, steps=3)
        train_gan(run, dataset, CPU)
        states.append(load_newest(run.checkpoints)["players"])
    assert len(calls) == 1  # snnl-pixel has a generator only
    assert list(states[0]["generator"]) == list(states[1]["generator"])  # a checkpoint does for both
    for part in ("generator", "averaged"):
        assert_close(states[1][part], states[0][part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_an_optimizer_counts_steps_where_its_weights_are(name: str) -> None:
    """A checkpoint of a GPU's run says to count on the GPU: on a CPU, that is wrong."""
    weights = [torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)]
    first, second = (make_optimizer(name, [each], 0.1) for each in weights)
    weights[0].grad = weights[1].grad = torch.ones(3)
    first.step()
    state = first.state_dict()
    state["param_groups"][0]["capturable"] = True
    second.load_state_dict(state)
    assert not second.param_groups[0]["capturable"]
    second.step()
    assert state["param_groups"][0]["capturable"]  # what was given stays as it was


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop"])
def test_an_optimizer_goes_on_whatever_the_layout_of_its_weights(name: str) -> None:
    """Fused Adam goes through memory as it lies."""
    start, gradients = torch.randn(4, 3, 5, 5), torch.randn(3, 4, 3, 5, 5)
    found = []
    for layouts in ((torch.contiguous_format,) * 3, (torch.contiguous_format, *(torch.channels_last,) * 2)):
        values, state = start, None
        for layout, gradient in zip(layouts, gradients, strict=True):
            weight = values.clone(memory_format=layout).requires_grad_()
            optimizer = make_optimizer(name, [weight], 0.1)
            if state is not None:
                optimizer.load_state_dict(state)
            weight.grad = gradient.clone(memory_format=layout)
            optimizer.step()
            values, state = weight.detach(), optimizer.state_dict()
        found.append(values)
    assert_close(found[1], found[0])


def test_set_up_lets_cudnn_measure() -> None:
    before = torch.backends.cudnn.benchmark
    try:
        set_up(tf32=False)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("arch", ["dcgan", "sngan"])
@pytest.mark.parametrize("objective", ["gan", "wgan-gp", "snnl-projected"])
def test_channels_last_is_the_same_game(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, objective: str
) -> None:
    """As networks lie on a GPU in bf16 and TF32."""
    images = torch.randint(0, 256, (80, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data, losses = Dataset("colors", images[:64], None, images[64:], None), []
    for layout in (torch.contiguous_format, torch.channels_last):
        monkeypatch.setattr(players_module, "preferred_layout", lambda device, precision, own=layout: own)
        config = TrainConfig(objective=objective, arch=arch, dataset="colors", batch_size=16, steps=2, set=("width=8",))
        run = GanRun.create(tmp_path / str(layout), make_plan(config, data), CPU)
        losses.append({tag: value for tag, value in train_gan(run, data, CPU).scalars.items() if "loss/" in tag})
    weights = [each for each in build_players(run.plan, CPU).generator.parameters() if each.dim() == 4]
    assert any(not each.is_contiguous() for each in weights)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("device", "precision", "last"), [("cpu", "fp32", True), ("cuda", "fp32", False), ("cuda", "bf16", True)]
)
def test_where_channels_lie_last(device: str, precision: str, last: bool) -> None:
    found = preferred_layout(torch.device(device), precision)
    assert found == (torch.channels_last if last else torch.contiguous_format)


@pytest.mark.gpu
@needs_cuda
@ON_GAMES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_is_the_plain_steps(
    run_of: Callable[..., GanRun], dataset: Dataset, monkeypatch: pytest.MonkeyPatch,
    objective: str, settings: tuple[str, ...], precision: str,
) -> None:  # fmt: skip
    """Three plain steps, four replayed, the random points of a gradient penalty among them."""
    cuda, states = torch.device("cuda"), []
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    for name, graph in (("plain", False), ("graph", True)):
        run = run_of(name, *settings, objective=objective, precision=precision, cuda_graph=graph, steps=7)
        train_gan(run, dataset, cuda)
        states.append(load_newest(run.checkpoints))
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if precision == "fp32" else {"rtol": 5e-2, "atol": 5e-3}
    for part in ("generator", "averaged", "discriminator"):
        if part in states[0]["players"]:
            assert_close(states[1]["players"][part], states[0]["players"][part], **tolerance)
    assert differences(states[0]["cuda_rng"], states[1]["cuda_rng"]) == []


@pytest.mark.gpu
@needs_cuda
@ON_GAMES
@pytest.mark.parametrize("graph", [False, True])
def test_no_step_waits_for_the_gpu(
    plan_of: Callable[..., Plan], dataset: Dataset, objective: str, settings: tuple[str, ...], graph: bool
) -> None:
    cuda, noise = torch.device("cuda"), torch.Generator().manual_seed(0)
    plan = plan_of(*settings, objective=objective, cuda_graph=graph)
    batches = Batches(dataset.train_images, 16, seed=0, device=cuda)
    game = Game(build_players(plan, cuda), plan, batches, noise, cuda)
    for step in range(1, 6):  # kernels are built, algorithms chosen, the graph recorded
        game.step(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6, 12):  # an epoch ends
            game.step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("arch", ["dcgan", "sngan"])
@pytest.mark.parametrize("objective", ["gan", "wgan-gp", "snnl-projected"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_of_convolutions_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, objective: str, precision: str
) -> None:
    """And of the Triton loss, which takes over past so many points."""
    monkeypatch.setattr("snngan.losses.backends.MAX_DENSE_SAMPLES", 8)
    cuda, losses = torch.device("cuda"), []
    images = torch.randint(0, 256, (80, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = Dataset("colors", images[:64], None, images[64:], None)
    for graph in (False, True):
        config = TrainConfig(
            objective=objective, arch=arch, dataset="colors", batch_size=16, steps=6, set=("width=8",),
            precision=precision, cuda_graph=graph,
        )  # fmt: skip
        run = GanRun.create(tmp_path / str(graph), make_plan(config, data), cuda)
        losses.append({tag: value for tag, value in train_gan(run, data, cuda).scalars.items() if "loss/" in tag})
    assert losses[1] == pytest.approx(losses[0], rel=2e-2 if precision == "fp32" else 0.2, abs=1e-2)
