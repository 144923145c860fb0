"""One step of the game: what it draws, and the updates of both players and of the average.

No update waits for the device or chooses by values that it computes there, so that on a GPU the host runs ahead, or
the whole step is one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from snngan.config import Plan
from snngan.data import to_unit_range
from snngan.data.batches import Batches
from snngan.distributed import is_distributed, local_shard
from snngan.training.cuda_graph import Captured, Work
from snngan.training.distributed import average_gradients
from snngan.training.players import Players


class Game:
    """The steps of one run.

    Args:
        players: whom each step moves.
        plan: by which options.
        batches: of real images.
        noise: what latents are drawn from, on the CPU, so that they are the same on every device.
        device: where the players are.
    """

    def __init__(
        self, players: Players, plan: Plan, batches: Batches, noise: torch.Generator, device: torch.device
    ) -> None:
        self.players, self.batches, self.noise, self.device = players, batches, noise, device
        self.options = plan.optimization
        self.updates = 0 if players.discriminator is None else self.options.discriminator_steps
        self.generator, self.discriminator = players.generator, players.discriminator
        if plan.compile:
            torch.compiler.reset()  # what an earlier run left would count as this one's
            self.generator = compiled(self.generator)
            self.discriminator = None if self.discriminator is None else compiled(self.discriminator)
        half = plan.precision == "bf16"
        self.autocast: AbstractContextManager[Any] = (
            torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
        )
        self.judge: Callable[[str, Tensor], None] = lambda name, loss: None
        """Called with each player's loss before its weights move; it may raise."""
        self.weights = [] if players.discriminator is None else list(players.discriminator.parameters())
        on_gpu = device.type == "cuda"
        self._play: Work = (
            Captured(self.play, device) if plan.cuda_graph and on_gpu and not is_distributed() else self.play
        )

    def step(self, number: int) -> dict[str, Tensor]:
        """Play step ``number``, counted from 1, and return the loss () of each player by name.

        Every rank draws the batch of all and takes its share.
        """
        real = [self.batches.next_stored() for _ in range(max(1, self.updates))]
        latents = [local_shard(self.latents()) for _ in range(self.updates + 1)]
        share = average_share(self.options.ema_decay, number)
        if isinstance(self._play, Captured):  # a number would be recorded once and for all
            return self._play(torch.full((), share, device=self.device), *real, *latents)
        return self._play(share, *real, *latents)

    def latents(self) -> Tensor:
        """Return the latents (batch_size, latent_dim) of one update."""
        return draw_latents(self.players, self.options.batch_size, self.noise, self.device)

    def play(self, share: float | Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """Return the loss () of each player by name, after its updates.

        Args:
            share: how far the average moves towards the generator.
            drawn: images, as they are stored, for each update of the discriminator, or one batch where there is none;
                then latents for each, and for the generator.
        """
        players, objective, losses = self.players, self.players.objective, {}
        generator, discriminator = self.generator, self.discriminator
        *latents, last = drawn[max(1, self.updates) :]
        real = to_unit_range(drawn[0])

        # Discriminator: fresh real and synthetic images at each of its updates.
        if discriminator is not None and players.discriminator_optimizer is not None:
            for images, own in zip(drawn, latents, strict=False):
                real = to_unit_range(images)
                with self.autocast:
                    with torch.no_grad():
                        fake = generator(own)
                    loss = objective.discriminator_loss(discriminator, real, fake)
                self.judge("discriminator", loss)
                players.discriminator_optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                average_gradients(discriminator.parameters())
                players.discriminator_optimizer.step()
                objective.constrain(discriminator)
            losses["discriminator"] = loss.detach()
            self.learn(False)

        # Generator: against the last real batch.
        with self.autocast:
            loss = objective.generator_loss(discriminator, real, generator(last))
        self.judge("generator", loss)
        players.generator_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(generator.parameters())
        players.generator_optimizer.step()
        losses["generator"] = loss.detach()
        self.learn(True)

        # Average.
        players.update_average(share)
        return losses

    def learn(self, flag: bool) -> None:
        """Let gradients come to the discriminator's weights, or not."""
        for weight in self.weights:
            weight.requires_grad_(flag)


def compiled(network: nn.Module) -> nn.Module:
    """Return ``network`` with its passes compiled, over the same weights; it itself stays as it is."""
    return cast(nn.Module, torch.compile(network, dynamic=False))


def average_share(decay: float, step: int) -> float:
    """Return how far the average moves towards the generator at ``step``: ``decay`` is reached as steps go by."""
    return 1 - min(decay, step / (step + 10))


def draw_latents(players: Players, count: int, noise: torch.Generator, device: torch.device) -> Tensor:
    """Return standard normal latents (count, latent_dim); drawn on the CPU, so the same on every device."""
    on_gpu = device.type == "cuda"  # from pinned memory the copy goes on while the host does
    latents = torch.randn(count, players.latent_dim, generator=noise, pin_memory=on_gpu)
    return latents.to(device, non_blocking=True)
