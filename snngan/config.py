"""Every option's default, range and help, once: commands, saved runs and Python calls are all made from here."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from snngan.registry import unknown_name

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    group: str = "",
    metavar: str | None = None,
) -> Any:
    """Return a dataclass field that carries its help, its closed range or choices, and its group in ``--help``."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "group": group, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


def check_options(config: Any) -> None:
    """Raise ``ValueError`` for the first field of the dataclass ``config`` not of its type, range or choices.

    What is of another library's type is turned into Python's own: paths, NumPy's numbers, lists of numbers.
    """
    for field in dataclasses.fields(config):
        value, meta = getattr(config, field.name), field.metadata
        if not meta or (value is None and field.default is None):
            continue
        hint = field_hint(type(config), field.name)
        value = _plain(value, hint)
        object.__setattr__(config, field.name, value)  # of frozen ones too
        if not _fits(value, hint):
            raise ValueError(f"{field.name} takes {_kind_text(type(config), field.name)}, not {value!r}")
        if meta["choices"] and value not in meta["choices"]:
            raise unknown_name(f"value for {field.name}", str(value), meta["choices"])
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if isinstance(number, int) and number.bit_length() > 63:
                raise ValueError(f"{field.name} must lie in {range_text(meta)}, and below 2^63")
            low = -math.inf if meta["low"] is None else meta["low"]
            high = math.inf if meta["high"] is None else meta["high"]
            if not low <= number <= high or math.isinf(number):
                raise ValueError(f"{field.name} must lie in {range_text(meta)}, not {number:g}")


def _plain(value: Any, hint: Any) -> Any:
    """Return ``value`` as Python's own type where another one means the same."""
    kind = typing.get_origin(hint) or hint
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_plain(each, typing.get_args(hint)[0]) for each in value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether ``value`` is of the annotated type; a whole number may stand for any number."""
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, tuple) or (items[-1] is not ... and len(value) != len(items)):
            return False
        return all(_fits(each, items[0]) for each in value)
    if kind is Literal or not isinstance(kind, type):
        return True
    if kind in (int, float):
        return isinstance(value, kind | int) and not isinstance(value, bool)
    return isinstance(value, kind)


def range_text(metadata: Mapping[str, Any]) -> str:
    """Return the closed range of an option as text, such as ``[0, 1]`` or ``[1, inf)``."""
    low, high = metadata["low"], metadata["high"]
    left = "(-inf" if low is None else f"[{low:g}"
    return f"{left}, inf)" if high is None else f"{left}, {high:g}]"


def field_hint(owner: type, name: str) -> Any:
    """Return the annotation of the dataclass field ``name``: ``int | None`` counts as ``int``."""
    hint = _hints(owner)[name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


@functools.cache
def _hints(owner: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def field_type(owner: type, name: str) -> type:
    """Return the plain type of the dataclass field ``name``: ``tuple[int, ...]`` counts as ``tuple``."""
    hint = field_hint(owner, name)
    kind: type = typing.get_origin(hint) or hint
    return kind


def parse_value(owner: type, name: str, text: str) -> Any:
    """Return ``text`` as the type of the field ``name`` of the dataclass ``owner``; commas part a tuple.

    Raises:
        ValueError: the text does not read as that type; the message names option, type and text.
    """
    kind = field_type(owner, name)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}[text.lower()]
        if kind is tuple:
            item, *others = typing.get_args(field_hint(owner, name))
            parts = tuple(item(part.strip()) for part in text.split(",") if part.strip())
            if not parts or (others[-1] is not ... and len(parts) != 1 + len(others)):
                raise ValueError
            return parts
        return kind(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} takes {_kind_text(owner, name)}, not {text!r}") from error


def _kind_text(owner: type, name: str) -> str:
    kind = field_type(owner, name)
    if kind is tuple:
        return _tuple_text(field_hint(owner, name))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(kind, kind.__name__)


def _tuple_text(hint: Any) -> str:
    item, *others = typing.get_args(hint) or (None,)
    if others and others[-1] is not ...:
        return "two numbers with a comma between"
    return f"{'whole numbers' if item is int else 'values'} with commas between"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What the user says of a training run; None means that the objective's own choice holds."""

    dataset: str = option("mnist-5k", "data set, folder:PATH or npz:PATH", group="Data", metavar="NAME")
    data_dir: str | None = option(None, "where data sets are kept [$SNNGAN_DATA or data]", group="Data", metavar="DIR")
    image_size: int | None = option(None, "shrink and crop to this many pixels", low=2, high=4096, group="Data")
    download: bool = option(False, "fetch the data set if it is not here", group="Data")
    skip_broken: bool = option(False, "leave out broken images of a folder", group="Data")

    objective: str = option("snnl-pixel", "what the players minimize", group="Game", metavar="NAME")
    arch: str | None = option(None, "networks: mlp, dcgan or sngan", group="Game", metavar="NAME")
    set: tuple[str, ...] = option(
        (), "an objective's or network's option; 'help' lists", group="Game", metavar="NAME=VALUE"
    )

    steps: int | None = option(None, "generator steps", low=1, group="Optimization")
    batch_size: int | None = option(None, "real images a step", low=2, group="Optimization")
    learning_rate: float | None = option(None, "of both players", low=0, high=10, group="Optimization")
    betas: tuple[float, float] | None = option(
        None, "of Adam", low=0, high=0.9999, group="Optimization", metavar="B1,B2"
    )
    discriminator_steps: int | None = option(None, "per generator step", low=1, high=100, group="Optimization")
    ema_decay: float | None = option(None, "of the averaged generator", low=0, high=0.999999, group="Optimization")

    seed: int = option(0, "of weights, order and noise", low=0, group="Run")
    device: str = option("auto", "auto, cuda or cpu", group="Run", metavar="DEVICE")
    precision: str = option("fp32", "of the networks", choices=("fp32", "tf32", "bf16"), group="Run")
    deterministic: bool = option(False, "the same bits each time on CUDA too", group="Run")
    compile: bool = option(False, "compile the networks: slow first steps", group="Run")
    cuda_graph: bool = option(False, "record the step as one CUDA graph", group="Run")
    run_dir: str | None = option(None, "the run's folder, new [runs/NNNN-...]", group="Run", metavar="DIR")
    checkpoint_every: int = option(1000, "steps between checkpoints", low=1, group="Run")
    sample_every: int = option(500, "steps between sample grids", low=1, group="Run")
    log_every: int = option(100, "steps between entanglement readings", low=1, group="Run")
    metrics_every: int = option(1000, "steps between other figures (precision, FID, ...); 0: none", low=0, group="Run")
    dry_run: bool = option(False, "say what would be done, and stop", group="Run")

    def __post_init__(self) -> None:
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the players are trained; an objective may recommend other values, and the user has the last word."""

    steps: int = option(20000, "generator steps", low=1)
    batch_size: int = option(64, "real images a step", low=2)
    optimizer: str = option("adam", "of both players", choices=("adam", "rmsprop"))
    learning_rate: float = option(2e-4, "of both players", low=0, high=10)
    discriminator_learning_rate: float | None = option(None, "of the discriminator, if it differs", low=0, high=10)
    betas: tuple[float, float] = option((0.5, 0.999), "of Adam", low=0, high=0.9999)
    discriminator_steps: int = option(1, "discriminator steps per generator step", low=1, high=100)
    ema_decay: float = option(0.999, "of the averaged generator", low=0, high=0.999999)

    def __post_init__(self) -> None:
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does, every default filled in: written to its folder, and all that resuming it goes by."""

    dataset: str
    data_dir: str | None
    image_size: int | None
    skip_broken: bool
    data_digest: str
    image_shape: tuple[int, int, int]
    is_points: bool
    objective: str
    objective_options: Mapping[str, Any]
    arch: str
    arch_options: Mapping[str, Any]
    optimization: Optimization
    seed: int
    precision: str
    checkpoint_every: int
    sample_every: int
    log_every: int
    metrics_every: int = 0
    compile: bool = False
    cuda_graph: bool = False
    deterministic: bool = False

    @property
    def steps(self) -> int:
        return self.optimization.steps

    @property
    def batch_size(self) -> int:
        return self.optimization.batch_size

    @property
    def title(self) -> str:
        """What its folder is named after, beside the data set."""
        return self.objective

    def with_steps(self, steps: int) -> Plan:
        """Return the plan of a run of as many steps."""
        return dataclasses.replace(self, optimization=dataclasses.replace(self.optimization, steps=steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """What the user says of a classifier's training."""

    dataset: str = option("mnist-5k", "name, folder:PATH or npz:PATH", group="Data", metavar="NAME")
    data_dir: str | None = option(None, "where data sets are kept [$SNNGAN_DATA or data]", group="Data", metavar="DIR")
    image_size: int | None = option(None, "shrink and crop to this many pixels", low=2, high=4096, group="Data")
    download: bool = option(False, "fetch the data set if it is not here", group="Data")
    skip_broken: bool = option(False, "leave out broken images of a folder", group="Data")

    arch: str = option("cnn", "or cnn-small, feedforward, resnet15/18/34", group="Network", metavar="NAME")
    set: tuple[str, ...] = option((), "an option of the network; 'help' lists", group="Network", metavar="NAME=VALUE")

    regularizer: str = option("snnl", "of layers, or triplet:MARGIN", group="Loss", metavar="RULE")
    alpha: float = option(-0.003, "its weight; below 0 entangles", low=-1e9, high=1e9, group="Loss")
    alpha_final: float | None = option(None, "at the end, in equal steps [alpha]", low=-1e9, high=1e9, group="Loss")
    layers: str = option("*", "names or patterns, with commas; *: all", group="Loss", metavar="NAMES")
    layer_reduction: str = option(
        "sum", "or mean, min, of them", choices=("sum", "mean", "min"), group="Loss", metavar="HOW"
    )
    temperature: str = option("optimal", "such as 0.1, learned:1, absolute:50", group="Loss", metavar="RULE")
    distance: str = option(
        "sqeuclidean", "sqeuclidean or cosine", choices=("sqeuclidean", "cosine"), group="Loss", metavar="NAME"
    )
    adversarial_training: str | None = option(
        None, "trains on its examples: pgd:0.3, pgd:0.3:40 steps", group="Loss", metavar="RULE"
    )

    steps: int = option(5000, "optimizer steps", low=1, group="Optimization")
    batch_size: int = option(256, "images a step", low=2, group="Optimization")
    optimizer: str = option(
        "adam", "adam, or sgd with momentum", choices=("adam", "sgd"), group="Optimization", metavar="NAME"
    )
    learning_rate: float = option(1e-3, "at the start", low=0, high=10, group="Optimization")
    learning_rate_final: float | None = option(
        None, "at the end, in equal ratios [the same]", low=0, high=10, group="Optimization"
    )

    seed: int = option(0, "of weights and order", low=0, group="Run")
    seeds: str | None = option(None, "several, 0:4 or 0,3,5: a network each", group="Run", metavar="SEEDS")
    ensemble: str = option(
        "auto",
        "auto, vectorized or sequential",
        choices=("auto", "vectorized", "sequential"),
        group="Run",
        metavar="HOW",
    )
    device: str = option("auto", "auto, cuda or cpu", group="Run", metavar="DEVICE")
    precision: str = option("fp32", "of the networks", choices=("fp32", "tf32", "bf16"), group="Run")
    deterministic: bool = option(False, "the same bits each time on CUDA too", group="Run")
    run_dir: str | None = option(None, "the run's folder, new [runs/NNNN-...]", group="Run", metavar="DIR")
    checkpoint_every: int = option(1000, "steps between checkpoints", low=1, group="Run")
    log_every: int = option(500, "steps between readings", low=1, group="Run")
    dry_run: bool = option(False, "say what would be done, and stop", group="Run")

    def __post_init__(self) -> None:
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyPlan:
    """What a classifier's run does, every default filled in."""

    dataset: str
    data_dir: str | None
    image_size: int | None
    skip_broken: bool
    data_digest: str
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    """Of the labels from 0 on; empty where the data have none."""
    arch: str
    arch_options: Mapping[str, Any]
    layers: tuple[str, ...]
    alpha: float
    alpha_final: float
    temperature: str
    distance: Literal["sqeuclidean", "cosine"]
    steps: int
    schedule_steps: int
    """Over which learning rate and alpha change; a run that goes on for longer keeps their last values."""
    batch_size: int
    optimizer: str
    learning_rate: float
    learning_rate_final: float
    seeds: tuple[int, ...]
    ensemble: str
    precision: str
    checkpoint_every: int
    log_every: int
    regularizer: str = "snnl"
    layer_reduction: str = "sum"
    adversarial_training: str | None = None
    deterministic: bool = False

    @property
    def title(self) -> str:
        """What its folder is named after, beside the data set."""
        return self.arch

    def with_steps(self, steps: int) -> ClassifyPlan:
        """Return the plan of a run of as many steps."""
        return dataclasses.replace(self, steps=steps)
