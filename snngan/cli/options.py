"""Click options made from the dataclasses of ``snngan.config``, shown by group in a command's help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from snngan.config import field_type
from snngan.files import check_local


class LocalPath(click.Path):
    """A path on this machine, as ``pathlib.Path`` or another ``path_type``; URLs are refused."""

    def __init__(self, path_type: type = Path) -> None:
        super().__init__(path_type=path_type)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            check_local(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)
        return super().convert(value, parameter, context)


OTHER_NAMES = {
    "--lr": "--learning-rate", "--rate": "--learning-rate",
    "--epochs": "--steps", "--epoch": "--steps", "--iterations": "--steps", "--iters": "--steps",
    "--num-steps": "--steps", "--max-steps": "--steps", "--total-steps": "--steps",
    "--gpu": "--device cuda", "--gpus": "--device cuda", "--cuda": "--device cuda", "--cpu": "--device cpu",
    "--no-cuda": "--device cpu",
    "--batch": "--batch-size", "--bs": "--batch-size", "-b": "--batch-size", "--batchsize": "--batch-size",
    "--out": "--run-dir, --json", "-o": "--run-dir, --out", "--output": "--run-dir, --out",
    "--outdir": "--run-dir, --out",
    "--output-dir": "--run-dir, --out", "--out-dir": "--run-dir, --out", "--save-dir": "--run-dir, --out",
    "--logdir": "--run-dir", "--log-dir": "--run-dir", "--name": "--run-dir", "--run-dir": "--out",
    "--data": "--dataset, --data-dir", "--data-root": "--data-dir", "--root": "--data-dir",
    "--data-path": "--data-dir",
    "--model": "--arch", "--network": "--arch", "--architecture": "--arch", "--loss": "--objective",
    "--size": "--image-size", "--resolution": "--image-size", "--img-size": "--image-size",
    "-n": "--count", "--num": "--count", "--num-images": "--count", "--num-samples": "--count", "--samples": "--count",
    "--ema": "--ema-decay", "--fp16": "--precision bf16", "--amp": "--precision bf16", "--bf16": "--precision bf16",
    "--n-critic": "--discriminator-steps", "--optim": "--optimizer", "--seed": "--seeds",
    "-f": "--force", "--overwrite": "--force", "-y": "--force", "--yes": "--force",
    "--train-features": "--features classifier:NAME", "--inception-weights": "--features inception:FILE",
    "--against": "--reference",
    "--points": "--pairwise-count",
}  # fmt: skip
"""What other programs and earlier versions call options, and what they are called here, where a command has them."""


def explain_unknown_option(error: click.NoSuchOption) -> str:
    """Return a line on an option that the command does not have, with the one that was probably meant."""
    known = {name for parameter in error.ctx.command.params for name in parameter.opts} if error.ctx else set()
    asked = error.option_name.replace("_", "-")
    meant = [name for name in OTHER_NAMES.get(asked, "").split(", ") if name.partition(" ")[0] in known]
    meant = [asked] if asked in known else meant or [*(error.possibilities or ())][:1]
    hint = f"use {' or '.join(meant)}" if meant else "--help lists the options"
    epochs = " (an epoch is NUM_IMAGES / BATCH_SIZE steps)" if asked.startswith("--epoch") else ""
    return f"no option {error.option_name}: {hint}{epochs}"


def explain_usage(error: click.ClickException) -> str:
    """Return click's line on a mistake; of arguments too many or missing, with the form that the command has."""
    message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    if context is None or not ("extra argument" in message or message.startswith("Missing")):
        return error.format_message()
    if any(parameter.name == "dataset" for parameter in context.command.params) and "extra argument" in message:
        return f"{message}: to name a data set, use --dataset NAME"
    return f"{message}: {' '.join(context.get_usage().split()).replace('Usage: ', 'use ')}"


class NamedGroup(click.Group):
    """A group that answers an unknown command with the nearest known one."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = arguments[0], self.list_commands(context)
        if name in ("help", "version"):
            raise ValueError(f"use --{name}, after a command or alone")
        if name not in known and not name.startswith("-"):
            from snngan.registry import unknown_name

            raise unknown_name("command", name, known)
        return super().resolve_command(context, arguments)


class GroupedCommand(click.Command):
    """A command whose help lists its options under the group of each."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        group = "Options"
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            group = getattr(parameter, "group", group)  # --help, the last, stands with those before it
            if record is not None:
                sections.setdefault(group, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option that knows the heading it stands under in the help."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def options_of(owner: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds an option for each field of the dataclass ``owner``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(dataclasses.fields(owner)):
            flag = f"--{field.name.replace('_', '-')}"
            command = click.option(flag, field.name, cls=GroupedOption, **_arguments(owner, field))(command)
        return command

    def _arguments(owner: type, field: dataclasses.Field[Any]) -> dict[str, Any]:
        kind, meta = field_type(owner, field.name), field.metadata
        arguments: dict[str, Any] = {
            "help": meta["help"],
            "group": meta["group"],
            "default": field.default,
            "metavar": meta["metavar"],
            "show_default": field.default not in (None, False, ()),
        }
        if field.name == "set":
            return arguments | {"multiple": True}
        if kind is bool:
            return arguments | {"is_flag": True}
        if meta["metavar"] == "DIR":
            return arguments | {"type": LocalPath(str)}
        if kind is tuple:
            return arguments | {"type": two_numbers}
        return arguments | {"type": click.Choice(meta["choices"]) if meta["choices"] else kind}

    return decorate


def numbers(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """Return ``0.1,0.2`` as numbers; of no text none."""
    if isinstance(text, tuple):
        return text
    try:
        return tuple(float(part) for part in text.split(",") if text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not numbers with commas between, such as 0.1,0.2") from error


def two_numbers(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """Return ``0.5,0.999`` as two numbers."""
    found = numbers(text)
    if len(found) != 2:
        raise click.BadParameter(f"{text!r} is not two numbers with a comma between, such as 0.5,0.999")
    return found


SEED = click.IntRange(min=0)
MOST = 10**7
"""Images in one figure: beyond it lies a slip of the hand."""
run_argument = click.argument("run", type=LocalPath())
force_option = click.option("--force", is_flag=True, help="replace an existing --out")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cuda or cpu")
data_dir_option = click.option(
    "--data-dir", metavar="DIR", type=LocalPath(str), help="where data sets are kept [$SNNGAN_DATA or data]"
)


def image_options(default_features: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options by which two sets of images are read and compared in a feature space."""
    options = [
        click.option(
            "--features", metavar="SPACE",
            help="feature space: classifier:NAME (a small classifier of this data set, trained once and kept), "
            f"inception, inception:FILE, pixels, or a file of torch.export or TorchScript [{default_features}]",
        ),
        click.option("--download", is_flag=True, help="fetch missing Inception weights; implies --features inception"),
        click.option("--skip-broken", is_flag=True, help="leave out unreadable images of a folder"),
        click.option(
            "--image-size", type=click.IntRange(1, 4096), help="shrink and crop images of folders and sets to this size"
        ),
    ]  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
