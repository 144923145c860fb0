"""Every option of training: type, default, range and help, declared once, in groups that both configs share.

A config holds the options that the user gave; :mod:`snngan.training.resolve` fills in defaults and adds facts of the
data. That resolved config, of the same class, is what a run is made from and what its ``config.json`` keeps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from snngan.registry import unknown_name

MAX_SEEDS = 1000
MAX_SIDE = 4096
"""Largest height and width of images, in pixels."""


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    group: str = "",
    metavar: str | None = None,
    deferred: bool = False,
    saved: bool = True,
    has_flag: bool = True,
) -> Any:
    """Return a dataclass field that describes an option.

    Args:
        default: its value where neither the user nor the objective chooses one.
        help: a noun phrase for ``--help``.
        low: minimum, inclusive.
        high: maximum, inclusive.
        choices: the allowed values, if restricted.
        group: its heading in ``--help``.
        metavar: placeholder of its value in ``--help``.
        deferred: whether it is None until :meth:`Config.fill_defaults` sets it: the objective may recommend a value.
        saved: whether it belongs to the run, and so to ``config.json``, or only to this call.
        has_flag: whether it is a flag of the command, or only a name of ``--set``.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "group": group,
        "metavar": metavar,
        "default": default,
        "deferred": deferred,
        "saved": saved,
        "has_flag": has_flag,
    }
    return dataclasses.field(default=None if deferred else default, metadata=metadata)


def with_default(owner: type, name: str, default: Any) -> Any:
    """Return the option ``name`` of the dataclass ``owner`` for a subclass of it, with another ``default``."""
    field = next(each for each in dataclasses.fields(owner) if each.name == name)
    return dataclasses.field(default=default, metadata={**field.metadata, "default": default})


def from_data() -> Any:
    """Return a dataclass field for a fact of the data: None until the config is resolved."""
    return dataclasses.field(default=None, metadata={"from_data": True, "saved": True})


def check_options(config: Any) -> None:
    """Raise ``ValueError`` for the first option of the dataclass ``config`` not of its type, range or choices."""
    for field in dataclasses.fields(config):
        value, meta = getattr(config, field.name), field.metadata
        if not meta or (value is None and field.default is None):
            continue
        hint = field_hint(type(config), field.name)
        if not _has_type(value, hint):
            raise ValueError(f"{field.name} must be {_describe_type(hint)}, got {value!r}")
        if "help" not in meta:
            continue
        if meta["choices"] and value not in meta["choices"]:
            raise unknown_name(f"value for {field.name}", str(value), meta["choices"])
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if isinstance(number, int) and number.bit_length() > 63:
                raise ValueError(f"{field.name} must be in {range_text(meta)} and below 2^63")
            low = -math.inf if meta["low"] is None else meta["low"]
            high = math.inf if meta["high"] is None else meta["high"]
            if not low <= number <= high or math.isinf(number):
                raise ValueError(f"{field.name} must be in {range_text(meta)}, got {number:g}")


def make_config(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Return the dataclass ``kind`` of options by name, as Python code or a JSON file gives them.

    Converts paths to strings, lists to tuples and NumPy's numbers to Python's.

    Raises:
        ValueError: a name is unknown, or a value is not of its type, range or choices.
    """
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{kind.__name__} must be a dataclass, whose options are fields with option(...)")
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for name in values:
        if name not in known:
            raise unknown_name("option", name, known)
    made = kind(**{name: _convert(value, field_hint(kind, name)) for name, value in values.items()})
    check_options(made)
    return made


def _convert(value: Any, hint: Any) -> Any:
    """Return ``value`` converted to the type ``hint``, if it is an equivalent value of another library or of JSON."""
    kind = typing.get_origin(hint) or hint
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_convert(each, typing.get_args(hint)[0]) for each in value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)
    return float(value) if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def _has_type(value: Any, hint: Any) -> bool:
    """Return whether ``value`` is of the annotated type; a whole number may stand for any number."""
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, tuple) or (items[-1] is not ... and len(value) != len(items)):
            return False
        return all(_has_type(each, items[0]) for each in value)
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
    hint = _get_type_hints(owner)[name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


@functools.cache
def _get_type_hints(owner: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def field_type(owner: type, name: str) -> type:
    """Return the plain type of the dataclass field ``name``: ``tuple[int, ...]`` counts as ``tuple``."""
    hint = field_hint(owner, name)
    kind: type = typing.get_origin(hint) or hint
    return kind


def parse_value(owner: type, name: str, text: str) -> Any:
    """Return ``text`` as the type of the field ``name`` of the dataclass ``owner``; commas separate a tuple's items.

    Raises:
        ValueError: the text cannot be read as that type; the message names option, type and text.
    """
    hint = field_hint(owner, name)
    kind = typing.get_origin(hint) or hint
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}[text.lower()]
        if kind is tuple:
            item, *others = typing.get_args(hint)
            parts = tuple(item(part.strip()) for part in text.split(",") if part.strip())
            if not parts or (others[-1] is not ... and len(parts) != 1 + len(others)):
                raise ValueError
            return parts
        return kind(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} must be {_describe_type(hint)}, got {text!r}") from error


def _describe_type(hint: Any) -> str:
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        item, *others = typing.get_args(hint)
        if others[-1] is not ...:
            return "two comma-separated numbers"
        return f"{'whole numbers' if item is int else 'values'} with commas between"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(kind, "a mapping")


def option_names(owner: type) -> list[str]:
    """Return the names of the options of a dataclass."""
    return [field.name for field in dataclasses.fields(owner) if "help" in field.metadata]


def option_values(instance: Any) -> dict[str, Any]:
    """Return the values of the options of a dataclass instance by name."""
    return {name: getattr(instance, name) for name in option_names(type(instance))}


def parse_settings(
    settings: Iterable[str],
    owner_of: Mapping[str, type],
    kind: str = "option of --set",
    hint: str = "--list-settings lists the names",
) -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as values by name.

    Args:
        settings: the texts.
        owner_of: the dataclass that has the field of each known name.
        kind: what a name stands for, for the message about an unknown one.
        hint: the end of the message about a text without an equals sign.

    Raises:
        ValueError: a text has no equals sign, a name is unknown, or a value cannot be read.
    """
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set must be NAME=VALUE, got {setting!r}; {hint}")
        if name not in owner_of:
            raise unknown_name(kind, name, owner_of)
        values[name] = parse_value(owner_of[name], name, text)
    return values


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds written as ``0:4`` (0 to 3), ``0,3,5`` or ``7``.

    Raises:
        ValueError: the text has none of these forms, or names a seed twice or none.
    """
    first, colon, last = text.partition(":")
    try:
        counted = range(int(first), int(last)) if colon else [int(part) for part in text.split(",")]
    except ValueError:
        counted = []
    if len(counted) > MAX_SEEDS:
        raise ValueError(f"--seeds {text}: must be at most {MAX_SEEDS} seeds, got {len(counted)}")
    seeds = tuple(counted)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds must be 0:4 (that is 0 to 3), 0,3,5 or 7, none twice, got {text!r}")
    return seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run is trained on."""

    dataset: str = option("mnist-5k", "data set, folder:PATH or npz:PATH", group="Data", metavar="NAME")
    data_dir: str | None = option(None, "folder of data sets [$SNNGAN_DATA or data]", group="Data", metavar="DIR")
    image_size: int | None = option(
        None, "height and width to crop and shrink images to", low=2, high=MAX_SIDE, group="Data"
    )
    download: bool = option(False, "download the data set if it is missing", group="Data", saved=False)
    skip_broken: bool = option(False, "leave out unreadable images of a folder", group="Data")

    data_digest: str = from_data()
    """Hash of the images (and labels, for a classifier): a run never resumes on other data."""
    image_shape: tuple[int, int, int] = from_data()
    """(channels, height, width)."""
    is_points: bool = from_data()
    """Whether the "images" are 2-D points."""
    class_names: tuple[str, ...] = from_data()
    """Names of the classes from 0 on; empty where the data have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How networks are optimized."""

    steps: int = option(20000, "number of training steps", low=1, group="Optimization", deferred=True)
    batch_size: int = option(
        64, "number of real images per step, over all processes", low=2, group="Optimization", deferred=True
    )
    optimizer: str = option(
        "adam",
        "adam, rmsprop, or sgd with momentum",
        choices=("adam", "rmsprop", "sgd"),
        group="Optimization",
        metavar="NAME",
        deferred=True,
    )
    augment: str = option(
        "none",
        "random changes of training images: none, flip (mirror images), crop",
        group="Optimization",
        metavar="NAMES",
        deferred=True,
    )
    learning_rate: float = option(
        2e-4, "learning rate (of generator and discriminator)", low=0, high=10, group="Optimization", deferred=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a run is computed, and how often it writes."""

    seed: int = option(0, "seed of weights, data order and noise", low=0, group="Run")
    seeds: str | None = option(None, "several seeds, such as 0:4 or 0,3,5", group="Run", metavar="SEEDS")
    device: str = option("auto", "device: auto, cuda or cpu", group="Run", metavar="DEVICE", saved=False)
    precision: str = option("fp32", "precision of the networks", choices=("fp32", "tf32", "bf16"), group="Run")
    deterministic: bool = option(False, "make results on CUDA bit-equal, too", group="Run")
    run_dir: str | None = option(
        None, "new folder for the run [runs/NNNN-...]", group="Run", metavar="DIR", saved=False
    )
    checkpoint_every: int = option(1000, "steps between checkpoints", low=1, group="Run")
    log_every: int = option(100, "steps between logged losses and entanglement", low=1, group="Run", deferred=True)
    dry_run: bool = option(False, "describe the run, and stop", group="Run", saved=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(DataConfig, OptimizationConfig, RunConfig):
    """What the configs of generators and classifiers share."""

    kind: ClassVar[str]
    """What is trained, in the words of ``config.json`` and of messages."""
    recommended: ClassVar[Mapping[str, Any]] = types.MappingProxyType({})
    """What fills the deferred options of this kind of config before the options' own defaults."""

    schedule_steps: int = from_data()
    """Steps over which learning rate and alpha change; a run that is trained for longer keeps their last values."""

    arch: str = option(None, "architecture; --list-settings lists all", group="Networks", metavar="NAME", deferred=True)
    arch_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"saved": True})
    """The options of the architecture by name; all of them in a resolved config."""
    set: tuple[str, ...] = option(
        (), "further option; --list-settings lists all", group="Networks", metavar="NAME=VALUE", saved=False
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.image_shape and not all(1 <= size <= MAX_SIDE for size in self.image_shape):
            raise ValueError(f"image_shape must be (C, H, W) of 1 to {MAX_SIDE}, got {self.image_shape}")

    @property
    def title(self) -> str:
        """What the run's folder is named after, beside the data set."""
        return self.arch

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds that ``seeds`` or ``seed`` asks for; raises ``ValueError`` for both."""
        if self.seeds is None:
            return (self.seed,)
        if self.seed:
            raise ValueError(f"--seed {self.seed} and --seeds {self.seeds}: give one of them")
        return parse_seeds(self.seeds)

    def fill_defaults(self, recommended: Mapping[str, Any] = types.MappingProxyType({})) -> Self:
        """Return this config with a value in each deferred option: the recommended one, or else its default."""
        choices = {**self.recommended, **recommended}
        deferred = [field for field in dataclasses.fields(self) if field.metadata.get("deferred")]
        missing = [field for field in deferred if getattr(self, field.name) is None]
        filled = {field.name: choices.get(field.name, field.metadata["default"]) for field in missing}
        return dataclasses.replace(self, **filled)

    def to_json(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps: all but what belongs to one start of the run."""
        saved = (field for field in dataclasses.fields(self) if field.metadata.get("saved", True))
        return {field.name: getattr(self, field.name) for field in saved}

    def flat_values(self) -> dict[str, Any]:
        """Return the values of :meth:`to_json`, with the options of objective and architecture on one level."""
        flat: dict[str, Any] = {}
        for name, value in self.to_json().items():
            flat |= value if isinstance(value, Mapping) else {name: value}
        return flat

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the resolved config of which :meth:`to_json` gave ``values``.

        The values may be anyone's: what belongs to one start of a run, such as ``download``, is refused.

        Raises:
            ValueError: a value is missing, unknown, of another type or out of range.
        """
        saved = [field.name for field in dataclasses.fields(cls) if field.metadata.get("saved", True)]
        for name in values:
            if name not in saved:
                raise unknown_name("option", name, saved)
        for field in dataclasses.fields(cls):
            if (field.metadata.get("deferred") or "from_data" in field.metadata) and values.get(field.name) is None:
                raise ValueError(f"{field.name} is missing")
        config: Self = make_config(cls, values)
        return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a generator is trained; what is not given is up to the objective."""

    kind = "generator"

    objective: str = option("snnl-features", "what the networks minimize", group="Networks", metavar="NAME")
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"saved": True})
    """The options of the objective by name; all of them in a resolved config."""
    conditional: bool = option(False, "make images of a given class; needs labels", group="Networks", deferred=True)
    real_batch_size: int = option(
        None,
        "number of real images per step [batch size]; without a discriminator only",
        low=2,
        group="Optimization",
        deferred=True,
    )

    betas: tuple[float, float] = option(
        (0.5, 0.999),
        "beta1 and beta2 of Adam",
        low=0,
        high=0.9999,
        group="Optimization",
        metavar="B1,B2",
        deferred=True,
    )
    learning_rate_decay: str = option(
        "none",
        "none, linear (over the second half of the steps) or cosine",
        choices=("none", "linear", "cosine"),
        group="Optimization",
        metavar="HOW",
        deferred=True,
    )
    discriminator_learning_rate: float | None = option(
        None, "learning rate of the discriminator, if it differs", low=0, high=10, has_flag=False
    )
    diff_augment: str = option(
        "none",
        "random changes of all that the discriminator sees: none or color,translation,cutout",
        group="Optimization",
        metavar="NAMES",
        deferred=True,
    )
    discriminator_steps: int = option(
        1, "discriminator updates per generator update", low=1, high=100, group="Optimization", deferred=True
    )
    ema_decay: float = option(
        0.999, "decay rate of the EMA generator", low=0, high=0.999999, group="Optimization", deferred=True
    )

    compile: bool = option(False, "compile the networks; the first steps become slow", group="Run")
    cuda_graph: bool = option(False, "record the step as one CUDA graph", group="Run")
    sample_every: int = option(500, "steps between sample grids", low=1, group="Run")
    metrics_every: int = option(1000, "steps between metrics (precision, FID, ...), 0: never", low=0, group="Run")

    class_counts: tuple[int, ...] = from_data()
    """How many training images each class has; empty unless the generator is class-conditional."""

    @property
    def title(self) -> str:
        return self.objective

    @property
    def num_classes(self) -> int:
        """The number of classes that a generator of a resolved config can be asked for, 0 unless conditional."""
        return len(self.class_counts)

    def class_name(self, number: int) -> str:
        """Return the name of a class, or its number where it has none."""
        return self.class_names[number] if number < len(self.class_names) else str(number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyConfig(Config):
    """How a classifier is trained."""

    kind = "classifier"
    recommended = types.MappingProxyType(
        {"arch": "cnn", "steps": 5000, "batch_size": 256, "learning_rate": 1e-3, "log_every": 500}
    )

    alpha: float = option(
        -0.003, "weight of the layer loss; negative values entangle classes", low=-1e9, high=1e9, group="Loss"
    )
    alpha_final: float | None = option(
        None, "alpha at the last step, reached linearly [alpha]", low=-1e9, high=1e9, group="Loss"
    )
    layers: str = option("*", "layer names or patterns, with commas; *: all", group="Loss", metavar="NAMES")
    layer_reduction: str = option(
        "sum", "sum, mean or min over layers", choices=("sum", "mean", "min"), group="Loss", metavar="HOW"
    )
    temperature: str = option(
        "optimal", "temperature rule, such as 0.1, learned:1, absolute:50", group="Loss", metavar="RULE"
    )
    distance: str = option(
        "sqeuclidean", "sqeuclidean or cosine", choices=("sqeuclidean", "cosine"), group="Loss", metavar="NAME"
    )
    adversarial_training: str | None = option(
        None, "attack on training images: NAME:EPSILON[:STEPS]", group="Loss", metavar="RULE"
    )
    regularizer: str = option("snnl", "loss of the layers: snnl or triplet:MARGIN", has_flag=False)
    learning_rate_final: float | None = option(
        None, "learning rate at the last step, reached geometrically", low=0, high=10, group="Optimization"
    )
    ensemble: str = option(
        "auto",
        "networks of several seeds: auto, vectorized or sequential",
        choices=("auto", "vectorized", "sequential"),
        group="Run",
        metavar="HOW",
    )

    num_classes: int = from_data()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers of a resolved config."""
        return tuple(self.layers.split(","))
