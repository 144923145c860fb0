"""The figures of one set of images beside another, and the protocol they were taken by."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snngan.data import error_line, to_unit_range
from snngan.data.datasets import Notify
from snngan.evaluation.features import Extractor
from snngan.evaluation.frechet import Moments, frechet_distance
from snngan.evaluation.kernel import kernel_distance
from snngan.evaluation.neighbours import neighbour_figures
from snngan.evaluation.sources import ImageSource, same_channels
from snngan.files import SaveError
from snngan.losses.snnl import entanglement
from snngan.training.checkpoint import load_tensors, save_tensors
from snngan.version import __version__

METRICS = {
    "fid": "Frechet distance of Gaussians in the features; 0 is ideal",
    "kid": "unbiased kernel distance in the features, with a 95 % interval; 0 is ideal",
    "prdc": "precision, recall, density, coverage in the features; 1 is ideal",
    "1nn": "share whose nearest neighbour is of their own side, in the features; 0.5 is ideal",
    "entanglement": "soft nearest neighbour score of the images and of the features; 1 is ideal",
}
DIRECTIONS = {
    "fid": "lower is better",
    "kid": "lower is better",
    "precision": "higher is better",
    "recall": "higher is better",
    "density": "1 is ideal",
    "coverage": "higher is better",
    "1nn_accuracy": "0.5 is ideal",
    "1nn_accuracy_real": "0.5 is ideal",
    "1nn_accuracy_fake": "0.5 is ideal",
    "entanglement_features": "higher is better",
    "entanglement_features_real_anchors": "0.693 is ideal",
    "entanglement_features_fake_anchors": "0.693 is ideal",
    "entanglement_input": "higher is better",
    "entanglement_input_real_anchors": "0.693 is ideal",
    "entanglement_input_fake_anchors": "0.693 is ideal",
}
"""The direction or the ideal value of each metric that :func:`evaluate` returns, by its name."""
NEIGHBOURS = 5
EVALUATIONS = "evaluations.jsonl"
"""What ``snngan evaluate`` appends to in a run's folder."""


@dataclass(frozen=True)
class Evaluation:
    """Figures by name, the bounds of those that have an interval, and how they were taken."""

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    def to_json(self, indent: int | None = None) -> str:
        """Return all of it as one JSON object; a figure that is not finite is null."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        content = {"figures": figures, "intervals": self.intervals, "protocol": self.protocol}
        return json.dumps(content, indent=indent)

    def lines(self) -> Iterator[str]:
        """Yield what a reader wants to know."""
        protocol = self.protocol
        seed = "" if protocol["seed"] is None else f"; seed {protocol['seed']}"
        counts = protocol["num_fake"], protocol["num_real"]
        yield f"{counts[0]} images of {protocol['fake']} against {counts[1]} of {protocol['real']}"
        yield (
            f"features: {protocol['extractor']}, {protocol['extractor_digest'][:12]}, {protocol['features']}-D; "
            f"resize: {protocol['resize']}{seed}"
        )
        yield f"all but fid over the first {protocol['num_points']} of each"
        for name, value in self.figures.items():
            bounds = self.intervals.get(name)
            interval = f"   95 %: {bounds[0]:.4g} to {bounds[1]:.4g}" if bounds else ""
            yield f"  {name:34} {value:10.4g}{interval}"

    def keep(self, run: Path) -> None:
        """Append it to ``evaluations.jsonl`` in a run's folder.

        Raises:
            OSError: it cannot be written, or is a link, which might lead anywhere.
        """

        def no_link(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        with open(run / EVALUATIONS, "ab+", opener=no_link) as file:
            file.seek(max(0, file.seek(0, 2) - 1))
            cut_off = file.read() not in (b"", b"\n")  # a line that was never finished
            file.write(f"{chr(10) * cut_off}{self.to_json()}\n".encode())


@dataclass(frozen=True)
class Seen:
    """What is kept of a set of images: moments of all features, the first few features, and their images if wanted."""

    moments: Moments
    features: Tensor
    images: Tensor


def evaluate(
    fake: ImageSource,
    real: ImageSource,
    extractor: Extractor,
    *,
    metrics: Collection[str] = tuple(METRICS),
    count: int = 10000,
    points: int = 5000,
    cache: Path | None = None,
    notify: Notify = lambda line: None,
) -> Evaluation:
    """Return the figures of ``fake`` images beside ``real`` ones.

    Images go by a few at a time: memory grows with ``points``, of which features are kept, and for the
    entanglement of the input images too, and with the features' dimensions; not with ``count``.

    Args:
        fake: what is judged.
        real: what it is held against.
        extractor: the feature space.
        metrics: names of ``METRICS``.
        count: images of each side, or as many as there are.
        points: of them, how many enter the figures over pairs (all but fid).
        cache: a folder to keep what was seen of ``real`` in, and to look it up.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: fewer than 2 images on a side, or images that the extractor does not take.
    """
    counts = [count if side.count is None else min(count, side.count) for side in (fake, real)]
    for side, number in zip((fake, real), counts, strict=True):
        if number < 2:
            raise ValueError(f"{side.name} holds {number} image{'s' * (number != 1)}: figures take 2 or more")
    fake, real = same_channels(fake, real)
    points = min(points, *counts)
    if len({extractor(side.first(2)).shape[1] for side in (fake, real)}) > 1:
        raise ValueError(
            f"{fake.name} has images {fake.shape}, {real.name} {real.shape}, which do not meet in {extractor.name}: "
            "give --image-size, or --features inception"
        )
    num_images = points if "entanglement" in metrics else 0
    made = see(fake, extractor, counts[0], points, num_images)
    kept = _see_cached(real, extractor, counts[1], points, num_images, cache, notify)
    dims = made.features.shape[1]
    if "fid" in metrics and min(counts) <= dims:
        notify(
            f"fid: {min(counts)} images do not span {dims} features, so the covariance is of lower rank and the figure "
            "too high: compare it only with figures of as many images"
        )
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if "fid" in metrics:
        figures["fid"] = frechet_distance(kept.moments, made.moments)
    if "kid" in metrics:
        estimate = kernel_distance(kept.features, made.features)
        figures["kid"] = estimate.value
        if math.isfinite(estimate.low):
            intervals["kid"] = estimate.low, estimate.high
    if ("prdc" in metrics or "1nn" in metrics) and min(len(kept.features), len(made.features)) <= NEIGHBOURS:
        notify(f"prdc, 1nn: left out, they take more than {NEIGHBOURS} images a side")
    elif "prdc" in metrics or "1nn" in metrics:
        found = neighbour_figures(kept.features, made.features, NEIGHBOURS)
        names = ["precision", "recall", "density", "coverage"] if "prdc" in metrics else []
        figures |= {name: getattr(found, name) for name in names}
        if "1nn" in metrics:
            figures["1nn_accuracy"] = found.accuracy
            figures |= {"1nn_accuracy_real": found.real_accuracy, "1nn_accuracy_fake": found.fake_accuracy}
    if "entanglement" in metrics:
        figures |= _entanglement(kept, made)
    protocol = {
        "fake": fake.name, "fake_digest": fake.digest, "real": real.name, "real_digest": real.digest,
        "split": real.split or fake.split, "seed": fake.seed, "real_seed": real.seed,
        "image_shape": list(real.shape),
        "num_fake": counts[0], "num_real": counts[1], "num_points": points, "neighbours": NEIGHBOURS,
        "extractor": extractor.name, "extractor_digest": extractor.digest, "features": dims, "resize": extractor.resize,
        "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    return Evaluation(figures, intervals, protocol)


def see(source: ImageSource, extractor: Extractor, count: int, points: int, num_images: int = 0) -> Seen:
    """Return what is kept of the first ``count`` images of ``source``."""
    moments: Moments | None = None
    features, images, seen = [], [], 0
    for chunk in source.chunks(count):
        found = extractor(chunk)
        moments = moments or Moments(found.shape[1])
        moments.update(found)
        if seen < points:
            features.append(found[: points - seen])
        images.append(chunk[: max(0, num_images - seen)])
        seen += len(chunk)
    assert moments is not None
    return Seen(moments, torch.cat(features), torch.cat(images))


def _see_cached(
    source: ImageSource, extractor: Extractor, count: int, points: int, num_images: int, cache: Path | None,
    notify: Notify,
) -> Seen:  # fmt: skip
    """Return what :func:`see` does; features and moments are kept in ``cache`` under all that they depend on."""
    if cache is None:
        return see(source, extractor, count, points, num_images)
    key = json.dumps([source.digest, extractor.digest, extractor.resize, count, points, __version__])
    path = cache / f"seen-{hashlib.sha256(key.encode()).hexdigest()[:24]}.pt"
    if path.exists():
        try:
            state = load_tensors(path)
            moments = Moments(len(state["mean"]))
            moments.count, moments.mean, moments.scatter = int(state["count"]), state["mean"], state["scatter"]
            dims = len(moments.mean)
            kept = (moments.mean, (dims,)), (moments.scatter, (dims, dims)), (state["features"], (points, dims))
            if moments.count != count or any(
                part.shape != shape or not part.is_floating_point() or not part.isfinite().all() for part, shape in kept
            ):
                raise ValueError("numbers of something else")
            return Seen(moments, state["features"], source.first(num_images) if num_images else Tensor())
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"{path} is damaged ({error_line(error)[:100]}): delete it") from error
    found = see(source, extractor, count, points, num_images)
    state = {"count": found.moments.count, "mean": found.moments.mean, "scatter": found.moments.scatter}
    try:
        save_tensors(path, state | {"features": found.features})
    except SaveError as error:
        notify(f"{error}; going on without")
    return found


def _entanglement(real: Seen, fake: Seen) -> dict[str, float]:
    spaces = {"features": (real.features, fake.features)}
    if real.images.shape[1:] == fake.images.shape[1:]:  # images of two sizes meet in the feature space only
        spaces["input"] = to_unit_range(real.images), to_unit_range(fake.images)
    figures: dict[str, float] = {}
    for space, (first, second) in spaces.items():
        reading = entanglement(first, second)
        figures |= {
            f"entanglement_{space}": reading.score,
            f"entanglement_{space}_real_anchors": reading.real_anchors,
            f"entanglement_{space}_fake_anchors": reading.fake_anchors,
        }
    return figures
