"""Training of a generator, alone or against a discriminator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from snngan.checkpoint import build_to_fit, explain_mismatch
from snngan.config import TrainConfig, option_values
from snngan.data import Dataset, to_unit_range
from snngan.data.augment import FLIP, diff_augment
from snngan.data.batches import Batches
from snngan.distributed import is_distributed, local_shard, rank_and_world_size
from snngan.losses.backends import MAX_DENSE_SAMPLES
from snngan.models.batch_norm import convert_batch_norm
from snngan.objectives import OBJECTIVES, Batch
from snngan.seeds import seed_for
from snngan.training.cuda_graph import CudaGraph
from snngan.training.device import choose_layout
from snngan.training.distributed import (
    average_gradients,
    broadcast_from_rank0,
    check_share,
    is_main_process,
    run_on_all_ranks,
)
from snngan.training.divergence import DivergedError, explain_divergence
from snngan.training.monitor import (
    GRID_COLUMNS,
    GRID_IMAGES,
    MAX_CLASSES,
    NUM_MONITORED,
    NUM_MONITORED_SMALL,
    held_out_rows,
    measure_entanglement,
)
from snngan.training.optimizers import WeightStates, load_optimizer, make_optimizer, optimizer_state
from snngan.training.resolve import (
    build_architecture,
    build_discriminator,
    build_generator,
    build_objective,
    is_discriminator_option,
    parse_augmentations,
    parse_diff_augment,
)
from snngan.training.run_folder import RunFolder
from snngan.training.sampling import class_rows
from snngan.training.trainer import Trainer, random_state, restore_random_state

Metrics = Callable[["GanTrainer", int], dict[str, float]]
"""A function of a trainer and the step that returns metrics by TensorBoard tag."""

AUGMENTS = ("augment", "diff_augment")
FINAL_LEARNING_RATE = 0.02
"""Where a decaying learning rate ends, relative to its beginning."""


class GanTrainer(Trainer):
    """Generator, its exponential moving average, discriminator and their optimizers.

    Args:
        config: a resolved config.
        dataset: what the config was resolved for.
        device: where networks and data are.
        state: of a checkpoint, to continue from.
        metrics: computes what is logged every ``metrics_every`` steps beside entanglement. It must not draw from
            torch's global generator.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: the data are others, or do not fit the networks, or a step cannot be a CUDA graph.
        CheckpointError: ``state`` is that of other networks.
    """

    config: TrainConfig

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        state: Mapping[str, Any] | None = None,
        metrics: Metrics | None = None,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(config, dataset, device)
        self.config, self.metrics, self.notify = config, metrics, notify
        is_balanced = config.conditional and OBJECTIVES[config.objective].needs_balanced_classes
        for size in (config.batch_size, config.real_batch_size):
            check_share(size, config.num_classes if is_balanced else 1)
        self.sample_every, self.metrics_every = config.sample_every, config.metrics_every  # on every rank alike
        self._build_networks(None if state is None else state["networks"])
        self._build_optimizers()
        self.batches = Batches(
            dataset.train_images, config.real_batch_size, seed=config.seed, device=device, shard=rank_and_world_size(),
            labels=dataset.train_labels if config.conditional else None, balanced=is_balanced,
            augment=parse_augmentations(config),
        )  # fmt: skip
        # Latents are drawn on the CPU, so that they are the same on every device.
        self.noise = torch.Generator().manual_seed(seed_for(config.seed, "noise"))
        self._choose_monitored(dataset)
        self._prepare_step()
        self._is_prepared = state is not None
        torch.manual_seed(seed_for(config.seed, "objective"))  # what objectives draw, as for a gradient penalty
        if state is not None:
            self.load_state_dict(state)

    def _build_networks(self, saved: Any) -> None:
        """Build objective, generator, EMA generator and discriminator; the same seed gives the same weights."""
        config, device = self.config, self.device
        self.latent_dim = build_architecture(config).latent_dim
        self.objective = build_objective(config).to(device)
        self.objective.remember(self.dataset.train_images, flips=FLIP in parse_augmentations(config))
        self.has_discriminator = self.objective.discriminator_dim is not None
        discriminator: nn.Module = nn.Identity()
        dim, saved = self.objective.discriminator_dim, saved or {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(config.seed, "weights"))
            generator = build_to_fit(lambda: build_generator(config), saved.get("generator"), "generator")
            if dim is not None:
                discriminator = build_to_fit(
                    lambda: build_discriminator(config, dim), saved.get("discriminator"), "discriminator"
                )
        self.generator, self.discriminator = self._place(generator), self._place(discriminator)
        self.ema_generator = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # Each step needs these tensors: they are looked up once.
        self._discriminator_weights = list(self.discriminator.parameters())
        averaged = (*self.ema_generator.parameters(), *self.ema_generator.buffers())
        current = (*self.generator.parameters(), *self.generator.buffers())
        self._ema_pairs = list(zip(averaged, current, strict=True))

    def _place(self, network: nn.Module) -> nn.Module:
        """Return ``network`` on the device, in its best memory layout, with float32 outputs."""
        network = network.to(self.device).to(memory_format=choose_layout(self.device, self.config.precision))
        network = convert_batch_norm(network)
        network.register_forward_hook(_convert_to_float32)
        return network

    def _build_optimizers(self) -> None:
        config = self.config
        rate, discriminator_rate = config.learning_rate, config.discriminator_learning_rate
        self.generator_optimizer = make_optimizer(config.optimizer, self.generator.parameters(), rate, config.betas)
        self.discriminator_optimizer = None
        if self.has_discriminator:
            rate = rate if discriminator_rate is None else discriminator_rate
            self.discriminator_optimizer = make_optimizer(
                config.optimizer, self.discriminator.parameters(), rate, config.betas
            )

    def _choose_monitored(self, dataset: Dataset) -> None:
        """Choose the held-out images and the latents that entanglement and sample grids are of, for the whole run."""
        # The stream has its name of version 0.1, so that the images are the same.
        random = torch.Generator().manual_seed(seed_for(self.config.seed, "gauge"))
        count = NUM_MONITORED if dataset.test_images[0].numel() >= 100 else NUM_MONITORED_SMALL
        rows = torch.randperm(len(dataset.test_images), generator=random)[:count]
        self.held_out = to_unit_range(dataset.test_images[rows]).to(self.device)
        self.held_out_labels = self._labels_of(dataset.test_labels, rows)
        num_fixed = max(GRID_IMAGES, GRID_COLUMNS * min(MAX_CLASSES, self.config.num_classes), len(self.held_out))
        self.fixed_latents = self._draw_latents(num_fixed, random)

    def _labels_of(self, labels: Tensor | None, rows: Tensor) -> Tensor | None:
        """Return the labels of ``rows`` on the device, or None for a generator that takes none."""
        return labels[rows].to(self.device) if self.config.conditional and labels is not None else None

    def _prepare_step(self) -> None:
        """Compile the networks and record the step as a CUDA graph, where the config says so."""
        config, on_gpu = self.config, self.device.type == "cuda"
        self._generate, self._discriminate = self.generator, self.discriminator
        self._diff_augment = parse_diff_augment(config)
        if config.compile:
            torch.compiler.reset()  # what an earlier run compiled would count as part of this one
            self._generate = _compile(self.generator)
            self._discriminate = _compile(self.discriminator) if self.has_discriminator else self.discriminator
        self._autocast: AbstractContextManager[Any] = (
            torch.autocast(self.device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
        )
        self._number, self._recorded = 0, None
        if config.cuda_graph and on_gpu:
            if is_distributed():
                raise ValueError("--cuda-graph is for one process; leave it out under torchrun")
            if self.objective.reads_values(config.batch_size, config.image_shape, self.device):
                raise ValueError(
                    "--cuda-graph: a step would read values, for a learned or optimal temperature or for a loss in "
                    f"tiles; use another temperature or a --batch-size up to {MAX_DENSE_SAMPLES // 2}, or leave it out"
                )
            self._recorded = CudaGraph(self.update, self.device)

    def prepare(self) -> None:
        """Let the objective train what it needs, on the first rank."""
        if self._is_prepared:
            return
        objective, is_main = self.objective, is_main_process()
        run_on_all_ranks(
            lambda: objective.pretrain(self.config, self.dataset, self.device, self.notify) if is_main else None
        )
        state = broadcast_from_rank0(objective.cpu().state_dict() if is_main else None)
        objective.load_state_dict(state)
        objective.to(self.device)
        self._is_prepared = True

    def step(self, number: int) -> dict[str, Tensor]:
        """Draw what step ``number`` needs, update the networks, and return the loss () of each network by name.

        Every rank draws the batch of all ranks and takes its share.
        """
        updates = self.config.discriminator_steps if self.has_discriminator else 0
        real = [self.batches.next_stored() for _ in range(max(1, updates))]
        count = self.config.batch_size
        latents = [local_shard(self._draw_latents(count, self.noise)) for _ in range(updates + 1)]
        drawn = *(images for images, _ in real), *latents, *(rows for _, rows in real)
        self._set_learning_rates(number)
        self._number = number
        weight = 1 - min(self.config.ema_decay, number / (number + 10))  # EMA warm-up
        if self._recorded is not None:  # a Python float would become a constant of the graph
            return self._recorded(torch.full((), weight, device=self.device), *drawn)
        return self.update(weight, *drawn)

    def _set_learning_rates(self, number: int) -> None:
        """Set the learning rates of step ``number``; a constant one stays as it is, also where it is recorded."""
        if self.config.learning_rate_decay != "none":
            factor = decay(self.config.learning_rate_decay, min(1.0, (number - 1) / self.config.schedule_steps))
            for _, optimizer in self._optimizers():
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor

    def update(self, ema_weight: float | Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """Update discriminator, generator and EMA generator, and return the loss () of each network by name.

        Nothing here waits for the device or chooses by values computed there, so that on a GPU the host runs ahead, or
        the whole step is one CUDA graph.

        Args:
            ema_weight: how far the EMA generator moves toward the generator, in [0, 1].
            drawn: images as they are stored, for each update of the discriminator, or one batch without it; then
                latents (batch_size, latent_dim) for each of these updates and for the generator; then where the images
                of each batch are in the training set (batch_size,).
        """
        discriminate, objective = self._discriminate_batch, self.objective
        num_batches = max(1, self.config.discriminator_steps) if self.has_discriminator else 1
        num_latents = num_batches + 1 if self.has_discriminator else 1
        *latents, last_latents = drawn[num_batches : num_batches + num_latents]
        rows = drawn[num_batches + num_latents :]
        real = self._real_batch(drawn[0], rows[0])
        losses: dict[str, Tensor] = {}

        # Update the discriminator, each time on fresh real and synthetic images.
        if self.discriminator_optimizer is not None:
            for index, own_latents in enumerate(latents):
                real = self._real_batch(drawn[index], rows[index]) if index else real
                with self._autocast:
                    with torch.no_grad():
                        fake = self._generate_batch(own_latents, real.labels)
                    loss = objective.penalized_discriminator_loss(discriminate, real, fake)
                self.check_loss(self._number, "discriminator", loss)
                self.discriminator_optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                average_gradients(self.discriminator.parameters())
                self.discriminator_optimizer.step()
                objective.constrain(self.discriminator)
            losses["discriminator"] = loss.detach()
            self._set_discriminator_grad(False)

        # Update the generator, against the last real batch.
        with self._autocast:
            fake = self._generate_batch(last_latents, real.labels)
            loss = objective.generator_loss(discriminate, real, fake)
        self.check_loss(self._number, "generator", loss)
        self.generator_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.generator.parameters())
        self.generator_optimizer.step()
        losses["generator"] = loss.detach()
        self._set_discriminator_grad(True)

        # Update the EMA generator.
        self._update_average(ema_weight)
        return losses

    def _real_batch(self, images: Tensor, rows: Tensor) -> Batch:
        """Return stored images (N, C, H, W), of the ``rows`` (N,) of the training set, as objectives get them."""
        labels = self.batches.labels
        return Batch(to_unit_range(images), None if labels is None else labels[rows], rows)

    def _generate_batch(self, latents: Tensor, labels: Tensor | None) -> Batch:
        """Return the generator's images for ``latents`` (N, latent_dim), of the classes of the real ones if labeled."""
        if labels is None:
            return Batch(self._generate(latents))
        if len(labels) != len(latents):  # balanced: every class follows the one before it
            labels = torch.arange(len(latents), device=labels.device) % self.config.num_classes
        return Batch(self._generate(latents, labels), labels)

    def _discriminate_batch(self, batch: Batch) -> Tensor:
        """Return the discriminator's outputs (N, discriminator_dim) for augmented images."""
        batch = replace(batch, images=diff_augment(batch.images, self._diff_augment))
        outputs: Tensor = self._discriminate(*inputs_of(batch))
        return outputs

    def _set_discriminator_grad(self, flag: bool) -> None:
        for weight in self._discriminator_weights:
            weight.requires_grad_(flag)

    @torch.no_grad()
    def _update_average(self, weight: float | Tensor) -> None:
        """Move the EMA generator, batch statistics included, toward the generator; copy integer buffers."""
        for kept, new in self._ema_pairs:
            if kept.is_floating_point():
                kept.lerp_(new, weight)
            else:
                kept.copy_(new)

    def _draw_latents(self, count: int, random: torch.Generator) -> Tensor:
        """Return standard normal latents (count, latent_dim) on the device."""
        on_gpu = self.device.type == "cuda"  # from pinned memory, the copy does not hold up the host
        latents = torch.randn(count, self.latent_dim, generator=random, pin_memory=on_gpu)
        return latents.to(self.device, non_blocking=True)

    @torch.no_grad()
    def sample(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the EMA generator's images (N, C, H, W) in [-1, 1] for ``latents`` (N, latent_dim).

        A class-conditional generator needs the ``labels`` (N,) of the classes.
        """
        images: Tensor = self.ema_generator(latents) if labels is None else self.ema_generator(latents, labels)
        return images

    @torch.no_grad()
    def embed(self, batch: Batch) -> Tensor | None:
        """Return the images' embeddings (N, discriminator_dim), or None without a discriminator that projects."""
        if self.objective.discriminator_dim in (None, 1):
            return None
        was_training = self.discriminator.training
        embeddings: Tensor = self.discriminator.eval()(*inputs_of(batch))
        self.discriminator.train(was_training)
        return embeddings

    def evaluate(self, number: int) -> dict[str, float]:
        values: dict[str, float] = {}
        if number > 0 and self.metrics is not None and self.is_due(number, self.metrics_every):
            values |= self.metrics(self, number)
        if self.is_due(number, self.log_every):
            values |= self._measure_entanglement(number)
        return values

    def _measure_entanglement(self, number: int) -> dict[str, float]:
        """Return the entanglement of held-out and synthetic images, by TensorBoard tag."""
        names = [self.config.class_name(label) for label in range(self.config.num_classes)]
        return measure_entanglement(*self._monitored(number), self.embed, self.objective.embed, names)

    def _monitored(self, number: int) -> tuple[Batch, Batch]:
        """Return the held-out images, and as many synthetic ones, of the same classes if they are labeled."""
        labels = self.held_out_labels
        fake = self._sample_fixed(number, self.fixed_latents[: len(self.held_out)], labels)
        return Batch(self.held_out, labels), Batch(fake, labels)

    def _sample_fixed(self, number: int, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images (N, C, H, W) of ``latents`` (N, latent_dim), which must be finite."""
        images = self.sample(latents, labels)
        if not bool(images.isfinite().all()):
            why = explain_divergence(self.config, self.networks(), self.dataset.train_images[:0])
            raise DivergedError(f"step {number}: the images of the EMA generator are not finite; {why}")
        return images

    def log_artifacts(self, run: RunFolder[Any], number: int) -> None:
        """Write the sample grid and, at checkpoints, the embeddings of real and synthetic images."""
        if self.is_due(number, self.sample_every):
            self._log_samples(run, number)
        if number > 0 and self.is_due(number, self.config.checkpoint_every):
            sides, count = self._monitored(number), len(self.held_out)
            images = torch.cat([batch.images for batch in sides])
            labels = None if self.held_out_labels is None else self.held_out_labels.repeat(2)
            embeddings = self.embed(Batch(images, labels))
            if embeddings is not None:
                run.log_projection(number, embeddings, images, ["real"] * count + ["synthetic"] * count)

    def _log_samples(self, run: RunFolder[Any], number: int) -> None:
        """Write the sample grid, for a class-conditional generator with a row for each class."""
        if self.held_out_labels is None or self.config.is_points:
            count = GRID_IMAGES if self.held_out_labels is None else len(self.held_out)
            fake = self._sample_fixed(number, self.fixed_latents[:count], self.held_out_labels)
            run.log_samples(number, fake, self.held_out[:GRID_IMAGES])
            return
        labels = class_rows(min(MAX_CLASSES, self.config.num_classes), GRID_COLUMNS, self.device)
        fake = self._sample_fixed(number, self.fixed_latents[: len(labels)], labels)
        run.log_samples(number, fake, held_out_rows(self.dataset, labels.cpu()), GRID_COLUMNS)

    def networks(self) -> dict[str, nn.Module]:
        named = {"generator": self.generator, "discriminator": self.discriminator, "ema_generator": self.ema_generator}
        if not self.has_discriminator:
            del named["discriminator"]
        return {**named, "objective": self.objective}

    def optimizer_states(self) -> dict[str, WeightStates]:
        return {
            name: optimizer_state(optimizer, self.networks()[name].named_parameters())
            for name, optimizer in self._optimizers()
        }

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        yield "generator", self.generator_optimizer
        if self.discriminator_optimizer is not None:
            yield "discriminator", self.discriminator_optimizer

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.steps_done,
            "networks": {name: network.state_dict() for name, network in self.networks().items()},
            "optimizers": self.optimizer_states(),
            "batches": self.batches.state_dict(),
            "noise": self.noise.get_state(),
            **random_state(self.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, network in self.networks().items():
            with explain_mismatch(name):
                network.load_state_dict(state["networks"][name])
        for name, optimizer in self._optimizers():
            with explain_mismatch(f"{name}'s optimizer"):
                load_optimizer(optimizer, self.networks()[name].named_parameters(), state["optimizers"][name])
        with explain_mismatch("random state"):
            self.batches.load_state_dict(state["batches"])
            self.noise.set_state(state["noise"])
            restore_random_state(state, self.device)
        self.steps_done = int(state["step"])

    def describe(self) -> list[str]:
        config, dataset = self.config, self.dataset
        training = {
            "steps": config.steps,
            "batch_size": config.batch_size,
            **({"real_batch_size": config.real_batch_size} if config.real_batch_size != config.batch_size else {}),
            "optimizer": config.optimizer,
            "learning_rate": config.learning_rate,
            **({"learning_rate_decay": config.learning_rate_decay} if config.learning_rate_decay != "none" else {}),
        }
        if config.discriminator_learning_rate is not None and self.has_discriminator:
            training["discriminator_learning_rate"] = config.discriminator_learning_rate
        if config.optimizer == "adam":
            training["betas"] = config.betas
        training |= {name: value for name in AUGMENTS if (value := getattr(config, name)) != "none"}
        training |= {"discriminator_steps": config.discriminator_steps, "ema_decay": config.ema_decay}

        def text(options: Mapping[str, Any]) -> str:
            used = (name for name in options if self.has_discriminator or not is_discriminator_option(name))
            return ", ".join(f"{name}={options[name]}" for name in used)

        chosen = text(option_values(self.objective.options))
        conditional = f", conditional on {config.num_classes} classes" if config.conditional else ""
        modes = ", compiled" * config.compile + ", CUDA graph" * config.cuda_graph
        return [
            f"data       {config.dataset}: {len(dataset.train_images)} {self.describe_samples()}, "
            f"{len(dataset.test_images)} held out",
            f"objective  {config.objective}" + (f" ({chosen})" if chosen else ""),
            f"networks   {config.arch}{conditional} ({text(config.arch_options)})",
            f"training   {text(training)}, seed={config.seed}, {config.precision}{modes} on {self.device}",
        ]

    def summarize(self, metrics: Mapping[str, float]) -> list[str]:
        if "entanglement/input_score" not in metrics:
            return []
        return [
            f"entanglement score {metrics['entanglement/input_score']:.3f} "
            "(higher is better; 1: samples cannot be told from real)",
            f"entanglement of real anchors {metrics['entanglement/real_anchors']:.3f}, of synthetic anchors "
            f"{metrics['entanglement/fake_anchors']:.3f} (0.693 is ideal)",
        ]


def decay(kind: str, done: float) -> float:
    """Return the factor of the learning rate when a share ``done`` of the steps, in [0, 1], has been done.

    It falls to ``FINAL_LEARNING_RATE``: ``linear`` is constant over the first half.
    """
    falling = min(1.0, 2 - 2 * done) if kind == "linear" else (1 + math.cos(math.pi * done)) / 2
    return max(FINAL_LEARNING_RATE, falling)


def inputs_of(batch: Batch) -> tuple[Tensor, ...]:
    """Return the arguments of a discriminator: images (N, C, H, W), and labels (N,) if it takes them."""
    return (batch.images,) if batch.labels is None else (batch.images, batch.labels)


def _compile(network: nn.Module) -> nn.Module:
    """Return ``network`` with its passes compiled, over the same weights; it itself stays as it is."""
    return cast(nn.Module, torch.compile(network, dynamic=False))


def _convert_to_float32(network: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Return a network's output as float32, so that losses keep their digits where the network runs in bf16."""
    return output.float()
