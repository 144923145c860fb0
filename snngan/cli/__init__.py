"""The ``snngan`` command. Each subcommand is a module, imported when it is called, so ``--help`` needs no torch."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import click

from snngan.cli.options import SuggestingGroup, add_import_option, explain_unknown_option, explain_usage
from snngan.cli.signals import exit_on_sigterm
from snngan.version import __version__

COMMANDS = {
    "train": "train a generator in a new run folder",
    "resume": "continue an interrupted run",
    "sample": "draw images from a run's generator",
    "evaluate": "measure sample quality: FID, KID, precision, entanglement",
    "compare": "test whether two sets of images can be told apart",
    "interpolate": "draw images on a plane through a run's latent space",
    "export": "write a run's generator as one file",
    "classify": "train and evaluate classifiers with entangled layers",
    "experiment": "list and run experiments, one per figure or table of the papers",
    "data": "list and prepare data sets",
    "report": "write one HTML page that compares runs",
    "board": "show runs in TensorBoard",
    "doctor": "check packages, device, disk space and data",
}
"""Each command and its line in the help. Command ``NAME`` is the object ``NAME`` of the module ``snngan.cli.NAME``."""
ALIASES = {"entangle": "compare"}
"""Former names of commands."""


class Commands(SuggestingGroup):
    """A group that imports a command when it is called and turns a user's mistakes into one line."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = ALIASES.get(name, name)
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"snngan.cli.{name}"), name)
        add_import_option(command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command; a user's mistake ends it with one line on standard error and exit status 2."""
        if sys.platform == "win32":
            fail("snngan runs on Linux and macOS; on Windows, install it in WSL")
        words = list(sys.argv[1:] if args is None else args)
        is_distributed = is_started_by_torchrun()
        if is_distributed and words[:1] not in (["train"], ["resume"]) and words[:2] != ["classify", "train"]:
            fail("torchrun may start only train, classify train and resume; start this command without it")
        try:
            with nullcontext() if is_distributed else exit_on_sigterm():  # torchrun ends its processes itself
                status = super().main(args, *rest, **options | {"standalone_mode": False}) or 0
            if is_distributed:
                from snngan.training.distributed import exit_without_finalizing

                exit_without_finalizing(status)
            sys.exit(status)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except (click.Abort, KeyboardInterrupt):
            fail("interrupted", 130)
        except Exception as error:
            fail_if_expected(error)
            raise


def fail_if_expected(error: Exception) -> None:
    """Exit with one line for an error that a user can do something about; return for a bug of snngan."""
    if isinstance(error, click.NoSuchOption):
        fail(explain_unknown_option(error))
    if isinstance(error, click.ClickException):
        fail(explain_usage(error))
    if isinstance(error, ValueError):
        from snngan.registry import UnknownNameError

        hint = "; if it is in a module of yours, name that by --import MODULE"
        fail(f"{error}{hint * (isinstance(error, UnknownNameError) and 'did you mean' not in str(error))}")
    if isinstance(error, ImportError):
        fail(f"{error}; snngan doctor shows what is installed")
    if isinstance(error, OSError):
        fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    if not isinstance(error, MemoryError | RuntimeError):
        return
    import torch

    from snngan.files import SaveError
    from snngan.training.distributed import RankLostError
    from snngan.training.divergence import DivergedError

    if isinstance(error, SaveError):
        fail(str(error))
    if isinstance(error, DivergedError | RankLostError):
        fail(str(error), 1, at_once=isinstance(error, RankLostError))
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        fail("out of memory: use a smaller --batch-size, --count or --image-size, or narrower networks")
    if "does not have a deterministic implementation" in str(error):
        fail(f"--deterministic: {str(error).partition(',')[0]}; leave the option out, or use --device cpu")


def fail(message: str, status: int = 2, *, at_once: bool = False) -> NoReturn:
    """Print ``message`` as one line on standard error and exit with ``status``.

    Under torchrun the error is most likely the same on every rank, so ranks other than 0 wait first unless ``at_once``.
    The exit of rank 0 ends them; where it does not, they print their line too.
    """
    if is_started_by_torchrun() and os.environ["RANK"] != "0" and not at_once:
        time.sleep(10)
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(status)


def is_started_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    if "RANK" not in os.environ:  # help needs no torch
        return False
    from snngan.training import distributed

    return distributed.started_by_torchrun()


@click.group(
    cls=Commands,
    epilog="First run:  snngan train   (5000 embedded MNIST digits, minutes on a laptop)",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="snngan")
def main() -> None:
    """Train GANs with the Soft Nearest Neighbor Loss and measure how entangled their samples are with real images."""
