"""The training loop: stopped and resumed it is the unbroken run, bit for bit; what is not finite stops it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference.states import differences
from reference.stopping import stop_after
from torch import Tensor, nn
from torch.testing import assert_close

from snngan.config import Plan
from snngan.data import Dataset
from snngan.objectives import OBJECTIVES, NonSaturating, PixelEntanglement
from snngan.training import gan
from snngan.training.checkpoint import CheckpointError, load_newest
from snngan.training.divergence import DivergedError, LossMonitor, check_weights
from snngan.training.gan import Gauge, networks_of, remembered_by, train_gan
from snngan.training.players import build_players
from snngan.training.run_folder import GanRun

CPU = torch.device("cpu")
GAMES = [(name, ()) for name in OBJECTIVES.names()] + [
    ("snnl-pixel", ("temperature=learned:0.5",)),
    ("snnl-pixel", ("temperature=annealed:1",)),
    ("snnl-pixel", ("temperature=optimal", "form=literal")),
    ("snnl-projected", ("temperature=learned:1", "discriminator_norm=batch")),
    ("snnl-projected", ("temperature=annealed:2", "optimizer=rmsprop")),
    ("gan", ("discriminator_steps=3", "spectral_norm=true")),
]
ON_GAMES = pytest.mark.parametrize(
    ("objective", "settings"), GAMES, ids=[" ".join((name, *settings)) for name, settings in GAMES]
)


def state_of(run: GanRun) -> dict[str, Any]:
    return load_newest(run.checkpoints, pytest.fail)


def metrics(run: GanRun) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@ON_GAMES
def test_a_run_stopped_and_resumed_is_the_unbroken_one(
    run_of: Callable[..., GanRun], dataset: Dataset, objective: str, settings: tuple[str, ...]
) -> None:
    """Stopped at step 3, then killed after step 5 with its last checkpoint at 4; an epoch is 4 batches."""
    unbroken = run_of("unbroken", *settings, objective=objective, steps=7)
    assert train_gan(unbroken, dataset, CPU).finished
    broken = run_of("broken", *settings, objective=objective, steps=7)
    outcome = train_gan(broken, dataset, CPU, should_stop=stop_after(3))
    assert (outcome.step, outcome.finished) == (3, False)
    torch.manual_seed(99)  # another process has other global generators
    train_gan(GanRun.open(broken.path), dataset, CPU, start=load_newest(broken.checkpoints), should_stop=stop_after(2))
    (broken.checkpoints / "step-00000005.pt").unlink()
    torch.manual_seed(98)
    outcome = train_gan(GanRun.open(broken.path), dataset, CPU, start=load_newest(broken.checkpoints))
    assert (outcome.step, outcome.finished) == (7, True)
    assert state_of(unbroken)["step"] == 7
    assert differences(state_of(unbroken), state_of(broken)) == []
    assert metrics(broken) == metrics(unbroken)
    assert [line["step"] for line in metrics(broken)] == list(range(8))
    for picture in sorted(unbroken.samples.iterdir()):
        assert (broken.samples / picture.name).read_bytes() == picture.read_bytes()


def test_the_states_of_other_runs_differ(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    """The comparison above sees what it should."""
    states = []
    for name, options in {"a": {}, "b": {"seed": 1}, "c": {"steps": 5}}.items():
        run = run_of(name, objective="gan", **options)
        train_gan(run, dataset, CPU)
        states.append(state_of(run))
    for other in states[1:]:
        found = " ".join(differences(states[0], other))
        for part in ("generator/", "averaged/", "discriminator/", "generator_optimizer/", "noise", "batches/"):
            assert part in found


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_every_network_that_takes_part_learns(run_of: Callable[..., GanRun], dataset: Dataset, objective: str) -> None:
    run = run_of("run", objective=objective, steps=2)
    train_gan(run, dataset, CPU)
    fresh, trained = build_players(run.plan, CPU).state_dict(), state_of(run)["players"]
    for network in {"generator", "averaged", "discriminator"} & fresh.keys():
        assert differences(fresh[network], trained[network])


def test_more_steps(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    long, short = run_of("long", objective="hinge", steps=6), run_of("short", objective="hinge", steps=4)
    train_gan(long, dataset, CPU)
    train_gan(short, dataset, CPU)
    again = GanRun.open(short.path)
    again.set_steps(6)
    train_gan(again, dataset, CPU, start=load_newest(again.checkpoints))
    assert differences(state_of(long), state_of(short)) == []


def test_resuming_needs_a_checkpoint_and_the_same_data(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_newest(run_of("new").checkpoints)
    run = run_of("run")
    train_gan(run, dataset, CPU)
    other = dataset.train_images.clone()
    other[3, 0, 0, 0] ^= 1
    for images in (dataset.train_images[:-1], other):
        changed = Dataset(dataset.name, images, None, dataset.test_images, None)
        with pytest.raises(ValueError, match=rf"{dataset.name}: these {len(images)} training images .* are not the"):
            train_gan(run, changed, CPU, start=load_newest(run.checkpoints))


def test_the_intervals(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    run = run_of("run", steps=7, log_every=3, sample_every=4, checkpoint_every=5)
    reported: list[int] = []
    outcome = train_gan(run, dataset, CPU, report=lambda step, measured: reported.append(step))
    assert reported == list(range(1, 8))
    assert [line["step"] for line in metrics(run)] == [0, 3, 6, 7]
    assert sorted(path.name for path in run.samples.iterdir()) == [f"step-{step:08d}.png" for step in (0, 4, 7)]
    assert sorted(path.name for path in run.checkpoints.glob("*.pt")) == ["step-00000005.pt", "step-00000007.pt"]
    assert outcome.scalars == {key: value for key, value in metrics(run)[-1].items() if key != "step"}
    assert 0 < outcome.tracking_seconds < outcome.seconds


@pytest.mark.parametrize(("every", "losses"), [(1, range(1, 11)), (4, (4, 5, 6, 8, 10))])
def test_only_what_is_measured_at_a_step_is_reported(
    run_of: Callable[..., GanRun], dataset: Dataset, monkeypatch: pytest.MonkeyPatch, every: int, losses: list[int]
) -> None:
    """Losses at each step or, as on a GPU, now and then and where something is read or written."""
    monkeypatch.setattr(gan, "LossMonitor", lambda check_every, explain: LossMonitor(every, explain))
    run = run_of("run", objective="gan", steps=10, log_every=5, sample_every=6, checkpoint_every=100)
    reported: dict[int, dict[str, float]] = {}

    def note(step: int, measured: dict[str, float]) -> None:
        reported[step] = dict(measured)

    train_gan(run, dataset, CPU, report=note)
    assert list(reported) == list(range(1, 11))
    assert [step for step in reported if "loss/generator" in reported[step]] == list(losses)
    assert [step for step in reported if "entanglement/input" in reported[step]] == [5, 10]
    for row in metrics(run)[1:]:
        assert reported[int(row["step"])] | {"step": row["step"]} == row
    run.set_steps(12)
    train_gan(run, dataset, CPU, start=load_newest(run.checkpoints), report=note)
    assert "entanglement/input" not in reported[11]
    assert ("loss/generator" in reported[11]) == (every == 1)


def test_a_stop_at_the_last_step_is_an_end(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    assert train_gan(run_of("run", steps=3), dataset, CPU, should_stop=stop_after(3)).finished


@pytest.mark.parametrize("player", ["generator", "discriminator"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(
    run_of: Callable[..., GanRun], dataset: Dataset, monkeypatch: pytest.MonkeyPatch, player: str, value: float
) -> None:
    run = run_of("run", objective="gan", steps=20)
    normal, calls = getattr(NonSaturating, f"{player}_loss"), []

    def breaks_at_step_5(*args: Any) -> Tensor:
        calls.append(None)
        loss: Tensor = normal(*args)
        return loss + value if len(calls) == 5 else loss

    with monkeypatch.context() as patch:
        patch.setattr(NonSaturating, f"{player}_loss", breaks_at_step_5)
        with pytest.raises(DivergedError, match=f"step 5: the {player}'s loss is {value}; all weights are finite"):
            train_gan(run, dataset, CPU)
    state = state_of(run)
    assert state["step"] == 4
    assert all(bool(part.isfinite().all()) for part in state["players"]["generator"].values())
    assert [line["step"] for line in metrics(run)] == [0, 1, 2, 3, 4]
    assert train_gan(GanRun.open(run.path), dataset, CPU, start=load_newest(run.checkpoints)).finished


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(
    run_of: Callable[..., GanRun], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("run", steps=20)
    normal, calls = PixelEntanglement.generator_loss, []

    def breaks_at_step_4(self: PixelEntanglement, discriminator: None, real: Tensor, fake: Tensor) -> Tensor:
        calls.append(None)
        loss = normal(self, discriminator, real, fake)
        return loss + (fake - fake).sum().sqrt() if len(calls) == 4 else loss

    monkeypatch.setattr(PixelEntanglement, "generator_loss", breaks_at_step_4)
    with pytest.raises(DivergedError, match=r"step 4: \d+ of the \d+ values of the generator's .* are not finite"):
        train_gan(run, dataset, CPU)
    assert state_of(run)["step"] == 2
    assert [line["step"] for line in metrics(run)] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_weights_that_are_not_finite_are_named(plan_of: Callable[..., Plan], name: str) -> None:
    players = build_players(plan_of(objective="gan"), CPU)
    check_weights(3, networks_of(players), remembered_by(players), [])
    with torch.no_grad():
        list(getattr(players, name).parameters())[-1][0] = math.inf
    with pytest.raises(DivergedError, match=f"step 3: 1 of the .* values of the {name}'s .*bias are not finite"):
        check_weights(3, networks_of(players), remembered_by(players), [])


def test_the_watch_remembers_until_it_is_asked() -> None:
    watch = LossMonitor(check_every=50)
    watch.note(1, "generator", torch.tensor(1.5))
    watch.note(2, "generator", torch.tensor(2.5))
    watch.note(2, "discriminator", torch.tensor(0.5, requires_grad=True))
    assert watch.check() == {"loss/generator": 2.5, "loss/discriminator": 0.5}
    assert watch.check() == {}
    watch.note(7, "generator", torch.tensor(math.nan))
    watch.note(8, "discriminator", torch.tensor(math.inf))
    with pytest.raises(DivergedError, match=r"^step 7: the generator's loss is nan; "):
        watch.check()


def everything(players: Any) -> dict[str, Any]:
    """Return the players' state, their modes, and every generator that a reading could draw from."""
    networks = [players.generator, players.averaged, players.discriminator]
    return {
        "players": {
            part: {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
            for part, state in players.state_dict().items()
        },
        "modes": [module.training for network in networks if network for module in network.modules()],
        "grads": [p.requires_grad for network in networks if network for p in network.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": repr(random.getstate()),
    }


@pytest.mark.parametrize("objective", ["snnl-pixel", "gan", "snnl-projected", "mmd"])
def test_readings_change_nothing_and_repeat(
    plan_of: Callable[..., Plan], run_of: Callable[..., GanRun], dataset: Dataset, objective: str
) -> None:
    norms = [] if objective == "snnl-pixel" else ["spectral_norm=true", "discriminator_norm=batch"]
    plan = plan_of("generator_norm=batch", *norms, objective=objective)
    players = build_players(plan, CPU)
    gauge = Gauge(players, dataset, plan, CPU)
    before = everything(players)
    first, samples = gauge.read(1), gauge.samples(1)
    gauge.show_projection(run_of("run"), 1)
    assert differences(before, everything(players)) == []
    assert gauge.read(1) == first
    assert torch.equal(gauge.samples(1), samples)
    again = Gauge(players, dataset, plan, CPU)
    assert again.read(1) == first
    assert ("entanglement/projection" in first) == (objective in ("snnl-projected", "mmd"))


def test_a_reading_is_the_entanglement_of_held_out_and_synthetic_images(
    plan_of: Callable[..., Plan], dataset: Dataset
) -> None:
    class Memory(nn.Module):
        """A generator that gives the held-out images."""

        def forward(self, latents: Tensor) -> Tensor:
            return gauge.real[torch.arange(len(latents)) % len(gauge.real)]

    plan = plan_of()
    players = build_players(plan, CPU)
    gauge = Gauge(players, dataset, plan, CPU)
    held_out = dataset.test_images.float() / 127.5 - 1
    assert_close(gauge.real.flatten(1).sort(dim=0).values, held_out.flatten(1).sort(dim=0).values)
    far = gauge.read(1)
    players.averaged = Memory()
    near = gauge.read(1)
    assert near["entanglement/input_score"] > 0.9 > far["entanglement/input_score"]
    for scalars in (near, far):
        anchors = (scalars["entanglement/real_anchors"] + scalars["entanglement/fake_anchors"]) / 2
        assert_close(anchors, scalars["entanglement/input"])


@pytest.mark.parametrize("objective", ["snnl-pixel", "snnl-projected"])
def test_points_of_the_plane(run_of: Callable[..., GanRun], points: Dataset, objective: str) -> None:
    run = run_of("run", objective=objective, data=points, steps=2)
    assert train_gan(run, points, CPU).finished
    assert (run.samples / "step-00000002.png").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_run_on_cuda_goes_on_from_its_checkpoint(
    run_of: Callable[..., GanRun], dataset: Dataset, objective: str, precision: str
) -> None:
    cuda = torch.device("cuda")
    run = run_of("run", objective=objective, precision=precision, steps=6)
    train_gan(run, dataset, cuda, should_stop=stop_after(3))
    assert state_of(run)["step"] == 3
    start = load_newest(run.checkpoints)
    for device in (CPU, cuda):
        assert train_gan(GanRun.open(run.path), dataset, device, start=start).finished


@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_convolutions_and_products_share_one_precision(
    run_of: Callable[..., GanRun], dataset: Dataset, precision: str
) -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        train_gan(run_of("run", precision=precision, steps=1), dataset, CPU)
        allowed = torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32
        assert allowed == (precision == "tf32", precision == "tf32")
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_in_bf16_losses_and_weights_stay_float32(
    run_of: Callable[..., GanRun], dataset: Dataset, objective: str
) -> None:
    run = run_of("run", objective=objective, precision="bf16", steps=2)
    losses = {name: value for name, value in train_gan(run, dataset, CPU).scalars.items() if name.startswith("loss/")}
    # Means of 16 bf16 numbers that were taken in bf16 have 8 digits; some loss of float32 numbers has more.
    assert any(value != float(torch.tensor(value).bfloat16()) for value in losses.values())
    assert all(parameter.dtype == torch.float32 for parameter in state_of(run)["players"]["generator"].values()
               if parameter.is_floating_point())  # fmt: skip
