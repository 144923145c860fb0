"""The one training loop: it reads from top to bottom, and every objective runs through it unchanged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import Plan
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.distributed import is_distributed, rank_and_world_size
from snngan.losses.snnl import entanglement
from snngan.seeds import seed_for
from snngan.training.device import set_up
from snngan.training.distributed import (
    any_rank,
    broadcast_from_rank0,
    check_same_step,
    check_share,
    is_main_process,
    run_on_all_ranks,
)
from snngan.training.divergence import (
    DivergedError,
    LossMonitor,
    Outcome,
    Report,
    check_weights,
    explained,
    random_state,
    remedies_of,
    remembered,
    restore_random_state,
)
from snngan.training.game import Game, draw_latents
from snngan.training.plan import check_same_data
from snngan.training.players import Players, build_players, fitting
from snngan.training.run_folder import GanRun

Measure = Callable[[int, Players], dict[str, float]]
TRACKED, TRACKED_SMALL = 256, 128
"""Held-out images, and synthetic ones, in each entanglement reading; the second number for images of fewer than 100
values, whose steps are so short that more would cost over 3 % of the time."""
PROJECTED = 128
"""How many of them are read in the learned space too, where each costs a pass through the discriminator."""
SHOWN = 100
"""Images in a sample grid."""


def train_gan(
    run: GanRun,
    dataset: Dataset,
    device: torch.device,
    *,
    start: Mapping[str, Any] | None = None,
    measure: Measure = lambda step, players: {},
    should_stop: Callable[[], bool] = lambda: False,
    report: Report = lambda step, measured: None,
) -> Outcome:
    """Train the players of ``run.plan`` on ``dataset`` and leave checkpoints, samples and metrics in the run's folder.

    Args:
        run: a new folder, or one to go on with if ``resume``.
        dataset: what the plan was made for.
        device: where the networks and the data are.
        start: the checkpoint to go on from (``load_newest``); on a CPU the result is bit-equal to an unbroken run's.
        measure: called every ``metrics_every`` steps and at the last one; what it returns is logged by TensorBoard
            tag. It must not draw from torch's global generator.
        should_stop: asked after each step; if true, the run saves and returns.
        report: called after each step with what was measured at it, by TensorBoard tag.

    Raises:
        DivergedError: a loss or a weight is not finite.
        CheckpointError: ``start`` is of other networks.
        ValueError: it is of other data.
        SaveError: a file could not be written.
    """
    plan, options = run.plan, run.plan.optimization
    check_share(options.batch_size)
    run_on_all_ranks(lambda: check_same_data(plan, dataset))
    check_same_step(0 if start is None else start["step"])
    players = build_players(plan, device, None if start is None else start["players"])
    batches = Batches(
        dataset.train_images, options.batch_size, seed=plan.seed, device=device, part=rank_and_world_size()
    )
    first = is_main_process()  # of several processes it reads figures and writes
    noise = torch.Generator().manual_seed(seed_for(plan.seed, "noise"))
    game = Game(players, plan, batches, noise, device)
    gauge = Gauge(players, dataset, plan, device)
    remedies = remedies_of(plan.precision)
    watch = LossMonitor(
        check_every=1 if device.type == "cpu" else 50,
        explain=lambda: explained(networks_of(players), remedies, dataset.train_images),
    )
    if device.type == "cpu" and not is_distributed():  # where reading a loss costs nothing, it is read before it acts
        game.judge = lambda name, loss: watch.judge(step, name, loss)
    set_up(tf32=plan.precision == "tf32", deterministic=plan.deterministic)
    step, scalars = 0, {}
    torch.manual_seed(seed_for(plan.seed, "objective"))  # what objectives draw: the points of a gradient penalty
    if start is not None:
        step = restore(start, players, batches, noise, device)
        run_on_all_ranks(lambda: run.rewind(step) if first else None)
    elif first:
        scalars = gauge.read(0)
        run.log(0, scalars)
        run.log_samples(0, gauge.samples(0), gauge.real[:SHOWN])
    started, tracking_seconds, measuring_seconds, stopping = time.monotonic(), 0.0, 0.0, False

    while step < options.steps and not stopping:
        step += 1

        for player, loss in game.step(step).items():
            watch.note(step, player, loss)

        # Track, show, save: each at its own interval and at the end.
        checking, last = step % watch.check_every == 0, step == options.steps
        stopping = any_rank(should_stop())
        showing, saving = step % plan.sample_every == 0 or last, step % plan.checkpoint_every == 0 or last or stopping
        reading = step % plan.log_every == 0 or last
        measuring = plan.metrics_every > 0 and (step % plan.metrics_every == 0 or last)
        measured = watch.check() if checking or reading or measuring or showing or saving else {}
        if reading or measuring or showing or saving:
            check_weights(step, networks_of(players), remembered_by(players), remedies)
        if not first:
            continue
        figures: dict[str, float] = {}
        if measuring:
            before = time.monotonic()
            figures = measure(step, players)
            measuring_seconds += time.monotonic() - before
        if reading:
            before = time.monotonic()
            measured |= gauge.read(step)
            tracking_seconds += time.monotonic() - before
        if reading or figures:
            run.log(step, (measured if reading else {}) | figures)
        if showing:
            run.log_samples(step, gauge.samples(step), gauge.real[:SHOWN])
        if saving:
            gauge.show_projection(run, step)
            run.save(step, snapshot(step, players, batches, noise, device))
        scalars = scalars | measured
        report(step, measured)

    broadcast_from_rank0(None)  # no rank leaves before the first has saved
    return Outcome(
        step, step == options.steps, scalars, time.monotonic() - started, tracking_seconds, measuring_seconds
    )


def networks_of(players: Players) -> dict[str, nn.Module]:
    """Return the networks whose weights must stay finite, by name."""
    named = {
        "generator": players.generator,
        "discriminator": players.discriminator,
        "average": players.averaged,
        "objective": players.objective.state(),
    }
    return {name: network for name, network in named.items() if network is not None}


def remembered_by(players: Players) -> dict[str, Tensor]:
    """Return what the optimizers keep of the players' weights, by a name for a message."""
    found = remembered("generator", players.generator.named_parameters(), players.generator_optimizer)
    if players.discriminator is not None and players.discriminator_optimizer is not None:
        own = players.discriminator.named_parameters()
        found |= remembered("discriminator", own, players.discriminator_optimizer)
    return found


class Gauge:
    """Reads the entanglement of held-out real images and the averaged generator's, always on the same noise.

    Readings change nothing in the networks and draw nothing from the run's generators.
    """

    def __init__(self, players: Players, dataset: Dataset, plan: Plan, device: torch.device) -> None:
        self.players, self.remedies = players, remedies_of(plan.precision)
        own = torch.Generator().manual_seed(seed_for(plan.seed, "gauge"))
        count = TRACKED if dataset.test_images[0].numel() >= 100 else TRACKED_SMALL
        rows = torch.randperm(len(dataset.test_images), generator=own)[:count]
        self.real = to_unit_range(dataset.test_images[rows]).to(device)
        self.latents = draw_latents(players, max(SHOWN, len(self.real)), own, device)

    def samples(self, step: int, count: int = SHOWN) -> Tensor:
        """Return the images (count, C, H, W) of the first latents, the same at every call.

        Raises:
            DivergedError: they are not finite, though the average's weights are.
        """
        images = self.players.sample(self.latents[:count])
        if not bool(images.isfinite().all()):
            why = explained(networks_of(self.players), self.remedies)
            raise DivergedError(f"step {step}: the average's images are not finite; {why}")
        return images

    def read(self, step: int) -> dict[str, float]:
        """Return the entanglement in the input domain and, where there is a learned space, in it."""
        fake = self.samples(step, len(self.real))
        reading = entanglement(self.real, fake)
        scalars = {
            "entanglement/input": reading.value,
            "entanglement/input_score": reading.score,
            "entanglement/real_anchors": reading.real_anchors,
            "entanglement/fake_anchors": reading.fake_anchors,
            "entanglement/temperature": reading.temperature,
        }
        real_points, fake_points = (self.players.project(images[:PROJECTED]) for images in (self.real, fake))
        if real_points is not None and fake_points is not None:
            scalars["entanglement/projection"] = entanglement(real_points, fake_points).value
        return scalars

    def show_projection(self, run: GanRun, step: int) -> None:
        """Put real and synthetic points of the learned space, if there is one, into TensorBoard's projector."""
        count = len(self.real)
        images = torch.cat([self.real, self.samples(step, count)])
        points = self.players.project(images)
        if points is not None:
            run.log_projection(step, points, images, ["real"] * count + ["synthetic"] * count)


def snapshot(
    step: int, players: Players, batches: Batches, noise: torch.Generator, device: torch.device
) -> dict[str, Any]:
    """Return everything that the rest of the run follows from."""
    return {
        "step": step,
        "players": players.state_dict(),
        "batches": batches.state_dict(),
        "noise": noise.get_state(),
        **random_state(device),
    }


def restore(
    state: Mapping[str, Any], players: Players, batches: Batches, noise: torch.Generator, device: torch.device
) -> int:
    """Bring everything to where :func:`snapshot` stood and return its step.

    Raises:
        CheckpointError: the state is of other networks.
    """
    players.load_state_dict(state["players"])
    with fitting("random state"):
        batches.load_state_dict(state["batches"])
        noise.set_state(state["noise"])
        restore_random_state(state, device)
    return int(state["step"])
