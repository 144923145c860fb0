"""Options that several commands share, options made from config dataclasses, and answers to mistyped options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from snngan.files import check_local


class LocalPath(click.Path):
    """A path on this machine, returned as ``path_type``; URLs are refused."""

    def __init__(self, path_type: type = Path) -> None:
        super().__init__(path_type=path_type)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            check_local(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)
        return super().convert(value, parameter, context)


OTHER_NAMES = {
    "--learning-rate": "--lr --rate",
    "--steps": "--epochs --epoch --iterations --iters --num-steps --max-steps --total-steps",
    "--device cuda": "--gpu --gpus --cuda",
    "--device cpu": "--cpu --no-cuda",
    "--batch-size": "--batch --bs -b --batchsize",
    "--run-dir": "--out -o --output --outdir --output-dir --out-dir --save-dir --logdir --log-dir --name",
    "--out": "-o --output --outdir --output-dir --out-dir --save-dir --run-dir",
    "--json": "--out",
    "--dataset": "--data",
    "--data-dir": "--data --data-root --root --data-path",
    "--arch": "--model --network --architecture",
    "--objective": "--loss",
    "--image-size": "--size --resolution --img-size",
    "--count": "-n --num --num-images --num-samples --samples",
    "--ema-decay": "--ema",
    "--precision bf16": "--fp16 --amp --bf16",
    "--discriminator-steps": "--n-critic",
    "--optimizer": "--optim",
    "--seeds": "--seed",
    "--force": "-f --overwrite -y --yes",
    # options of version 0.1
    "--pairwise-count": "--points",
    "--dknn-count": "--points",
    "--reference": "--against",
    "--layer-reduction": "--over-layers",
    "--adversarial-training": "--adversary",
    "--log-every": "--track-every",
    "--metrics-every": "--evaluate-every",
    "--features classifier:NAME": "--train-features",
    "--features inception:FILE": "--inception-weights",
    "--set regularizer=NAMES": "--regularizer",
    "--list-settings": "--settings --list-options",
}
"""Options, and what other programs and earlier versions call them; proposed where a command has the option."""


def explain_unknown_option(error: click.NoSuchOption) -> str:
    """Return a line on an option that the command does not have, with the option that was probably meant."""
    known = {name for parameter in error.ctx.command.params for name in parameter.opts} if error.ctx else set()
    typed = error.option_name.replace("_", "-")
    meant = [name for name, others in OTHER_NAMES.items() if typed in others.split() and name.split()[0] in known]
    meant = [typed] if typed in known else meant or [*(error.possibilities or ())][:1]
    hint = f"use {' or '.join(meant)}" if meant else "--help lists the options"
    epochs = " (an epoch is NUM_IMAGES / BATCH_SIZE steps)" if typed.startswith("--epoch") else ""
    return f"no option {error.option_name}: {hint}{epochs}"


def explain_usage(error: click.ClickException) -> str:
    """Return click's line on a mistake; for missing or extra arguments, with the usage of the command."""
    message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    is_extra = "extra argument" in message
    if context is None or not (is_extra or message.startswith("Missing")):
        return error.format_message()
    if is_extra and any(parameter.name == "dataset" for parameter in context.command.params):
        return f"{message}: to name a data set, use --dataset NAME"
    return f"{message}: {' '.join(context.get_usage().split()).replace('Usage: ', 'use ')}"


class SuggestingGroup(click.Group):
    """A group that answers an unknown command with the most similar known one."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = arguments[0], self.list_commands(context)
        if name in ("help", "version"):
            raise ValueError(f"unknown command {name!r}: use --{name}, alone or after a command")
        if name not in known and not name.startswith("-"):
            from snngan.registry import unknown_name

            raise unknown_name("command", name, known)
        return super().resolve_command(context, arguments)


SECTIONS = ("Data", "Networks", "Loss", "Optimization", "Options", "Run")
"""Headings of the options in a command's help, in order."""


class GroupedCommand(click.Command):
    """A command whose help lists its options under the headings that :class:`GroupedOption` names."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        group = "Options"
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            group = getattr(parameter, "group", group)  # --help has no group: it joins the one before it
            if record is not None:
                sections.setdefault(group, []).append(record)
        for title in sorted(sections, key=SECTIONS.index):
            with formatter.section(title):
                formatter.write_dl(sections[title])


class GroupedOption(click.Option):
    """An option with the heading ``group`` that it is listed under in the help."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def add_config_options(owner: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds an option to a command for each field of the config class ``owner`` with a flag."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(dataclasses.fields(owner)):
            if field.metadata.get("flag"):
                flag = f"--{field.name.replace('_', '-')}"
                command = click.option(flag, field.name, cls=GroupedOption, **_make_arguments(owner, field))(command)
        return command

    return decorate


def _make_arguments(owner: Any, field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Return the arguments of ``click.option`` for a field."""
    from snngan.config import field_type, parse_value  # the help of the group does not need it

    kind, meta = field_type(owner, field.name), field.metadata
    default = owner.recommended.get(field.name, meta["default"])
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    or_objective = ", or the objective's" * (meta["gap"] and meta["group"] == "Optimization" and not owner.recommended)
    suffix = f"  [default: {shown}{or_objective}]"
    arguments: dict[str, Any] = {
        "help": meta["help"] + (suffix if default not in (None, False, ()) else ""),
        "group": meta["group"],
        "default": field.default,
        "metavar": meta["metavar"],
    }
    if field.name == "set":
        return arguments | {"multiple": True}
    if kind is bool:
        return arguments | {"is_flag": True}
    if meta["metavar"] == "DIR":
        return arguments | {"type": LocalPath(str)}
    if kind is tuple:
        return arguments | {"callback": lambda _, __, text: text and parse_value(owner, field.name, text)}
    return arguments | {"type": click.Choice(meta["choices"]) if meta["choices"] else kind}


IMPORTED_MODULES: list[str] = []
"""What the user named by ``--import``: the commands that are proposed next need it, too."""


def add_import_option(command: click.Command) -> None:
    """Add ``--import MODULE`` to a command, or to those of a group, that looks up names which a module may register."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_import_option(each)
    elif command.name not in ("board", "doctor") and not any(each.name == "imports" for each in command.params):
        option = GroupedOption(
            ["--import", "imports"],
            group="Run",
            multiple=True,
            metavar="MODULE",
            expose_value=False,
            is_eager=True,
            callback=_import_modules,
            help="your own module that registers objectives, metrics, ...",
        )
        command.params.append(option)


def _import_modules(context: click.Context, parameter: click.Parameter, names: Sequence[str]) -> None:
    from snngan.registry import import_module

    for name in names:
        import_module(name)
        IMPORTED_MODULES.append(name)


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return the numbers in a text such as ``0.1,0.2``, none if it is empty."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise click.BadParameter(f"must be numbers separated by commas such as 0.1,0.2, got {text!r}") from error


SEED = click.IntRange(min=0)
MAX_COUNT = 10**7
"""The most images that a command draws or compares; a larger number is a typing mistake."""
run_argument = click.argument("run", type=LocalPath())
like_option = click.option(
    "--like",
    cls=GroupedOption,
    group="Run",
    metavar="RUN",
    type=LocalPath(),
    help="run whose options are used where none is given",
)
list_settings_option = click.option(
    "--list-settings", cls=GroupedOption, group="Networks", is_flag=True, help="list the options of --set, and stop"
)
force_option = click.option("--force", is_flag=True, help="replace an existing --out")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cuda, cuda:N or cpu")
data_dir_option = click.option(
    "--data-dir", metavar="DIR", type=LocalPath(str), help="folder of the data sets [$SNNGAN_DATA or data]"
)


def add_image_options(default_features: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options for reading two sets of images and choosing their feature space."""
    options = [
        click.option(
            "--features",
            metavar="SPACE",
            help="feature space: classifier:NAME (small classifier of that data set, trained once and kept), "
            f"inception, inception:FILE, pixels, or module:function of your own [{default_features}]",
        ),
        click.option("--download", is_flag=True, help="fetch missing Inception weights; implies --features inception"),
        click.option("--skip-broken", is_flag=True, help="leave out unreadable images of a folder"),
        click.option(
            "--image-size",
            type=click.IntRange(1, 4096),
            help="size in pixels to shrink and crop images of folders and data sets to",
        ),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
