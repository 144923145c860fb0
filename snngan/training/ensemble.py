"""Networks of several seeds, trained side by side: one after the other, or vectorized as one network."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from snngan.checkpoint import CheckpointError, build_to_fit, explain_mismatch
from snngan.config import ClassifyConfig
from snngan.distributed import is_distributed, rank_and_world_size
from snngan.losses.entangled import LAYER_REDUCTIONS, EntangledLoss, LayerLosses, hidden_layers, layer_hooks
from snngan.losses.temperature import parse_temperature
from snngan.models.batch_norm import convert_batch_norm
from snngan.robustness.attacks import Attack
from snngan.seeds import seed_for
from snngan.training.device import choose_layout
from snngan.training.optimizers import WeightStates, load_optimizer, make_optimizer, optimizer_state
from snngan.training.resolve import build_classifier, parse_regularizer


class Ensemble(ABC):
    """E networks, each with its own weights, data order and temperatures, independent of each other."""

    optimizer: torch.optim.Optimizer
    layer_losses: list[LayerLosses]
    """The losses of each network's layers, with what their temperatures have learned."""

    def __init__(self, config: ClassifyConfig, networks: list[nn.Module], device: torch.device) -> None:
        self.config, self._networks, self._seeds = config, networks, config.seed_list
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")

    @abstractmethod
    def backward(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Add the gradient of each network's loss to its weights; images (E, B, C, H, W), labels (E, B).

        Return, without gradient, the losses (E,) and the cross-entropies (E,) in them.
        """

    @abstractmethod
    def attack(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return adversarial images (E, B, C, H, W) for each network in evaluation mode."""

    @abstractmethod
    def entanglement(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the entanglement of each layer (E,) at its optimal temperature; images (N, C, H, W)."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (E, N, K) of images (N, C, H, W)."""

    def networks(self) -> list[nn.Module]:
        """Return the networks; those of a vectorized ensemble are copies."""
        return self._networks

    def state_dict(self) -> dict[str, Any]:
        """Return the state of networks, temperatures and optimizer, the same for both kinds of ensemble."""
        return {
            "networks": {str(seed): each.state_dict() for seed, each in zip(self._seeds, self.networks(), strict=True)},
            "temperatures": [losses.state_dict() for losses in self.layer_losses],
            "optimizers": self.optimizer_states(),
        }

    def optimizer_states(self) -> dict[str, WeightStates]:
        """Return what the optimizer keeps of the weights of each network, by its seed."""
        return {
            str(seed): optimizer_state(self.optimizer, network.named_parameters())
            for seed, network in zip(self._seeds, self._networks, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state that :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is that of other networks.
        """
        with explain_mismatch("networks"):
            if [*state["networks"]] != [str(seed) for seed in self._seeds]:
                raise CheckpointError("the checkpoint does not fit the run's config.json: its seeds differ")
        for number, (seed, network) in enumerate(zip(self._seeds, self._networks, strict=True)):
            with explain_mismatch("network"):
                network.load_state_dict(state["networks"][str(seed)])
            with explain_mismatch("temperatures"):
                self.layer_losses[number].load_state_dict(state["temperatures"][number])
        with explain_mismatch("optimizer"):
            self._load_optimizer([state["optimizers"][str(seed)] for seed in self._seeds])

    def _load_optimizer(self, states: list[WeightStates]) -> None:
        for network, state in zip(self._networks, states, strict=True):
            load_optimizer(self.optimizer, network.named_parameters(), state)


def build_network(config: ClassifyConfig, seed: int) -> nn.Module:
    """Return the new network of one seed; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        return convert_batch_norm(build_classifier(config).network(config.image_shape, config.num_classes))


def build_ensemble(config: ClassifyConfig, images: Tensor | None, device: torch.device, saved: Any = None) -> Ensemble:
    """Return the networks of the config's seeds, vectorized where the config says so or, by default, on one GPU.

    On several ranks they are trained one after the other: communication does not vectorize.

    Args:
        config: a resolved config. That of the ensemble names its layers, which may be patterns here.
        images: two or more (N, C, H, W) in [-1, 1], which find out the layers; None if they are named already.
        device: where the networks are.
        saved: the networks' state in a checkpoint, which bounds their size.

    Raises:
        ValueError: no layer matches, one is unknown or puts out no features per image, or the images do not fit.
        CheckpointError: ``saved`` is that of smaller networks.
    """
    layout = choose_layout(device, config.precision)
    networks = [
        build_to_fit(partial(build_network, config, seed), saved and saved.get(str(seed)), "network")
        .to(device)
        .to(memory_format=layout)
        for seed in config.seed_list
    ]
    if images is not None:
        config = dataclasses.replace(config, layers=",".join(find_layers(networks[0], config, images.to(device))))
    vectorized = config.ensemble == "vectorized" or (config.ensemble == "auto" and device.type == "cuda")
    if vectorized and len(networks) > 1 and not is_distributed():
        return VectorizedEnsemble(config, networks, device)
    return SequentialEnsemble(config, networks, device)


def find_layers(network: nn.Module, config: ClassifyConfig, images: Tensor) -> tuple[str, ...]:
    """Return the names of the layers that the config means, as a pass over ``images`` runs them; not the logits."""
    patterns = (
        build_classifier(config).hidden if config.layers == "*" else [each.strip() for each in config.layer_names]
    )
    _, values = EntangledLoss(network.eval(), patterns).read(images, torch.arange(len(images), device=images.device))
    network.train()
    return tuple(values)


class SequentialEnsemble(Ensemble):
    """One network after the other."""

    def __init__(self, config: ClassifyConfig, networks: list[nn.Module], device: torch.device) -> None:
        super().__init__(config, networks, device)
        self.criteria = [
            EntangledLoss(
                network,
                config.layer_names,
                config.alpha,
                parse_temperature(config.temperature),
                config.distance,  # type: ignore[arg-type]
                layer_loss=parse_regularizer(config.regularizer, config.distance),  # type: ignore[arg-type]
                layer_reduction=config.layer_reduction,
                across_ranks=is_distributed(),
            )
            for network in networks
        ]
        self.layer_losses = [criterion.losses for criterion in self.criteria]
        self.readers = [
            EntangledLoss(network, config.layer_names, 1.0, "optimal", config.distance)  # type: ignore[arg-type]
            for network in networks
        ]
        weights = [weight for network in networks for weight in network.parameters()]
        self.optimizer = make_optimizer(config.optimizer, weights, config.learning_rate)

    def backward(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        losses, cross_entropies = [], []
        for criterion, own_images, own_labels in zip(self.criteria, images, labels, strict=True):
            criterion.alpha = alpha
            with self._autocast:
                loss = criterion(own_images, own_labels)
            loss.backward()  # now, so that one network's activations are in memory at a time
            losses.append(loss.detach())
            cross_entropies.append(criterion.cross_entropy)
        return torch.stack(losses), torch.stack(cross_entropies)

    def attack(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        found = []
        for network, seed, own_images, own_labels in zip(self._networks, self._seeds, images, labels, strict=True):
            found.append(attack(network.eval(), own_images, own_labels, generator=_make_generator(seed, step)))
            network.train()
        return torch.stack(found)

    def entanglement(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found = []
        for reader in self.readers:
            reader.model.eval()
            found.append(reader.read(images, labels)[1])
            reader.model.train()
        return {name: torch.stack([values[name] for values in found]) for name in found[0]}

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        logits = []
        for network in self._networks:
            logits.append(network.eval()(images))
            network.train()
        return torch.stack(logits)


class VectorizedEnsemble(Ensemble):
    """All networks as one, by ``torch.func``: each weight is a tensor (E, ...), and each product takes all at once."""

    def __init__(self, config: ClassifyConfig, networks: list[nn.Module], device: torch.device) -> None:
        super().__init__(config, [], device)
        weights, self.buffers = stack_module_state(networks)
        self.weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        self.template = copy.deepcopy(networks[0])
        self._networks = [network.cpu() for network in networks]  # copies, for those who ask for networks
        self.modules = hidden_layers(self.template, config.layer_names)
        self.layer_losses = [
            LayerLosses(
                parse_temperature(config.temperature),
                config.distance,  # type: ignore[arg-type]
                layer_loss=parse_regularizer(config.regularizer, config.distance),  # type: ignore[arg-type]
            )
            for _ in networks
        ]
        self.reduce_layers = LAYER_REDUCTIONS[config.layer_reduction]
        self.reader = LayerLosses("optimal", config.distance).eval()  # type: ignore[arg-type]
        self.optimizer = make_optimizer(config.optimizer, self.weights.values(), config.learning_rate)

    def _run(self, images: Tensor, *, shared: bool, keep: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (E, N, K) and, to ``keep``, the layers' outputs (E, N, ...).

        Images are (N, C, H, W) if ``shared`` by all networks, else (E, N, C, H, W).
        """

        def run_one(weights: dict[str, Tensor], buffers: dict[str, Tensor], own: Tensor) -> Any:
            outputs: dict[str, Tensor] = {}  # copies, since a later module may write over its input
            with layer_hooks(self.modules if keep else {}, lambda name, output: outputs.update({name: output.clone()})):
                logits = functional_call(self.template, (weights, buffers), (own,))
            return logits, outputs

        run_all = vmap(run_one, (0, 0, None if shared else 0), randomness="different")
        logits, outputs = run_all(self.weights, self.buffers, images)
        return logits, outputs

    def backward(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        with self._autocast:
            logits, outputs = self._run(images, shared=False, keep=alpha != 0)
            cross_entropies = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)])
            losses = cross_entropies
            if outputs:
                entangled = [
                    self.reduce_layers(
                        torch.stack([loss(name, output[index], labels[index]) for name, output in outputs.items()])
                    )
                    for index, loss in enumerate(self.layer_losses)
                ]
                losses = cross_entropies + alpha * torch.stack(entangled)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach(), cross_entropies.detach()

    def attack(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        def logits(flat: Tensor) -> Tensor:
            return self._run(flat.view(images.shape), shared=False, keep=False)[0].flatten(0, 1)

        self.template.eval()
        generators = [_make_generator(seed, step) for seed in self._seeds]
        found = attack(logits, images.flatten(0, 1), labels.flatten(), generator=generators)
        self.template.train()
        return found.view(images.shape)

    @torch.no_grad()
    def entanglement(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.template.eval()
        _, outputs = self._run(images, shared=True, keep=True)
        self.template.train()
        return {
            name: torch.stack([self.reader(name, own, labels) for own in output]) for name, output in outputs.items()
        }

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        self.template.eval()
        logits, _ = self._run(images, shared=True, keep=False)
        self.template.train()
        return logits

    def networks(self) -> list[nn.Module]:
        with torch.no_grad():
            for index, network in enumerate(self._networks):
                network.load_state_dict({name: part[index] for name, part in (self.weights | self.buffers).items()})
        return self._networks

    def optimizer_states(self) -> dict[str, WeightStates]:
        stacked = optimizer_state(self.optimizer, self.weights.items())
        return {
            str(seed): {
                weight: {name: tensor if name == "step" else tensor[index] for name, tensor in parts.items()}
                for weight, parts in stacked.items()
            }
            for index, seed in enumerate(self._seeds)
        }

    def _load_optimizer(self, states: list[WeightStates]) -> None:
        stacked = {
            weight: {
                name: tensor if name == "step" else torch.stack([state[weight][name] for state in states])
                for name, tensor in parts.items()
            }
            for weight, parts in states[0].items()
        }
        load_optimizer(self.optimizer, self.weights.items(), stacked)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        weights, buffers = stack_module_state(self._networks)
        with torch.no_grad():
            for kept, new in ((self.weights, weights), (self.buffers, buffers)):
                for name, part in kept.items():
                    part.copy_(new[name])


def _make_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of the random starts of a step's attack on this rank's images."""
    rank, _ = rank_and_world_size()
    where = f" on rank {rank}" if rank else ""
    return torch.Generator().manual_seed(seed_for(seed, f"attack at step {step}{where}"))
