"""Two sets of images side by side: comparing them, printing the result, writing it into a folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.data import to_unit_range
from snngan.data.grids import draw_images, save_png
from snngan.evaluation.features import DiscriminatorFeatures, extract_features
from snngan.evaluation.measure import describe_resizes, match_sides, open_sides
from snngan.evaluation.plots import plot_loss_by_temperature
from snngan.evaluation.sources import ImagesLike, ImageSource, Reader
from snngan.evaluation.two_sample import TwoSampleResult, compare_features
from snngan.files import check_absent, write_atomically
from snngan.memory import check_available
from snngan.version import __version__

Space = Literal["pixel", "features", "projection"]
IMAGES_IN_GRID = 64
COUNT_OF_TWO_RUNS = 5000
"""Number of images of each side where both are generators."""
HOT = 0.5
"""At temperatures above this share of the mean squared distance nearly all pairs have equal weights."""


@dataclass(frozen=True)
class Comparison:
    """A comparison with the images that were compared; ``content`` holds all numbers, ready for JSON."""

    result: TwoSampleResult
    real: Tensor
    fake: Tensor
    content: dict[str, Any]

    @property
    def score(self) -> float:
        """Entanglement score: 1 where the sides cannot be told apart, 0 where they are separate."""
        return self.result.entanglement.score

    @property
    def p_value(self) -> float:
        """P-value of the permutation test: low where the sides can be told apart."""
        return self.result.test.p_value

    def write(self, folder: Path) -> None:
        """Write ``curve.png``, ``least-covered.png``, ``furthest-off.png`` and ``result.json`` into a folder.

        Raises:
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        plot_loss_by_temperature(self.result, folder / "curve.png")
        odds = torch.split(self.result.odds, [len(self.real), len(self.fake)])
        for name, side, side_odds in zip(("least-covered", "furthest-off"), (self.real, self.fake), odds, strict=True):
            rows = side_odds.argsort()[:IMAGES_IN_GRID]
            save_png(draw_images(to_unit_range(side[rows]), background=to_unit_range(side)), folder / f"{name}.png")
        write_atomically(folder / "result.json", (json.dumps(self.content, indent=2) + "\n").encode())

    def lines(self) -> Iterator[str]:
        """Yield the lines to print."""
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
        yield f"real anchors         {content['real_anchors']:.4f}   (low: images of B are seldom near them)"
        yield f"synthetic anchors    {content['fake_anchors']:.4f}   (low: far from A, or close to one another)"
        if content["temperature"] is not None:
            share = content["temperature"] / content["mean_distance"]
            yield f"at T = {content['temperature']:.4g}, {share:.2g} of the mean squared distance"
            if share > HOT:
                yield "  that is hot: nearly all pairs weigh alike, and the score says little; see both anchors"
        else:
            yield "at T = infinity: at no temperature is the mean loss of both sides lower; see both anchors"
        for name, value in content["real_anchors_by_class"].items():
            yield f"  real anchors of class {name}: {value:.4f}"


def compare(
    first: ImagesLike,
    second: ImagesLike,
    *,
    space: Space | None = None,
    features: str | None = None,
    count: int | None = None,
    seed: int = 0,
    download: bool = False,
    **options: Any,
) -> Comparison:
    """Return how entangled two sets of images are, and whether they can be told apart: what ``snngan compare`` prints.

    Args:
        first: the first set, taken for the real images: a run folder, folder of images, npz file, data set name, or
            tensor (N, C, H, W) of uint8, or float in [-1, 1].
        second: the second set, given in the same ways.
        space: where distances are measured: "pixel", "features", or "projection", the space learned by the
            discriminator of the run among the two; default: "features" if ``features`` is given, else "pixel".
        features: feature space, one of :data:`snngan.evaluation.features.FEATURE_SPACES`; default: a small classifier
            of the first or second set, if one has labels, else pixels.
        count: number of images of each side, or as many as there are; default: all, and for a generator as many as on
            the other side.
        seed: seed of permutations and resamples and of the second set's noise; the first set's noise has seed + 1.
        download: whether missing Inception weights are fetched; implies ``features="inception"``.
        options: fields of :class:`snngan.evaluation.Reader`, which say how images are read: ``split``, ``image_size``,
            ``data_dir``, ``device``, ``skip_broken``, ``notify``.

    Raises:
        ValueError: the sets are unknown or do not fit together, or there is too little memory.

    Example:
        >>> images = torch.rand(40, 1, 8, 8) * 2 - 1
        >>> found = compare("digits", images, count=40)
        >>> found.score < 0.5, found.p_value < 0.05
        (True, True)
    """
    has_features = bool(features or download)
    space = space or ("features" if has_features else "pixel")
    if space != "features" and has_features:
        raise ValueError(f"--features and --download need --space features, got --space {space}")
    reader, features = Reader(**options), features if space == "features" else "pixels"
    fake, real, extractor = open_sides(second, first, reader, features, download, seed, use_fake_labels=True)
    if not isinstance(real, ImageSource):
        raise ValueError(f"{real.name} holds FID statistics, which cannot be compared: use snngan evaluate")
    if space == "projection":
        extractor = DiscriminatorFeatures((first, second), reader)
    default = next((side.count for side in (real, fake) if side.count is not None), COUNT_OF_TWO_RUNS)
    counts = [side.limit(count or side.count or default, 4) for side in (real, fake)]
    real, fake, dims = match_sides(real, fake, extractor)
    total = sum(counts)
    check_available(
        total * math.prod(real.shape) + 16 * total * dims,
        f"comparing {total} images in {dims} dimensions",
        "a smaller --count or --image-size",
    )
    real_images, fake_images = real.first(counts[0]), fake.first(counts[1])
    real_features = extract_features(extractor, real_images)
    result = compare_features(real_features, extract_features(extractor, fake_images), seed=seed)
    test, temperature = result.test, result.entanglement.temperature
    by_class = {}
    if real.labels is not None:
        losses, labels = F.softplus(result.odds[: counts[0]]), real.labels[: counts[0]]
        by_class = {int(label): float(losses[labels == label].mean()) for label in torch.unique(labels)}
    content = {
        "real": real.name, "fake": fake.name, "num_real": counts[0], "num_fake": counts[1],
        "real_digest": real.digest, "fake_digest": fake.digest, "extractor": extractor.name,
        "extractor_digest": extractor.digest, "resize": describe_resizes(extractor, fake, real),
        "split": real.split or fake.split, "seed": seed, "real_seed": real.seed, "fake_seed": fake.seed,
        "snngan": __version__, **dataclasses.asdict(result.entanglement),
        "temperature": temperature if math.isfinite(temperature) else None,
        "mean_distance": test.mean_distance, "score_interval": list(result.interval),
        "corrected": result.corrected, "null_score": test.null_score, "p_value": test.p_value,
        "num_subset": list(test.sizes), "real_anchors_by_class": by_class,
    }  # fmt: skip
    return Comparison(result, real_images, fake_images, content)


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise ``ValueError`` if a comparison may not be written into ``folder``, or it cannot be created."""
    if not folder.is_dir() or any(folder.iterdir()):
        check_absent(folder, force=force and folder.is_dir())
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"{folder} cannot be created: {nearest} is not a folder that may be written to")
