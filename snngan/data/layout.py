"""How the files of a folder are meant: which are images, which of them are held out, which classes they are of."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
"""What the folders of the halves may be called, in letters of any case; validation images where there is no test."""


@dataclass(frozen=True)
class Half:
    """Image files in order of their names, and the folder that their class folders lie in."""

    root: Path
    paths: Sequence[Path]

    def classes(self) -> list[str | None]:
        """Return the class of each image: the name of the folder right below ``root``, or None without one."""
        parts = [path.relative_to(self.root).parts for path in self.paths]
        return [each[0] if len(each) > 1 else None for each in parts]


def find_halves(folder: Path, notify: Callable[[str], None]) -> tuple[Half, Half | None]:
    """Return the images below ``folder``: of ``train`` and ``test``, its only two folders, or else all and None.

    The second may be called ``val`` instead; ``notify`` is told what is left aside.

    Raises:
        ValueError: no such folder, one that cannot be read, no image in it, or halves that are not clear.
    """
    paths = list_images(folder)
    tops: dict[str, list[Path]] = {}
    for path in paths:
        tops.setdefault(path.relative_to(folder).parts[0], []).append(path)
    train, test = _subfolder(folder, TRAIN), _subfolder(folder, (*TEST, *VALIDATION))
    if train is not None and test is not None and (train in tops or test in tops):
        unused = [name for name in tops if name.lower() in VALIDATION and name != test]
        other = next((name for name in tops if name not in (train, test, *unused)), None)
        if other is not None:
            raise ValueError(
                f"{folder} must hold nothing beside {train} and {test}, the two halves of a data set, got {other}; "
                f"move that away, or give folder:{folder / train}"
            )
        for name in (train, test):
            if name not in tops:
                raise ValueError(
                    f"{folder / name} must hold one half of the data set, got no images; fill or remove it"
                )
        for name in unused:
            notify(f"{folder / name} is not used: {test} is the held-out half")
        return Half(folder / train, tops[train]), Half(folder / test, tops[test])
    if train is not None and list(tops) == [train]:
        notify(f"{folder} has no folder test: a tenth of {train} is held out")
        return Half(folder / train, paths), None
    _refuse_misspelled(folder, tops, [name for name in (train, test) if name in tops])
    return Half(folder, paths), None


def list_images(folder: Path) -> list[Path]:
    """Return the image files below ``folder``, in order of their names.

    Raises:
        ValueError: no such folder, one that cannot be read, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of images")
    paths = sorted(_walk(folder), key=lambda path: path.relative_to(folder).parts)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its subfolders")
    return paths


def label_images(halves: Sequence[Half]) -> tuple[tuple[str, ...], list[Tensor | None], str]:
    """Number the classes of all ``halves`` in alphabetical order.

    Returns:
        The class names, the labels (N,) of each half, and the reason where a half has none though there are class
        folders. A half has labels if each of its images lies in a class folder, and there are two of these or more.

    Raises:
        ValueError: the second half has a class that the first does not have.
    """
    found = [half.classes() for half in halves]
    names = sorted({name for classes in found for name in classes if name is not None})
    if len(names) < 2:
        return (), [None] * len(halves), ""
    if len(halves) == 2 and None not in (*found[0], *found[1]) and (new := sorted({*found[1]} - {*found[0]}, key=str)):
        raise ValueError(
            f"{halves[1].root} must hold classes of {halves[0].root} only, got {new[0]}; rename or remove {new[0]}"
        )
    index, labels, reason = {name: number for number, name in enumerate(names)}, [], ""
    for half, classes in zip(halves, found, strict=True):
        strays = [path for path, name in zip(half.paths, classes, strict=True) if name is None]
        if strays:
            more = f" and {len(strays) - 1} more lie" if len(strays) > 1 else " lies"
            reason = reason or f"{strays[0]}{more} outside the class folders"
        labels.append(None if strays else torch.tensor([index[name] for name in classes if name is not None]))
    return (tuple(names) if any(each is not None for each in labels) else ()), labels, reason


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the image files below ``folder``, through links too, but through each folder only once."""
    pending, seen = [folder], set()
    while pending:
        parent = pending.pop()
        try:
            identity = os.stat(parent)
            entries = sorted(os.scandir(parent), key=lambda entry: entry.name)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise ValueError(
                    f"{folder} nests folders too deeply: their paths are too long for the system"
                ) from error
            raise ValueError(f"the folder {parent} cannot be read ({error.strerror})") from error
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        subfolders = []
        for entry in entries:
            path = parent / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(path)):
                subfolders.append(path)
            # A pipe or a device could be read for ever; a dangling link is named when it is read.
            elif path.suffix.lower() in SUFFIXES and (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                yield path
        pending += reversed(subfolders)


def _refuse_misspelled(folder: Path, tops: dict[str, list[Path]], known: list[str]) -> None:
    """Raise ``ValueError`` where of two folders one is called as a half, and the other looks like the other half."""
    others = [name for name in tops if name not in known and (folder / name).is_dir()]
    if len(known) != 1 or len(others) != 1 or len(tops) != 2:
        return
    own, other = ({*Half(folder / name, tops[name]).classes()} - {None} for name in (known[0], others[0]))
    if own & other or difflib.get_close_matches(others[0].lower(), (*TRAIN, *TEST, *VALIDATION), cutoff=0.75):
        raise ValueError(
            f"{folder} must hold two halves called train and test (or val), got {known[0]} and {others[0]}; "
            f"rename {others[0]}"
        )


def _subfolder(folder: Path, choices: Sequence[str]) -> str | None:
    """Return the name of the subfolder that is called as the first possible of ``choices``, in letters of any case."""
    found = {name.lower(): name for name in sorted(os.listdir(folder), reverse=True) if name.lower() in choices}
    return next((found[choice] for choice in choices if choice in found and (folder / found[choice]).is_dir()), None)
