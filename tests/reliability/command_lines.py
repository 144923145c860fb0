"""Random command lines, and what a command must do with any of them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import click
import matplotlib.font_manager  # noqa: F401
import numpy as np
import torchvision  # noqa: F401
from hypothesis import strategies as st
from PIL import Image
from reliability.guard import ForbiddenError, guarded

from snngan.cli import main

SECONDS = 60
"""Time after which a command counts as hanging."""
SMALL = "--set width=4 --batch-size 8 --steps 2 --checkpoint-every 1 --log-every 1 --device cpu"
GAN = f"train --dataset npz:few.npz --arch mlp --set latent_dim=2 {SMALL} --objective gan"
CLASSIFIER = f"classify train --dataset npz:few.npz --arch cnn-small {SMALL.replace('--set width=4', '')}"
LINES = (
    f"{GAN} --dry-run",
    f"{CLASSIFIER} --dry-run",
    GAN,
    CLASSIFIER,
    "resume run --device cpu",
    "resume run --steps 4 --device cpu --dry-run",
    "sample run --out new.png --count 4",
    "sample run --out new.npz --count 4",
    "evaluate run --features pixels --count 4 --pairwise-count 4 --nearest new.png --device cpu",
    "compare run npz:few.npz --space pixel --count 8 --device cpu",
    "interpolate run --out new.png --side 2",
    "classify evaluate classifier --device cpu",
    "classify evaluate classifier --attack fgsm --epsilon 0.1 --dknn --dknn-count 100 --count 4 --device cpu",
    "experiment list toy",
    "experiment run toy-gaussian --preset smoke --dry-run --device cpu",
    "data list",
    "data prepare digits --dry-run",
    "report run --out new.html",
    "board .",
    "doctor",
)
"""Correct command lines, from which others are made."""
WRITTEN = ("--out", "--nearest", "--run-dir", "--data-dir")
"""Options that name a place to write to; tests give them places in their own folder."""
LEFT = ("--download", "--compile", "--help", "--version")
"""Options that use the network, start a compiler or end at once."""
ENDLESS = ("--steps", "--attack-steps")
"""Options whose large values are correct, but take too long."""
NUMBERS = (
    "-1 0 1 2 3 7 8 1000 1000000000000000000 -0 1_0 0x10 ٣ 1.5 -0.0 1e-320 1e308 1e400 nan inf -inf 1,2 0.5,0.9 0:4 "
    "4:0 0:1000000000000"
)
NAMES = (
    "mnist-5k digits rings svhn mlp dcgan cnn feedforward gan wgan-gp snnl-pixel mmd fid,kid prdc entanglement pixels "
    "inception pgd:0.3 bim:nan fgsm:1e30 triplet:0.5 triplet:-inf learned:1 learned:nan absolute:0 annealed:1:2 "
    "0.1+0.2 optimal help * fc* width=1000000000000 width=-3 latent_dim=0 hidden_layers=99 = width= betas=1 "
    "temperature=inf steps=2 cuda cuda:7 cpu:0 meta"
)
PATHS = (
    ". .. / run run/ classifier empty missing few.npz text.txt pictures pipe.npz run/config.json npz: folder: "
    "npz:few.npz npz:pipe.npz npz:text.txt npz:. folder:pictures folder:empty folder:few.npz folder:/dev/null "
    "npz:/dev/zero /dev/zero /dev/null /proc/self/mem ~ ~nobody/x ~missing-user/x loop folder:loop npz:loop"
)
PLACES = (
    "new new.png new.npz new/deep/er.png run empty few.npz/x text.txt new.html pipe.npz loop/x new\x1b[31m é.png -x "
    "new.tiff"
)
LONG = ("", " ", "with space", "x" * 300, "9" * 400)
ANY = st.one_of(
    *(st.sampled_from(words.split()) for words in (NUMBERS, NAMES, PATHS)),
    st.sampled_from(LONG),
    st.text(st.characters(exclude_characters="\0/~"), max_size=12),
    st.binary(max_size=4).map(os.fsdecode).filter(lambda text: "\0" not in text and not set(text) & set("/~")),
)


def options_of(words: list[str]) -> list[click.Option]:
    """Return the options of the command that these words call."""
    command: Any = main
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
    return [each for each in command.params if isinstance(each, click.Option) and each.opts[0] not in LEFT]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Draw the words of a command line: a correct one with some options and names replaced."""
    words = draw(st.sampled_from(LINES)).split()
    options = options_of(words)
    for option in draw(st.lists(st.sampled_from(options), max_size=3)) if options else ():
        name = option.opts[0]
        words += (
            [name]
            if option.is_flag
            else [name, draw(st.sampled_from((*PLACES.split(), *LONG)) if name in WRITTEN else ANY)]
        )
    for _ in range(draw(st.integers(0, 1)) if len(words) > 1 else 0):
        at = draw(st.integers(1, len(words) - 1))
        if words[at - 1] not in WRITTEN and words[at] != "--dry-run":
            words[at] = draw(ANY)
    for place, name in enumerate(words[:-1]):
        if name in ENDLESS and len(words[place + 1]) > 3:
            words[place + 1] = "3"
    hidden = {*LEFT, "-h"}
    return [word for word in words if word.partition("=")[0] not in hidden and not word.startswith(("--dow", "--com"))]


def create_files(folder: Path) -> None:
    """Create in ``folder`` what the command lines name."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (200, 1, 8, 8), dtype=np.uint8), np.arange(200) % 3
    halves = {"train_images": images[:90], "train_labels": labels[:90], "test_images": images[90:]}
    np.savez(folder / "few.npz", **halves, test_labels=labels[90:])
    (folder / "text.txt").write_text("text")
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.npz")
    for number in range(3):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.fromarray(images[number, 0]).save(folder / "pictures" / f"{number}.png")
    os.mkfifo(folder / "pictures" / "pipe.png")
    for line in (f"{GAN} --run-dir run", f"{CLASSIFIER} --run-dir classifier"):
        status, said = outcome(line.split(), folder)
        assert status == 0, said


def outcome(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command that must write only below ``folder``; return its status and its output."""
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")

    def hang(*_: object) -> NoReturn:
        raise ForbiddenError(f"it hangs: {words}")

    def execute(path: str, arguments: list[str]) -> NoReturn:
        assert arguments[1:4] == ["-P", "-m", "tensorboard.main"]
        assert "--host=localhost" in arguments
        raise SystemExit(0)

    before, here = signal.signal(signal.SIGALRM, hang), os.getcwd()
    os.chdir(folder)
    signal.alarm(SECONDS)
    try:
        with (
            mock.patch("os.execv", execute),
            mock.patch.dict(os.environ, SNNGAN_DATA=f"{folder}/data", HOME=str(folder)),
            redirect_stdout(said),
            redirect_stderr(said),
            guarded(folder),
        ):
            main(words)
    except SystemExit as left:
        said.flush()
        return int(left.code or 0), said.buffer.getvalue().decode()  # type: ignore[attr-defined]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(here)
    raise AssertionError("the command did not exit")


def check(words: list[str], folder: Path, original: Path) -> int:
    """Run a command line over a fresh copy of ``original`` in ``folder``; return its status.

    For any words it must end with status 0, or with one line of error and status 1 or 2, without a traceback.
    """
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["cp", "-a", original, folder], check=True)  # which copies links and pipes as they are
    status, said = outcome(words, folder)
    errors = [line for line in said.splitlines() if line.startswith("Error")]
    assert status in (0, 1, 2), (words, status, said)
    assert "Traceback" not in said, (words, said)
    assert len(errors) == (status > 0) or (status == 2 and said.startswith("Usage:")), (words, status, said)
    return status
