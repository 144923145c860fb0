"""Several networks of one kind, trained side by side: one after the other, or as one vectorized network."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from snngan.config import ClassifyPlan
from snngan.distributed import is_distributed, rank_and_world_size
from snngan.losses.entangled import LAYER_REDUCTIONS, EntangledLoss, LayerLosses, hidden_layers, layer_hooks
from snngan.losses.temperature import parse_temperature
from snngan.robustness.attack_rule import Attack
from snngan.seeds import seed_for
from snngan.training.checkpoint import CheckpointError
from snngan.training.classifier_plan import build_classifier, parse_regularizer
from snngan.training.device import preferred_layout
from snngan.training.distributed import share_batch_statistics
from snngan.training.divergence import remembered
from snngan.training.optimizers import make_optimizer
from snngan.training.players import AsLargeAs, fitting, load_part


class Ensemble(ABC):
    """E networks, each with its own weights, data order and temperatures, that do not see one another."""

    optimizer: torch.optim.Optimizer
    temperatures: list[LayerLosses]
    """Of each network, its layers' losses with what their temperatures have learned."""

    def __init__(self, plan: ClassifyPlan, device: torch.device) -> None:
        self._seeds = plan.seeds
        layout = preferred_layout(device, plan.precision)
        self._networks = [build_network(plan, seed).to(device).to(memory_format=layout) for seed in plan.seeds]
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16")

    @abstractmethod
    def backward(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Add the gradient of each network's loss to its weights; images (E, B, C, H, W), labels (E, B).

        Return, without gradient, the losses (E,) and of them the cross-entropies (E,).
        """

    @abstractmethod
    def attacked(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return each network's adversarial images (E, B, C, H, W), made on it in evaluation mode."""

    @abstractmethod
    def entanglement(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the entanglement of each layer (E,) at its optimal T; images (N, C, H, W)."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (E, N, K) of images (N, C, H, W)."""

    def networks(self) -> list[nn.Module]:
        """Return the networks, those of a vectorized ensemble as copies."""
        return self._networks

    def state_dict(self) -> dict[str, Any]:
        """Return the state of networks, temperatures and optimizer, the same whether they train in turn or not."""
        return {
            "networks": [network.state_dict() for network in self.networks()],
            "temperatures": [losses.state_dict() for losses in self.temperatures],
            "optimizer": self._optimizer_state(),
        }

    def remembered(self) -> dict[str, Tensor]:
        """Return what the optimizer keeps of each network's weights, by a name for a message."""
        return {
            name: part
            for seed, network in zip(self._seeds, self._networks, strict=True)
            for name, part in remembered(f"network of seed {seed}", network.named_parameters(), self.optimizer).items()
        }

    def _optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state as that of one for the weights of all networks, one network after the other."""
        return self.optimizer.state_dict()

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Take the state that :meth:`_optimizer_state` gave."""
        load_part("optimizer", self.optimizer, {"optimizer": state})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state that :meth:`state_dict` gave.

        Raises:
            CheckpointError: that was of other networks.
        """
        with fitting("networks"):
            count = len(self._networks)
            if len(state["networks"]) != count or len(state["temperatures"]) != count:
                raise CheckpointError(
                    f"the checkpoint does not fit the run's config.json: it is not of {count} networks"
                )
        for number, (network, losses) in enumerate(zip(self._networks, self.temperatures, strict=True)):
            with fitting("network"):
                network.load_state_dict(state["networks"][number])
            with fitting("temperatures"):
                losses.load_state_dict(state["temperatures"][number])
        if "optimizer" not in state:
            raise CheckpointError("the checkpoint does not fit the run's config.json: its optimizer is missing")
        self._load_optimizer_state(state["optimizer"])


def build_network(plan: ClassifyPlan, seed: int) -> nn.Module:
    """Return the fresh network of one seed; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        network = build_classifier(plan).network(plan.image_shape, plan.num_classes)
    share_batch_statistics(network)
    return network


def starts_of(seed: int, step: int) -> torch.Generator:
    """Return what the random starts of a step's attack on this rank's images are drawn from."""
    rank, _ = rank_and_world_size()
    where = f" on rank {rank}" if rank else ""
    return torch.Generator().manual_seed(seed_for(seed, f"attack at step {step}{where}"))


def build_ensemble(plan: ClassifyPlan, device: torch.device, state: Any = None) -> Ensemble:
    """Return the networks of the plan's seeds: vectorized where the plan says so or, by itself, on one GPU.

    On several ranks they take turns: what crosses ranks does not vectorize.

    Raises:
        CheckpointError: they are to take a saved ``state``, and that is of smaller networks.
    """
    vectorized = plan.ensemble == "vectorized" or (plan.ensemble == "auto" and device.type == "cuda")
    vectorized = vectorized and len(plan.seeds) > 1 and not is_distributed()
    with AsLargeAs(state):
        return VectorizedEnsemble(plan, device) if vectorized else SequentialEnsemble(plan, device)


def _of_member(name: str, part: Tensor | None, member: int) -> Tensor | None:
    """Return one network's own copy of what an optimizer remembers of a stacked weight."""
    return None if part is None else (part if name == "step" else part[member]).clone()


class SequentialEnsemble(Ensemble):
    """One network after the other."""

    def __init__(self, plan: ClassifyPlan, device: torch.device) -> None:
        super().__init__(plan, device)
        self.criteria = [
            EntangledLoss(
                network,
                plan.layers,
                plan.alpha,
                parse_temperature(plan.temperature),
                plan.distance,
                layer_loss=parse_regularizer(plan.regularizer, plan.distance),
                layer_reduction=plan.layer_reduction,
                across_ranks=is_distributed(),
            )
            for network in self._networks
        ]
        self.temperatures = [criterion.losses for criterion in self.criteria]
        self.readers = [
            EntangledLoss(network, plan.layers, 1.0, "optimal", plan.distance) for network in self._networks
        ]
        weights = [weight for network in self._networks for weight in network.parameters()]
        self.optimizer = make_optimizer(plan.optimizer, weights, plan.learning_rate)

    def backward(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        losses, cross_entropies = [], []
        for criterion, own_images, own_labels in zip(self.criteria, images, labels, strict=True):
            criterion.alpha = alpha
            with self._autocast:
                loss = criterion(own_images, own_labels)
            loss.backward()  # at once: one network's activations at a time
            losses.append(loss.detach())
            cross_entropies.append(criterion.cross_entropy)
        return torch.stack(losses), torch.stack(cross_entropies)

    def attacked(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        found = []
        for network, seed, own_images, own_labels in zip(self._networks, self._seeds, images, labels, strict=True):
            found.append(attack(network.eval(), own_images, own_labels, generator=starts_of(seed, step)))
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
    """All networks as one, by ``torch.func``: each weight is a tensor (E, ...), and every product takes all at once."""

    def __init__(self, plan: ClassifyPlan, device: torch.device) -> None:
        super().__init__(plan, device)
        weights, self.buffers = stack_module_state(self._networks)
        self.weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        self.pattern = copy.deepcopy(self._networks[0])
        self._networks = [network.cpu() for network in self._networks]  # copies, for those who ask for networks
        self.modules = hidden_layers(self.pattern, plan.layers)
        self.temperatures = [
            LayerLosses(
                parse_temperature(plan.temperature),
                plan.distance,
                layer_loss=parse_regularizer(plan.regularizer, plan.distance),
            )
            for _ in plan.seeds
        ]
        self.layer_reduction = LAYER_REDUCTIONS[plan.layer_reduction]
        self.reader = LayerLosses("optimal", plan.distance).eval()
        self.optimizer = make_optimizer(plan.optimizer, self.weights.values(), plan.learning_rate)

    def _run(self, images: Tensor, *, each: bool, keep: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (E, N, K) and, to keep, the layers' outputs (E, N, ...); ``each``: images of its own."""

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], own: Tensor) -> Any:
            outputs: dict[str, Tensor] = {}  # copies: a later module may write over its input
            with layer_hooks(self.modules if keep else {}, lambda name, output: outputs.update({name: output.clone()})):
                logits = functional_call(self.pattern, (weights, buffers), (own,))
            return logits, outputs

        found = vmap(one, (0, 0, 0 if each else None), randomness="different")(self.weights, self.buffers, images)
        logits: Tensor = found[0]
        outputs: dict[str, Tensor] = found[1]
        return logits, outputs

    def backward(self, images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        with self._autocast:
            logits, outputs = self._run(images, each=True, keep=alpha != 0)
            cross_entropies = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)])
            losses = cross_entropies
            if outputs:
                entangled = [
                    self.layer_reduction(
                        torch.stack([loss(name, output[member], labels[member]) for name, output in outputs.items()])
                    )
                    for member, loss in enumerate(self.temperatures)
                ]
                losses = cross_entropies + alpha * torch.stack(entangled)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach(), cross_entropies.detach()

    def attacked(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        def logits(flat: Tensor) -> Tensor:
            return self._run(flat.view(images.shape), each=True, keep=False)[0].flatten(0, 1)

        self.pattern.eval()
        starts = [starts_of(seed, step) for seed in self._seeds]
        found = attack(logits, images.flatten(0, 1), labels.flatten(), generator=starts)
        self.pattern.train()
        return found.view(images.shape)

    @torch.no_grad()
    def entanglement(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.pattern.eval()
        _, outputs = self._run(images, each=False, keep=True)
        self.pattern.train()
        return {
            name: torch.stack([self.reader(name, own, labels) for own in output]) for name, output in outputs.items()
        }

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        self.pattern.eval()
        logits, _ = self._run(images, each=False, keep=False)
        self.pattern.train()
        return logits

    def networks(self) -> list[nn.Module]:
        with torch.no_grad():
            for number, network in enumerate(self._networks):
                network.load_state_dict({name: part[number] for name, part in (self.weights | self.buffers).items()})
        return self._networks

    def remembered(self) -> dict[str, Tensor]:
        return {
            name.replace("network of a seed", f"network of seed {seed}"): part if part.dim() == 0 else part[member]
            for name, part in remembered("network of a seed", self.weights.items(), self.optimizer).items()
            for member, seed in enumerate(self._seeds)
        }

    def _optimizer_state(self) -> dict[str, Any]:
        state, count = self.optimizer.state_dict(), len(self._seeds)
        each = len(self.weights)
        return {
            "state": {
                member * each + weight: {name: _of_member(name, part, member) for name, part in parts.items()}
                for member in range(count)
                for weight, parts in state["state"].items()
            },
            "param_groups": [{**group, "params": list(range(count * each))} for group in state["param_groups"]],
        }

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        count, each = len(self._seeds), len(self.weights)

        def stacked(weight: int) -> dict[str, Any]:
            of_members = [state["state"][member * each + weight] for member in range(count)]
            parts = {name: [own[name] for own in of_members] for name in of_members[0]}
            return {
                name: own[0] if name == "step" or own[0] is None else torch.stack(own) for name, own in parts.items()
            }

        with fitting("optimizer"):
            found = {weight: stacked(weight) for weight in range(each if state["state"] else 0)}
            groups = [{**group, "params": list(range(each))} for group in state["param_groups"]]
        super()._load_optimizer_state({"state": found, "param_groups": groups})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        weights, buffers = stack_module_state(self._networks)
        with torch.no_grad():
            for kept, new in ((self.weights, weights), (self.buffers, buffers)):
                for name, part in kept.items():
                    part.copy_(new[name])
