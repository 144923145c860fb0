"""The layout of a folder of images: which files are images, which are held out, and which classes they belong to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
"""Folder names of the splits, in upper or lower case; validation images are held out if there is no test folder."""


@dataclass(frozen=True)
class Split:
    """The image files of a training or held-out split, sorted by path, and the folder that holds its class folders."""

    root: Path
    paths: Sequence[Path]

    def classes(self) -> list[str | None]:
        """Return the class of each image: the name of the folder directly below ``root``, or None without one."""
        parts = [path.relative_to(self.root).parts for path in self.paths]
        return [each[0] if len(each) > 1 else None for each in parts]


def find_splits(folder: Path, notify: Callable[[str], None]) -> list[Split]:
    """Return the splits ``train`` and ``test`` of ``folder`` if these are its only two folders, else one of all images.

    The second may be called ``val`` instead; ``notify`` is called with a line about folders that are not used.

    Raises:
        ValueError: the folder is missing, cannot be read or holds no images, or its splits are ambiguous.
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
                f"{folder} must hold nothing beside {train} and {test}, the two splits of a data set, got {other}; "
                f"move that away, or give folder:{folder / train}"
            )
        for name in (train, test):
            if name not in tops:
                raise ValueError(f"{folder / name} must hold a split of the data set, got no images; fill or remove it")
        for name in unused:
            notify(f"{folder / name} is not used: {test} is the held-out split")
        return [Split(folder / train, tops[train]), Split(folder / test, tops[test])]
    if train is not None and list(tops) == [train]:
        notify(f"{folder} has no folder test: a tenth of {train} is held out")
        return [Split(folder / train, paths)]
    _refuse_misspelled(folder, tops, [name for name in (train, test) if name in tops])
    return [Split(folder, paths)]


def list_images(folder: Path) -> list[Path]:
    """Return the image files below ``folder``, sorted; links are followed, and each folder is visited only once.

    Raises:
        ValueError: the folder is missing, cannot be read, or holds no images.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of images")

    def refuse(error: OSError) -> None:
        raise ValueError(f"the folder {error.filename} cannot be read ({error.strerror})") from error

    paths, visited = [], set()
    for parent, subfolders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            # Pipes and devices are left out; a broken link is reported when it is read.
            if path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink()):
                paths.append(path)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its subfolders")
    return sorted(paths, key=lambda path: path.relative_to(folder).parts)


def label_images(splits: Sequence[Split]) -> tuple[tuple[str, ...], list[Tensor | None], str]:
    """Number the classes of all ``splits`` in alphabetical order.

    A split has labels if each of its images lies in a class folder, and there are two class folders or more.

    Returns:
        The class names, the labels (N,) of each split, and, where a split with class folders has no labels, the reason.

    Raises:
        ValueError: the second split has a class that the first does not have.
    """
    found = [split.classes() for split in splits]
    names = sorted({name for classes in found for name in classes if name is not None})
    if len(names) < 2:
        return (), [None] * len(splits), ""
    if len(splits) == 2 and None not in (*found[0], *found[1]) and (new := sorted({*found[1]} - {*found[0]}, key=str)):
        raise ValueError(
            f"{splits[1].root} must hold classes of {splits[0].root} only, got {new[0]}; rename or remove {new[0]}"
        )
    index, labels, reason = {name: number for number, name in enumerate(names)}, [], ""
    for split, classes in zip(splits, found, strict=True):
        strays = [path for path, name in zip(split.paths, classes, strict=True) if name is None]
        if strays:
            more = f" and {len(strays) - 1} more lie" if len(strays) > 1 else " lies"
            reason = reason or f"{strays[0]}{more} outside the class folders"
        labels.append(None if strays else torch.tensor([index[name] for name in classes if name is not None]))
    return (tuple(names) if any(each is not None for each in labels) else ()), labels, reason


def _refuse_misspelled(folder: Path, tops: dict[str, list[Path]], known: list[str]) -> None:
    """Raise ``ValueError`` if there are two folders, one named as a split and one that looks like the other split."""
    others = [name for name in tops if name not in known and (folder / name).is_dir()]
    if len(known) != 1 or len(others) != 1 or len(tops) != 2:
        return
    own, other = ({*Split(folder / name, tops[name]).classes()} - {None} for name in (known[0], others[0]))
    if own & other or difflib.get_close_matches(others[0].lower(), (*TRAIN, *TEST, *VALIDATION), cutoff=0.75):
        raise ValueError(
            f"{folder} must hold two splits called train and test (or val), got {known[0]} and {others[0]}; "
            f"rename {others[0]}"
        )


def _subfolder(folder: Path, choices: Sequence[str]) -> str | None:
    """Return the name of the subfolder that matches the first possible of ``choices``, ignoring case."""
    found = {name.lower(): name for name in sorted(os.listdir(folder), reverse=True) if name.lower() in choices}
    return next((found[choice] for choice in choices if choice in found and (folder / found[choice]).is_dir()), None)
