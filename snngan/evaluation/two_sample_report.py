"""Two sets of images side by side: what is compared, what is written, what is said."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.data import to_unit_range
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.features import Extractor, features_of
from snngan.evaluation.measure import resize_of
from snngan.evaluation.memory import check_available
from snngan.evaluation.plots import save_curve
from snngan.evaluation.sources import ImageSource, refuse_shapes, same_channels
from snngan.evaluation.two_sample import TwoSample, compare
from snngan.files import check_absent, write_atomically
from snngan.version import __version__

SHOWN = 64
"""Images in each grid."""
OF_TWO_RUNS = 5000
"""Images of each side where neither has a number of its own."""


@dataclass(frozen=True)
class Comparison:
    """A comparison with the images it was made of; ``content`` is all of it in words and numbers, ready for JSON."""

    result: TwoSample
    real: Tensor
    fake: Tensor
    content: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write ``curve.png``, ``least-covered.png``, ``furthest-off.png`` and ``result.json`` into a folder.

        Raises:
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_curve(self.result, folder / "curve.png")
        odds = self.result.odds.split([len(self.real), len(self.fake)])  # type: ignore[no-untyped-call]
        for name, side, of_side in zip(("least-covered", "furthest-off"), (self.real, self.fake), odds, strict=True):
            places = of_side.argsort()[:SHOWN]
            save_png(draw_images(to_unit_range(side[places]), background=to_unit_range(side)), folder / f"{name}.png")
        write_atomically(folder / "result.json", (json.dumps(self.content, indent=2) + "\n").encode())

    def lines(self) -> Iterator[str]:
        """Yield what a reader wants to know."""
        content = self.content
        low, high = content["score_interval"]
        yield f"{content['num_real']} images of {content['real']}, {content['num_fake']} of {content['fake']}"
        yield f"space: {content['extractor']}"
        yield f"entanglement score   {content['score']:.4f}   95 %: {low:.4f} to {high:.4f}   (1: not to be told apart)"
        yield (
            f"  corrected          {content['corrected']:.4f}   (the first {content['num_subset'][0]} and "
            f"{content['num_subset'][1]}, over {content['null_score']:.4f} with permuted labels)"
        )
        yield (
            f"p-value              {content['p_value']:.3g}   ({'' if content['p_value'] < 0.05 else 'not '}"
            "told apart by neighborhoods at the 5 % level)"
        )
        yield f"real anchors         {content['real_anchors']:.4f}   (low: B seldom comes near them)"
        yield f"synthetic anchors    {content['fake_anchors']:.4f}   (low: off A, or close to one another)"
        if content["temperature"] is not None:
            share = content["temperature"] / content["mean_distance"]
            yield f"at T = {content['temperature']:.4g}, {share:.2g} of the mean squared distance"
            if share > HOT:
                yield "  that is hot: nearly all pairs weigh alike, and the score says little; see both anchors"
        else:
            yield "at T = infinity: at no temperature is the mean loss of both sides lower; see both anchors"
        for name, value in content["real_anchors_by_class"].items():
            yield f"  real anchors of class {name}: {value:.4f}"


HOT = 0.5
"""Temperatures above this share of the mean squared distance weigh nearly all pairs alike."""


def compare_sources(
    real: ImageSource, fake: ImageSource, extractor: Extractor, *, count: int | None = None, seed: int = 0
) -> Comparison:
    """Return the comparison of two sets of images in the space of ``extractor``.

    Args:
        real: the first set, A.
        fake: the second, B.
        extractor: the space.
        count: images of each side, or as many as there are; default: all, of a generator as many as of the other side.
        seed: of permutations and resamples.

    Raises:
        ValueError: images of two sizes in a space that takes them as they are, fewer than 4 images, images that the
            extractor does not take, or more of them than the available memory takes.
    """
    numbers = _counts(real, fake, count)
    real, fake = same_channels(real, fake)
    dims, other_dims = (extractor(side.first(2)).shape[1] for side in (real, fake))
    if dims != other_dims:
        refuse_shapes(real, fake, extractor.name)
    total = sum(numbers)
    check_available(
        total * math.prod(real.shape) + 16 * total * dims,
        f"comparing {total} images in {dims} dimensions",
        "a smaller --count or --image-size",
    )
    images = [side.first(number) for side, number in zip((real, fake), numbers, strict=True)]
    points = [features_of(extractor, side) for side in images]
    result = compare(points[0], points[1], seed=seed)
    reading = dataclasses.asdict(result.entanglement)
    content = {
        "real": real.name, "fake": fake.name, "num_real": len(points[0]), "num_fake": len(points[1]),
        "real_digest": real.digest, "fake_digest": fake.digest, "extractor": extractor.name,
        "extractor_digest": extractor.digest, "resize": resize_of(extractor, fake, real),
        "split": real.split or fake.split, "seed": seed, "real_seed": real.seed, "fake_seed": fake.seed,
        "snngan": __version__,
        **reading, "temperature": reading["temperature"] if math.isfinite(reading["temperature"]) else None,
        "mean_distance": result.mean_distance, "score_interval": [result.low, result.high],
        "corrected": result.corrected, "null_score": result.null_score, "p_value": result.p_value,
        "num_subset": list(result.num_subset), "real_anchors_by_class": {},
    }  # fmt: skip
    if real.labels is not None:
        losses, labels = F.softplus(result.odds[: len(points[0])]), real.labels[: len(points[0])]
        content["real_anchors_by_class"] = {
            int(label): float(losses[labels == label].mean()) for label in torch.unique(labels)
        }
    return Comparison(result, images[0], images[1], content)


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise ``ValueError`` if a comparison may not be written into ``folder``, or it cannot be made."""
    if not folder.is_dir() or any(folder.iterdir()):
        check_absent(folder, force=force and folder.is_dir())
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"{folder} cannot be made: {nearest} is no folder that may be written to")


def _counts(real: ImageSource, fake: ImageSource, count: int | None) -> tuple[int, int]:
    known = [side.count for side in (real, fake) if side.count is not None]
    if not known:
        known = [OF_TWO_RUNS]
    numbers = [known[0] if side.count is None else side.count for side in (real, fake)]
    if count is not None:
        numbers = [count if side.count is None else min(count, side.count) for side in (real, fake)]
    for side, number in zip((real, fake), numbers, strict=True):
        if number < 4:
            raise ValueError(f"{side.name} holds {number} image{'s' * (number != 1)}: a comparison takes 4 or more")
    return numbers[0], numbers[1]
