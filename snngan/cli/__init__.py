"""The command line: one file a command, each imported only when it is called, so that help needs no torch."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import click

from snngan.cli.options import NamedGroup, explain_unknown_option, explain_usage
from snngan.cli.output import print_result, print_status, terminal_width, wrap
from snngan.cli.signals import Ended, ended_by_signals
from snngan.version import __version__

COMMANDS = {
    "train": "train a generator: a new run folder",
    "resume": "go on with an interrupted run",
    "sample": "draw images from a run",
    "evaluate": "say how good samples are: FID, KID, precision, entanglement",
    "compare": "say whether two sets of images can be told apart",
    "interpolate": "draw a plane through a run's noise space",
    "classify": "train and evaluate classifiers with entangled layers",
    "experiment": "list and run the figures and tables of the sources",
    "data": "list and prepare data sets",
    "report": "write one HTML page of runs side by side",
    "board": "show runs in TensorBoard",
    "doctor": "say what is installed, found and missing",
}
"""Each command and its line in the help; the command itself is the object of this name in the module of this name."""


ALIASES = {"entangle": "compare"}
"""Former names of commands."""


class Commands(NamedGroup):
    """A group that imports a command when it is called, and says what went wrong in one line."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"snngan.cli.{name}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(context, [ALIASES.get(arguments[0], arguments[0]), *arguments[1:]])

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command; a user's mistake ends with one line on standard error and exit status 2."""
        if sys.platform == "win32":
            fail("snngan runs on Linux and macOS; on Windows, install it in WSL")
        options["standalone_mode"] = False
        # Torch's threads wait for one another by spinning, and where another process wants the same cores, a step was
        # seen to take 2 to 15 times as long. Threads that sleep at once make a step 1.6 times as long on a machine of
        # one's own, and a loss over tiles, many short pieces of work, 2.5 times. So they spin a little, then sleep.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        words = list(sys.argv[1:] if args is None else args)
        if one_of_several() and not any(words[: len(each)] == each for each in ON_SEVERAL):
            fail("torchrun is for train, classify train and resume; start this command without it")
        try:
            with nullcontext() if one_of_several() else ended_by_signals():  # or torchrun ends them
                status = super().main(args, *rest, **options) or 0
            sys.exit(status)
        except Ended as error:
            print_status(f"Error: ended by {error.signal.name}", err=True)
            sys.exit(128 + error.signal)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.NoSuchOption as error:
            fail(explain_unknown_option(error))
        except click.ClickException as error:
            fail(explain_usage(error))
        except (click.Abort, KeyboardInterrupt):
            fail("interrupted", 130)
        except ValueError as error:
            fail(str(error))
        except MemoryError:
            fail(f"out of memory: use {SMALLER}")
        except ImportError as error:
            fail(f"{error}; snngan doctor says what is installed")
        except RuntimeError as error:
            fail_or_raise(error)
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))


ON_SEVERAL = (["train"], ["resume"], ["classify", "train"])
"""The commands for several processes."""
SMALLER = "fewer or smaller images, or narrower networks"
"""What helps a command that runs out of memory, unless it says otherwise by :func:`explain_memory`."""


@contextmanager
def explain_memory(remedy: str) -> Iterator[None]:
    """Turn running out of memory into a line that names ``remedy``, options of this command. Also a decorator."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise ValueError(f"out of memory: use {remedy}") from error
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` says that Python, NumPy or torch found no memory, of the machine or of a GPU."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def fail(message: str, status: int = 2, *, at_once: bool = False) -> NoReturn:
    """Print ``message`` as one line on standard error and leave with ``status``.

    Of several processes the first speaks at once. What the others have to say is most likely the same: if not told to
    speak ``at_once``, they wait until its end ends them, and speak after all if it does not.
    """
    if one_of_several() and os.environ["RANK"] != "0" and not at_once:
        time.sleep(10)
    print_result(wrap(["Error:", *message.split()], 2, terminal_width(sys.stderr)), err=True)
    sys.exit(status)


def one_of_several() -> bool:
    """Return whether this process is one of several that ``torchrun`` started."""
    if "RANK" not in os.environ:  # help needs no torch
        return False
    from snngan.training.distributed import started_by_torchrun

    return started_by_torchrun()


def fail_or_raise(error: RuntimeError) -> NoReturn:
    """Turn the errors of a run's misfortunes into one line; let others through."""
    from snngan.files import SaveError
    from snngan.training.distributed import RankLostError
    from snngan.training.divergence import DivergedError

    if isinstance(error, DivergedError | RankLostError):
        fail(str(error), 1, at_once=isinstance(error, RankLostError))
    if isinstance(error, SaveError):
        fail(str(error))
    if is_out_of_memory(error):
        fail(f"out of memory: use {SMALLER}")
    if isinstance(error, RecursionError):
        fail("folders or files are nested too deeply to be read")
    if "does not have a deterministic implementation" in str(error):
        fail(f"--deterministic: {str(error).partition(',')[0]}; leave it out, or use the CPU")
    raise error


@click.group(
    cls=Commands,
    epilog="First run:  snngan train   (5000 embedded MNIST digits, a few minutes on a laptop)",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="snngan")
def main() -> None:
    """Train GANs with the Soft Nearest Neighbor Loss, and watch how entangled their samples are with real data."""
