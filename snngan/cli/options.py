"""Options that several commands share, options made from config dataclasses, and answers to mistyped options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
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
    "--precision bf16": "--fp16 --amp --bf16",
    "--force": "-f --overwrite -y --yes",
    "--ema-decay": "--ema",
    "--discriminator-steps": "--n-critic",
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
        return message
    if is_extra and any(parameter.name == "dataset" for parameter in context.command.params):
        return f"{message}: to name a data set, use --dataset NAME"
    return f"{message}: {' '.join(context.get_usage().split()).replace('Usage: ', 'use ')}"


class SuggestingGroup(click.Group):
    """A group that answers an unknown command with the most similar known one."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name in ("help", "version"):
            raise ValueError(f"unknown command {name!r}: use --{name}, alone or after a command")
        if self.get_command(context, name) is None and not name.startswith("-"):
            from snngan.registry import unknown_name

            raise unknown_name("command", name, self.list_commands(context))
        return super().resolve_command(context, arguments)


class GroupedCommand(click.Command):
    """A command whose help lists its options under the headings that the fields of the configs name."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from snngan.config import ClassifyConfig, TrainConfig

        fields = [*dataclasses.fields(TrainConfig), *dataclasses.fields(ClassifyConfig)]
        headings = {field.name: field.metadata.get("group") for field in fields} | {"list_settings": "Networks"}
        sections: dict[str, list[tuple[str, str]]] = {
            title: [] for title in ("Data", "Networks", "Loss", "Optimization", "Run")
        }
        for parameter in self.get_params(context):
            if record := parameter.get_help_record(context):
                sections[headings.get(parameter.name or "") or "Run"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds ``options`` to a command, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def training_options(owner: type) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for each field of the config class ``owner`` that has a flag, and more."""
    fields = [field for field in dataclasses.fields(owner) if field.metadata.get("has_flag")]
    return add_options(
        *(_make_option(owner, field) for field in fields),
        click.option("--like", metavar="RUN", type=PATH, help="run whose options are used where none is given"),
        click.option("--list-settings", is_flag=True, help="list the options of --set, and stop"),
    )


def _make_option(owner: Any, field: dataclasses.Field[Any]) -> Callable[[Command], Command]:
    from snngan.config import field_type, parse_value  # the help of the group does not need it

    kind, meta = field_type(owner, field.name), field.metadata
    default = owner.recommended.get(field.name, meta["default"])
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    or_objective = ", or the objective's" * (
        meta["deferred"] and meta["group"] == "Optimization" and not owner.recommended
    )
    help = meta["help"] + (f"  [default: {shown}{or_objective}]" if default not in (None, False, ()) else "")
    more: dict[str, Any] = {"type": click.Choice(meta["choices"]) if meta["choices"] else kind}
    if field.name == "set":
        more = {"multiple": True}
    elif kind is bool:
        more = {"is_flag": True}
    elif kind is tuple:
        more = {"callback": lambda _, __, text: text and parse_value(owner, field.name, text)}
    flag = f"--{field.name.replace('_', '-')}"
    if kind is bool and meta["deferred"]:
        flag += f"/--no-{flag[2:]}"
    return click.option(flag, field.name, help=help, default=field.default, metavar=meta["metavar"], **more)


IMPORTED_MODULES: list[str] = []
"""What the user named by ``--import``: the commands that are proposed next need it, too."""


def add_import_option(command: click.Command) -> None:
    """Add ``--import MODULE`` to a command, or to those of a group, that looks up names which a module may register."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_import_option(each)
    elif command.name not in ("board", "doctor") and not any(each.name == "imports" for each in command.params):
        option = click.Option(
            ["--import", "imports"], multiple=True, metavar="MODULE", expose_value=False, is_eager=True,
            callback=_import_modules, help="your own module that registers objectives, metrics, ...",
        )  # fmt: skip
        command.params.append(option)


def _import_modules(context: click.Context, parameter: click.Parameter, names: Sequence[str]) -> None:
    from snngan.registry import import_module

    for name in names:
        import_module(name)
        IMPORTED_MODULES.append(name)


SEED = click.IntRange(min=0)
MAX_COUNT = 10**7
"""The most images that a command draws or compares; a larger number is a typing mistake."""
PATH = click.Path(path_type=Path)
run_argument = click.argument("run", type=PATH)
force_option = click.option("--force", is_flag=True, help="replace an existing --out")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cuda, cuda:N or cpu")
data_dir_option = click.option("--data-dir", metavar="DIR", help="folder of the data sets [$SNNGAN_DATA or data]")
json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON object")
split_option = click.option(
    "--split", default="test", show_default=True, type=click.Choice(["test", "train"]), help="split of data sets"
)
image_options = add_options(
    split_option,
    click.option(
        "--features",
        metavar="SPACE",
        help="feature space: classifier:NAME (small classifier of that data set, trained once and kept), inception, "
        "inception:FILE, pixels, or module:function of your own "
        "[classifier of the real images where they have labels, else pixels]",
    ),
    click.option("--download", is_flag=True, help="fetch missing Inception weights; implies --features inception"),
    click.option("--skip-broken", is_flag=True, help="leave out unreadable images of a folder"),
    click.option("--image-size", type=click.IntRange(1, 4096), help="size in pixels to shrink and crop images to"),
    click.option("--seed", default=0, show_default=True, type=SEED, help="random seed"),
    json_option,
    data_dir_option,
    device_option,
)
