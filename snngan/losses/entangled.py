"""Cross-entropy with the entanglement of hidden layers, for any network: eq. 3 of Frosst et al. 2019.

The loss of a layer is computed in a forward hook, during the one forward pass that gives the logits: a later module may
overwrite the layer's output in place.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.modules import activation
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from snngan.distributed import gather_batch
from snngan.labels import integer_labels
from snngan.losses.backends import Backend
from snngan.losses.pairwise import Distance
from snngan.losses.snnl import SoftNearestNeighborLoss
from snngan.losses.temperature import TemperatureLike

LayerLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps a layer's output (N, ...) and integer labels (N,) to a scalar."""
Task = Callable[[Tensor, Any, Tensor], Tensor]
"""Maps a model's output (N, ...), its inputs and integer labels (N,) to a scalar."""
LAYER_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"sum": Tensor.sum, "mean": Tensor.mean, "min": Tensor.min}
"""How the losses of layers (L,) are combined into one ()."""
WRAPPED_NAMES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""The names that ``torch.compile``, FSDP and ``checkpoint_wrapper`` give to the module that they wrap."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
"""The wrappers that name it ``module``."""
NOT_ELEMENTWISE = {"MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin"}
NONLINEARITIES = tuple(getattr(activation, name) for name in activation.__all__ if name not in NOT_ELEMENTWISE)


def hidden_layers(model: nn.Module, layers: str | Sequence[str] = "*") -> dict[str, nn.Module]:
    """Return the modules of ``model`` that ``layers`` selects, by name.

    Args:
        model: any network; it or parts of it may be wrapped, such as by ``torch.compile`` or
            ``DistributedDataParallel``.
        layers: names of modules, as in ``named_modules()`` of the model without wrappers, or patterns with ``*``,
            ``?`` and ``[]``, which do not match a dot: ``"layer?.*"`` are the children of ``layer1``, ``layer2``, ...
            ``"*"`` alone selects every nonlinearity or, in a model without any, every module that has a weight.

    Raises:
        ValueError: a pattern does not match any module.
    """
    modules = _named_layers(model)
    if layers == "*":
        selected = {name: module for name, module in modules.items() if isinstance(module, NONLINEARITIES)}
        return selected or {name: module for name, module in modules.items() if _has_weight(module)}
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in modules):
            raise ValueError(f"no layer matches {pattern!r}; the model has: {', '.join(modules) or 'no modules'}")
    return {name: module for name, module in modules.items() if any(_matches(name, each) for each in patterns)}


def _named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules in ``model`` by their names without wrappers, each module once."""
    found: dict[str, nn.Module] = {}
    plain = {"": ""}
    for name, module in model.named_modules():
        if not name:
            continue
        parent, _, last = name.rpartition(".")
        is_wrapped = last in WRAPPED_NAMES or (last == "module" and isinstance(model.get_submodule(parent), WRAPPERS))
        plain[name] = plain[parent] if is_wrapped else f"{plain[parent]}.{last}".lstrip(".")
        if plain[name]:
            found[plain[name]] = module  # replaces a wrapper by what it wraps
    return found


def _has_weight(module: nn.Module) -> bool:
    """Return whether a module itself has a weight matrix, which may be parametrized."""
    has_matrix = parametrize.is_parametrized(module) or any(each.dim() > 1 for each in module.parameters(recurse=False))
    return has_matrix and not isinstance(module, parametrize.ParametrizationList)  # whose outputs are weights


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


@contextmanager
def layer_hooks(
    modules: Mapping[str, nn.Module], on_output: Callable[[str, Tensor], None], *, skip: bool = False
) -> Iterator[None]:
    """Call ``on_output`` with the name and output of each module when it runs; further runs are ``NAME#2``, ...

    An output that is not one tensor raises a ``ValueError``, or is skipped with ``skip``.
    """
    runs = dict.fromkeys(modules, 0)

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        runs[name] += 1
        label = name if runs[name] == 1 else f"{name}#{runs[name]}"
        if isinstance(output, Tensor):
            on_output(label, output)
        elif not skip:
            raise ValueError(f"layer {label} must return one tensor, got {type(output).__name__}: leave it out")

    handles = [module.register_forward_hook(partial(hook, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class LayerLosses(nn.Module):
    """A :class:`SoftNearestNeighborLoss` for each layer, created on first use, so that each has its own temperature.

    ``layer_loss`` replaces them all by another loss. Arguments are those of :class:`EntangledLoss`.
    """

    def __init__(
        self,
        temperature: TemperatureLike,
        distance: Distance,
        backend: Backend = "auto",
        layer_loss: LayerLoss | None = None,
        units: int | None = None,
        across_ranks: bool = False,
    ) -> None:
        super().__init__()
        self.layer_loss, self.units, self.across_ranks = layer_loss, units, across_ranks
        prototype = SoftNearestNeighborLoss(temperature, distance, backend=backend, across_ranks=across_ranks)
        self._prototype = (prototype,)  # a tuple, so that it is not a submodule
        self.each = nn.ModuleDict()
        self.register_load_state_dict_pre_hook(_create_loaded_layers)  # type: ignore[no-untyped-call]

    def for_layer(self, layer: str) -> nn.Module:
        """Return the loss of one layer."""
        key = layer.replace(".", "/")
        if key not in self.each:
            self.each[key] = copy.deepcopy(self._prototype[0]).train(self.training)
        return self.each[key]

    def forward(self, layer: str, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss () of a layer's output (N, ...) with integer ``labels`` (N,).

        Raises:
            ValueError: the output does not have one floating-point row per label.
        """
        if not is_usable(output, labels):
            form = f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
            raise ValueError(
                f"layer {layer} must return floating-point rows, one for each of the {len(labels)} labels, got {form}: "
                "leave it out"
            )
        if self.units is not None:
            output = output.flatten(1)[:, : self.units]
        if self.layer_loss is None:
            value: Tensor = self.for_layer(layer)(output, labels)
            return value
        if self.across_ranks:
            output, labels, _ = gather_batch(output, labels)
        return self.layer_loss(output.clone(), labels)  # a later module may overwrite what autograd saves


def is_usable(output: Tensor, labels: Tensor) -> bool:
    """Return whether a layer's output has one floating-point row per label (N,)."""
    return output.dim() > 1 and len(output) == len(labels) and output.is_floating_point()


def _create_loaded_layers(losses: LayerLosses, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    """Create the losses of layers whose state is about to be loaded."""
    for key in state:
        if key.startswith(f"{prefix}each."):
            losses.for_layer(key.removeprefix(f"{prefix}each.").partition(".")[0])


class EntangledLoss(nn.Module):
    r"""Cross-entropy of a classifier's logits plus ``alpha`` times the soft nearest neighbor loss of hidden layers.

    .. math:: L = \mathrm{CE}(\text{logits}, y) + \alpha \sum_l l'(\text{layer}_l, y)

    Calling it runs the model once. The model is not changed and is not part of this module: train its parameters with
    any optimizer. A layer whose output is the logits is left out. A model that calls its nonlinearities as functions
    has no modules for them: then ``"*"`` selects the layers before them, except the last. ``"*"`` also skips modules
    that do not return one tensor with a row per label; it is an error to name such a layer, or one that the model does
    not run. Activation checkpointing needs ``use_reentrant=False``: the reentrant kind runs layers without gradient.

    After each call ``logits``, ``cross_entropy`` and ``entanglement`` (one tensor per layer) hold the results, without
    gradient. With ``alpha = 0`` no layer loss is computed and ``entanglement`` stays empty.

    Args:
        model: maps inputs (N, ...) to logits (N, C).
        layers: names of the model's modules or patterns such as ``"layer?"``; see :func:`hidden_layers`. A module that
            runs several times in a pass counts each time, as ``NAME``, ``NAME#2``, ...
        alpha: weight of the sum; negative values entangle (the paper's regularizer), positive ones disentangle. It can
            be changed at any time. The default suits the optimal temperature. At an absolute T far above all distances
            the loss hardly changes with the features, and weights around -10 are common.
        temperature, distance, backend, across_ranks: as for :class:`SoftNearestNeighborLoss`. Each layer has its own
            temperature, which learns or anneals while the model is in training mode. ``"cosine"`` suits wide layers.
            The cross-entropy is always that of this rank.
        layer_loss: replaces the soft nearest neighbor loss of each layer, such as
            ``partial(triplet_loss, margin=0.5)``; temperature, distance and backend are then not used.
        layer_reduction: ``"sum"``, ``"mean"`` or ``"min"`` of the layers' losses, which ``alpha`` multiplies.
        units: how many values of each layer to use, the first ones; the others stay independent of the labels.
        task: replaces the cross-entropy, for a model that is not a classifier; a function of output, inputs and labels
            such as ``lambda output, inputs, labels: F.mse_loss(output, inputs)`` for an autoencoder. ``logits`` and
            ``cross_entropy`` then hold the model's output and this loss.
        ignore_index: samples with this label count neither in the cross-entropy nor in the layer losses.

    Raises:
        ValueError: no layer has a given name, or an option is unknown or out of its range.

    Source:
        Frosst et al. 2019, eq. 3.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> criterion = EntangledLoss(model, alpha=-1.0)
        >>> loss = criterion(torch.randn(16, 4), torch.arange(16) % 3)
        >>> loss.backward()
        >>> list(criterion.entanglement), criterion.logits.shape
        (['1'], torch.Size([16, 3]))
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = "*",
        alpha: float = -0.003,
        temperature: TemperatureLike = "optimal",
        distance: Distance = "sqeuclidean",
        backend: Backend = "auto",
        layer_loss: LayerLoss | None = None,
        layer_reduction: str = "sum",
        units: int | None = None,
        task: Task | None = None,
        across_ranks: bool = False,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not layers or not all(isinstance(each, str) for each in layers):
            raise ValueError(f"layers must be '*' or names or patterns of modules, such as 'layer?.*', got {layers!r}")
        if isinstance(alpha, str) or not math.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha!r}")
        if layer_reduction not in LAYER_REDUCTIONS:
            raise ValueError(f"layer_reduction must be one of {', '.join(LAYER_REDUCTIONS)}, got {layer_reduction!r}")
        if units is not None and (type(units) is not int or units < 1):
            raise ValueError(f"units must be an integer above 0, got {units!r}")
        self.layer_reduction, self.task = LAYER_REDUCTIONS[layer_reduction], task
        self._model = (model,)  # a tuple, so that it is not a submodule
        self.layers = hidden_layers(model, layers)
        self._patterns = [] if layers == "*" else [layers] if isinstance(layers, str) else list(layers)
        self._by_weights = layers == "*" and not any(isinstance(each, NONLINEARITIES) for each in self.layers.values())
        self.alpha, self.ignore_index = alpha, ignore_index
        self.losses = LayerLosses(temperature, distance, backend, layer_loss, units, across_ranks)
        self.logits = self.cross_entropy = torch.tensor(0.0)
        self.entanglement: dict[str, Tensor] = {}

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self._model[0]

    def forward(self, inputs: Any, labels: Tensor) -> Tensor:
        self.losses.train(self.model.training)
        labels = integer_labels(labels, len(labels))
        logits, values = self._run_layers(inputs, labels) if self.alpha else (self._run_model(inputs, labels), {})
        if self.task is None:
            cross_entropy = F.cross_entropy(logits, labels, ignore_index=self.ignore_index)
        else:
            cross_entropy = self.task(logits, inputs, labels)
        if cross_entropy.dim():
            raise ValueError(f"task must return a scalar, got {tuple(cross_entropy.shape)}")
        self.logits, self.cross_entropy = logits.detach(), cross_entropy.detach()
        self.entanglement = {name: value.detach() for name, value in values.items()}
        if not values:
            return cross_entropy
        return cross_entropy + self.alpha * self.layer_reduction(torch.stack(list(values.values())))

    @torch.no_grad()
    def read(self, inputs: Any, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits (N, C) and each layer's loss (), whatever alpha is; temperatures do not change."""
        self.losses.eval()
        return self._run_layers(inputs, integer_labels(labels, len(labels)))

    def _run_layers(self, inputs: Any, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the model's output and the loss of each layer, except the one that gives the output."""
        values: dict[str, Tensor] = {}
        outputs: dict[str, tuple[weakref.ref[Tensor], torch.Size]] = {}
        skipped: list[str] = []
        counted = labels != self.ignore_index
        rows = slice(None) if bool(counted.all()) else counted
        with_gradient = torch.is_grad_enabled()

        def on_output(name: str, output: Tensor) -> None:
            usable = is_usable(output, labels)
            if not self._patterns and not usable:
                skipped.append(f"{name} {tuple(output.shape)}")
                return
            if with_gradient and not torch.is_grad_enabled():
                raise ValueError(
                    f"layer {name} is run without gradient, by torch.no_grad() or by activation checkpointing: call "
                    "torch.utils.checkpoint with use_reentrant=False, or name other layers"
                )
            outputs[name] = weakref.ref(output), output.shape
            # Inside an activation checkpoint, these tensors must not be counted as saved by the layers.
            with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
                values[name] = self.losses(name, *((output[rows], labels[rows]) if usable else (output, labels)))

        with layer_hooks(self.layers, on_output, skip=not self._patterns):
            logits = self._run_model(inputs, labels)
        for pattern in self._patterns:
            named = [name for name in self.layers if _matches(name, pattern)]
            if not any(name in outputs for name in named):
                raise ValueError(
                    f"the model did not run layer {', '.join(named)} (attention, for example, uses the weights of its "
                    "modules without running them): name other layers"
                )
        last = [name for name, (output, _) in outputs.items() if output() is logits]
        if self._by_weights and not last:  # the logits before a softmax, for example
            last = [name for name, (_, shape) in outputs.items() if shape == logits.shape][-1:]
        values = {name: value for name, value in values.items() if name not in last}
        if not values and skipped:
            raise ValueError(
                f"no hidden layer returned a row for each of {len(labels)} labels, with the batch as first dimension: "
                f"{', '.join(skipped)}"
            )
        if not values:
            raise ValueError(f"no hidden layer was run: {', '.join(self.layers) or 'the model has none'}")
        return logits, values

    def _run_model(self, inputs: Any, labels: Tensor) -> Tensor:
        logits = self.model(inputs)
        if isinstance(logits, Tensor) and logits.shape[:1] == (len(labels),) and (self.task or logits.dim() == 2):
            return logits
        form = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        expected = f"({len(labels)}, ...)" if self.task else f"logits ({len(labels)}, C)"
        raise ValueError(f"the model must return {expected}, got {form}")

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, layers={list(self.layers)}"
