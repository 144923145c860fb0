"""Cross-entropy with the entanglement of hidden layers, for any network: eq. 3 of Frosst et al. 2019.

A layer's value is taken while the one forward pass that gives the logits goes by, before a later module can write over
the layer's output in place.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from snngan.distributed import gathered
from snngan.labels import integer_labels
from snngan.losses.pairwise import Backend, Distance
from snngan.losses.snnl import SoftNearestNeighborLoss
from snngan.losses.temperature import Temperature, TemperatureLike, as_temperature

See = Callable[[str, Tensor], None]
LayerLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps a layer's output (N, ...) and integer labels (N,) to a scalar."""
Task = Callable[[Tensor, Any, Tensor], Tensor]
"""Maps a model's output (N, ...), its inputs and integer labels (N,) to a scalar."""
LAYER_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"sum": Tensor.sum, "mean": Tensor.mean, "min": Tensor.min}
"""How the values of layers (L,) become one ()."""
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What wrappers of torch call the module that they hold: torch.compile, FSDP and checkpoint_wrapper."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
"""Those that call it ``module``."""
NO_NONLINEARITY = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)
"""What torch keeps among the activations, and no hidden layer ends with."""
NONLINEARITIES = tuple(
    kind for kind in vars(nn.modules.activation).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind not in NO_NONLINEARITY
    and kind.__module__ == nn.modules.activation.__name__
)  # fmt: skip


def hidden_layers(model: nn.Module, layers: str | Sequence[str] = "*") -> dict[str, nn.Module]:
    """Return the modules of ``model`` that ``layers`` means, by name.

    Args:
        model: any network; it or parts of it may be wrapped, by ``torch.compile`` or ``DistributedDataParallel`` say.
        layers: names of modules, as in ``named_modules()`` of the model without wrappers, or patterns with ``*``,
            ``?`` and ``[]``, none of which reaches over a dot: ``"layer?.*"`` are the children of ``layer1``,
            ``layer2``, ... ``"*"`` by itself means every nonlinearity, or, where no module is one, every module with a
            weight of its own.

    Raises:
        ValueError: a pattern that no module matches.
    """
    modules = _named_layers(model)
    if layers == "*":
        chosen = {name: module for name, module in modules.items() if isinstance(module, NONLINEARITIES)}
        return chosen or {name: module for name, module in modules.items() if _has_weight(module)}
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in modules):
            raise ValueError(f"no layer matches {pattern!r}; the model has: {', '.join(modules) or 'no modules'}")
    return {name: module for name, module in modules.items() if any(_matches(name, each) for each in patterns)}


def _named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules in ``model`` by the names that they have without wrappers, each module once."""
    found: dict[str, nn.Module] = {}
    plain = {"": ""}
    for name, module in model.named_modules():
        if not name:
            continue
        parent, _, last = name.rpartition(".")
        wrapped = last in WRAPPED or (last == "module" and isinstance(model.get_submodule(parent), WRAPPERS))
        plain[name] = plain[parent] if wrapped else f"{plain[parent]}.{last}".lstrip(".")
        if plain[name]:
            found[plain[name]] = module  # of a wrapper and what is in it, the latter
    return found


def _has_weight(module: nn.Module) -> bool:
    """Return whether a module has a matrix of its own, a parametrized one too."""
    if isinstance(module, parametrize.ParametrizationList):  # its outputs are weights
        return False
    return parametrize.is_parametrized(module) or any(each.dim() > 1 for each in module.parameters(recurse=False))


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


@contextmanager
def watched(modules: Mapping[str, nn.Module], see: See, *, skip: bool = False) -> Iterator[None]:
    """Call ``see`` with the name and output of each module whenever it is run; further runs are ``NAME#2``, ...

    An output that is not one tensor raises a ``ValueError``, or is skipped.
    """
    runs = dict.fromkeys(modules, 0)

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any, output: Any) -> None:
            runs[name] += 1
            label = name if runs[name] == 1 else f"{name}#{runs[name]}"
            if not isinstance(output, Tensor):
                if skip:
                    return
                raise ValueError(f"layer {label} puts out a {type(output).__name__}, not one tensor: leave it out")
            see(label, output)

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class LayerLosses(nn.Module):
    """A :class:`SoftNearestNeighborLoss` for each layer, each with a temperature of its own; made when first needed.

    With ``instead``, another loss takes the place of them all.
    """

    def __init__(
        self,
        temperature: TemperatureLike,
        distance: Distance,
        backend: Backend = "auto",
        instead: LayerLoss | None = None,
        units: int | None = None,
        across_ranks: bool = False,
    ) -> None:
        super().__init__()
        self.instead, self.units, self.across_ranks = instead, units, across_ranks
        self.options = {"distance": distance, "backend": backend, "across_ranks": across_ranks}
        self.first = (as_temperature(temperature),)  # in a tuple: it is a pattern, and no part of the module
        self.each = nn.ModuleDict()
        self.new_loss()  # refuses wrong options at once
        self.register_load_state_dict_pre_hook(_make_layers)  # type: ignore[no-untyped-call]

    def new_loss(self) -> SoftNearestNeighborLoss:
        temperature: Temperature = copy.deepcopy(self.first[0])
        return SoftNearestNeighborLoss(temperature, **self.options)  # type: ignore[arg-type]

    def of(self, layer: str) -> SoftNearestNeighborLoss:
        """Return the loss of one layer."""
        key = layer.replace(".", "/")
        if key not in self.each:
            self.each[key] = self.new_loss().train(self.training)
        loss = self.each[key]
        assert isinstance(loss, SoftNearestNeighborLoss)
        return loss

    def forward(self, layer: str, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss () of a layer's output (N, ...) with integer ``labels`` (N,).

        Raises:
            ValueError: the output has not a row for each label.
        """
        if not is_usable(output, labels):
            raise ValueError(
                f"layer {layer} puts out {str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}, not a point "
                f"for each of the {len(labels)} labels: leave it out"
            )
        if self.units is not None:
            output = output.flatten(1)[:, : self.units]
        if self.instead is None:
            value: Tensor = self.of(layer)(output, labels)
            return value
        if self.across_ranks:
            output, labels, _ = gathered(output, labels)
        return self.instead(output.clone(), labels)  # whatever it saves of it, a later module may write over


def is_usable(output: Tensor, labels: Tensor) -> bool:
    """Return whether a layer's output has a row for each of ``labels`` (N,)."""
    return output.dim() > 1 and len(output) == len(labels) and output.is_floating_point()


def _make_layers(losses: LayerLosses, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    """Make the layers' losses whose state is about to be loaded."""
    for key in state:
        if key.startswith(f"{prefix}each."):
            losses.of(key.removeprefix(f"{prefix}each.").partition(".")[0])


class EntangledLoss(nn.Module):
    r"""Cross-entropy of a classifier's logits plus ``alpha`` times the soft nearest neighbor loss of hidden layers.

    .. math:: L = \mathrm{CE}(\text{logits}, y) + \alpha \sum_l l'(\text{layer}_l, y)

    Calling it runs the model, once. The model itself is unchanged and not part of this module: train its parameters
    with any optimizer, use it without this loss as ever. A layer whose output is the logits is left out. A model that
    calls its nonlinearities as functions has no modules for them: then ``"*"`` takes layers before theirs, all but the
    last. ``"*"`` also passes over modules that do not put out one tensor with a row for each label; where a layer is
    named, that is an error, and so is a layer that the model does not run.

    Activation checkpointing needs ``use_reentrant=False``: the reentrant kind runs layers without gradient.

    After each call ``logits``, ``cross_entropy`` and ``entanglement`` (a tensor a layer) hold what was found, without
    gradient. With ``alpha = 0`` there is nothing to add, ``entanglement`` stays empty and no time is spent on it.

    Args:
        model: maps inputs (N, ...) to logits (N, C).
        layers: names of the model's modules or patterns such as ``"layer?"``; see :func:`hidden_layers`. A module that
            is run several times in a pass counts each time, as ``NAME``, ``NAME#2``, ...
        alpha: weight of the sum; negative entangles (the paper's regularizer), positive disentangles. It may be set
            anew at any time. The default suits the optimal temperature. At an absolute T far above all distances the
            loss hardly changes with the features, and weights around -10 are usual.
        temperature: as for :class:`SoftNearestNeighborLoss`; each layer has its own, and those that learn or anneal do
            so while the model is in training mode.
        distance: ``"sqeuclidean"``, or ``"cosine"``, which suits wide layers.
        backend: as for :class:`SoftNearestNeighborLoss`.
        layer_loss: what to take of each layer in place of its soft nearest neighbor loss, such as
            ``partial(triplet_loss, margin=0.5, distance="cosine")``; the three before are not used then.
        layer_reduction: ``"sum"``, ``"mean"`` or ``"min"`` of the layers' values is what alpha weighs.
        units: take only this many of each layer's values, its first ones, or all where it has fewer; the others stay
            free of the labels.
        task: what to take in place of the cross-entropy, by output, inputs and labels, of a model that is no
            classifier: ``lambda output, inputs, labels: F.mse_loss(output, inputs)`` of an autoencoder. ``logits`` and
            ``cross_entropy`` hold the model's output and this loss then.
        across_ranks: as for :func:`soft_nearest_neighbor_loss`; the cross-entropy is this rank's.
        ignore_index: points with this label count neither in the cross-entropy nor in the loss of layers.

    Raises:
        ValueError: no layer is of that name, or an option is unknown or out of its range.

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
        if not isinstance(layers, str) and not all(isinstance(each, str) for each in layers):
            raise ValueError("layers must be names or patterns of modules, such as 'layer4' or ['layer1', 'layer?.*']")
        if not layers:
            raise ValueError("layers must name one module or more, or be '*'")
        if isinstance(alpha, str) or not math.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha!r}")
        if layer_reduction not in LAYER_REDUCTIONS:
            raise ValueError(f"layer_reduction must be {', '.join(LAYER_REDUCTIONS)}, not {layer_reduction!r}")
        if units is not None and (type(units) is not int or units < 1):
            raise ValueError(f"units must be a whole number above 0, not {units!r}")
        self.layer_reduction, self.task = LAYER_REDUCTIONS[layer_reduction], task
        self._model = (model,)  # in a tuple: its parameters are its own
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
        """Return the loss () of the model's logits for ``inputs`` with integer ``labels`` (N,)."""
        self.losses.train(self.model.training)
        labels = integer_labels(labels, len(labels))
        logits, values = self._run(inputs, labels, enabled=self.alpha != 0)
        if self.task is None:
            cross_entropy = F.cross_entropy(logits, labels, ignore_index=self.ignore_index)
        else:
            cross_entropy = self.task(logits, inputs, labels)
        if cross_entropy.dim():
            raise ValueError(f"task must return a scalar, not {tuple(cross_entropy.shape)}")
        self.logits, self.cross_entropy = logits.detach(), cross_entropy.detach()
        self.entanglement = {name: value.detach() for name, value in values.items()}
        if not values:
            return cross_entropy
        return cross_entropy + self.alpha * self.layer_reduction(torch.stack(list(values.values())))

    @torch.no_grad()
    def read(self, inputs: Any, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits (N, C) and each layer's loss (), whatever alpha; no temperature moves."""
        self.losses.eval()
        return self._run(inputs, integer_labels(labels, len(labels)), enabled=True)

    def _run(self, inputs: Any, labels: Tensor, *, enabled: bool) -> tuple[Tensor, dict[str, Tensor]]:
        values: dict[str, Tensor] = {}
        outputs: dict[str, weakref.ref[Tensor]] = {}
        shapes: dict[str, torch.Size] = {}
        counted = labels != self.ignore_index
        all_count, with_gradient = bool(counted.all()) if enabled else True, torch.is_grad_enabled()

        skipped: list[str] = []

        def see(name: str, output: Tensor) -> None:
            if not self._patterns and not is_usable(output, labels):
                skipped.append(f"{name} {tuple(output.shape)}")
                return
            if with_gradient and not torch.is_grad_enabled():
                raise ValueError(
                    f"layer {name} is run without gradient, by torch.no_grad() or by activation checkpointing: give "
                    "torch.utils.checkpoint use_reentrant=False, or name other layers"
                )
            outputs[name], shapes[name] = weakref.ref(output), output.shape
            # Within an activation checkpoint, what is saved for the backward pass must not count as its layers'.
            with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
                if all_count or not is_usable(output, labels):
                    values[name] = self.losses(name, output, labels)
                else:
                    values[name] = self.losses(name, output[counted], labels[counted])

        with watched(self.layers if enabled else {}, see, skip=not self._patterns):
            logits = self.model(inputs)
        for pattern in self._patterns if enabled else ():
            named = [name for name in self.layers if _matches(name, pattern)]
            if not any(name in outputs for name in named):
                raise ValueError(
                    f"the model did not run layer {', '.join(named)} (attention, for one, uses the weights of its "
                    "modules without running them): name other layers"
                )
        fits = isinstance(logits, Tensor) and logits.dim() and len(logits) == len(labels)
        if not fits or (self.task is None and logits.dim() != 2):
            form = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            wanted = f"logits ({len(labels)}, C)" if self.task is None else f"({len(labels)}, ...)"
            raise ValueError(f"the model must return {wanted}, not {form}")
        last = [name for name in values if outputs[name]() is logits]
        if self._by_weights and not last:  # the logits before a softmax, say
            last = [name for name in values if shapes[name] == logits.shape][-1:]
        values = {name: value for name, value in values.items() if name not in last}
        if enabled and not values:
            if skipped:
                raise ValueError(
                    f"no hidden layer puts out a row for each of {len(labels)} labels, the batch first: "
                    f"{', '.join(skipped)}"
                )
            raise ValueError(f"no hidden layer was run: {', '.join(self.layers) or 'the model has none'}")
        return logits, values

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, layers={list(self.layers)}"
