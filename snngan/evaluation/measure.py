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
from snngan.evaluation.kernel import BLOCK, kernel_distance
from snngan.evaluation.memory import check_available
from snngan.evaluation.nearest_neighbors import ROWS, neighbor_figures
from snngan.evaluation.sources import ImageSource, refuse_shapes, same_channels
from snngan.files import SaveError
from snngan.losses.snnl import entanglement
from snngan.training.checkpoint import load_tensors, save_tensors
from snngan.version import __version__

METRICS = {
    "fid": "Frechet distance of Gaussians in the features; 0 is ideal",
    "kid": "unbiased kernel distance in the features, with a 95 % interval; 0 is ideal",
    "prdc": "precision, recall, density, coverage in the features; 1 is ideal",
    "1nn": "share whose nearest neighbor is of their own side, in the features; 0.5 is ideal",
    "entanglement": "soft nearest neighbor score of the images and of the features; 1 is ideal",
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
KEPT_BYTES = 1 << 28
"""Statistics of a reference that are larger than this are not kept in the cache."""
LABEL_WIDTH = 49
"""Longest label of a printed metric: with value and direction a line has 80 columns."""
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
        """Yield what a reader wants to know, the metrics in at most 80 columns."""
        protocol = self.protocol
        seed = "" if protocol["seed"] is None else f"; seed {protocol['seed']}"
        step = "" if protocol["step"] is None else f" (step {protocol['step']})"
        real = protocol["real"] if protocol["num_real"] is None else f"{protocol['num_real']} of {protocol['real']}"
        yield f"{protocol['num_fake']} images of {protocol['fake']}{step} against {real}"
        digest = "" if protocol["extractor"] == "pixels" else f"{protocol['extractor_digest'][:12]}, "
        yield f"features: {protocol['extractor']}, {digest}{protocol['features']}-D{seed}"
        yield f"resize: {protocol['resize']}"
        counts = protocol["num_fake"], protocol["num_real"]
        if set(self.figures) - {"fid"} and max(counts) > protocol["num_points"]:
            yield f"all but fid over the first {protocol['num_points']} of each"
        labels = {name: label_of(name, protocol["extractor"]) for name in self.figures}
        width = max(map(len, labels.values()), default=0)
        for name, value in self.figures.items():
            yield f"  {labels[name]:{width}} {value:10.4g}  {DIRECTIONS[name]}"
            if name in self.intervals:
                low, high = self.intervals[name]
                yield f"    95 % interval: {low:.4g} to {high:.4g}"

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
    """What is kept of a set of images: moments of all features if wanted, the first few features and their images."""

    moments: Moments | None
    features: Tensor
    images: Tensor


@dataclass(frozen=True)
class FidStatistics:
    """Mean and covariance of the features of a reference set, from a file: enough for FID, and for nothing else."""

    name: str
    digest: str
    moments: Moments


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
    """Return the metrics of ``fake`` images beside ``real`` ones.

    Images go by a few at a time. The features (and for the entanglement of the input the images too) of the first
    ``points`` images are kept, in memory O(points D). FID also keeps the features of all images while they are at most
    D, and their D x D covariance once they are more.

    Args:
        fake: the images to measure.
        real: the reference.
        extractor: the feature space.
        metrics: names of ``METRICS``.
        count: number of images of each side, or as many as there are.
        points: how many of them enter the metrics over pairs (all but fid).
        cache: a folder to keep the statistics of ``real`` in, and to look them up.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: fewer than 2 images on a side, images that the extractor does not take, or work that does not fit in
            the memory that is available.
    """
    counts = [count if side.count is None else min(count, side.count) for side in (fake, real)]
    for side, number in zip((fake, real), counts, strict=True):
        _check_count(side, number)
    fake, real = same_channels(fake, real)
    points = min(points, *counts) if set(metrics) - {"fid"} else 0
    if "fid" not in metrics:
        counts = [points, points]
    dims, other_dims = (extractor(side.first(2)).shape[1] for side in (fake, real))
    if dims != other_dims:
        refuse_shapes(fake, real, extractor.name)
    _check_memory(counts, dims, points, math.prod(fake.shape), metrics)
    num_images = points if "entanglement" in metrics else 0
    with_moments = "fid" in metrics
    made = see(fake, extractor, counts[0], points, num_images, with_moments=with_moments)
    kept = _see_cached(real, extractor, counts[1], dims, points, num_images, with_moments, cache, notify)
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if kept.moments is not None and made.moments is not None:
        _notify_of_rank(min(counts), dims, notify)
        figures["fid"] = frechet_distance(kept.moments, made.moments)
    if "kid" in metrics:
        estimate = kernel_distance(kept.features, made.features)
        figures["kid"] = estimate.value
        if math.isfinite(estimate.low):
            intervals["kid"] = estimate.low, estimate.high
    if ("prdc" in metrics or "1nn" in metrics) and points <= NEIGHBOURS:
        notify(f"prdc, 1nn: left out, they take more than {NEIGHBOURS} images a side")
    elif "prdc" in metrics or "1nn" in metrics:
        found = neighbor_figures(kept.features, made.features, NEIGHBOURS)
        names = ["precision", "recall", "density", "coverage"] if "prdc" in metrics else []
        figures |= {name: getattr(found, name) for name in names}
        if "1nn" in metrics:
            figures["1nn_accuracy"] = found.accuracy
            figures |= {"1nn_accuracy_real": found.real_accuracy, "1nn_accuracy_fake": found.fake_accuracy}
    if "entanglement" in metrics:
        figures |= _entanglement(kept, made)
    protocol = {
        "fake": fake.name, "fake_digest": fake.digest, "real": real.name, "real_digest": real.digest,
        "split": real.split or fake.split, "step": fake.step, "seed": fake.seed, "real_seed": real.seed,
        "image_shape": list(real.shape),
        "num_fake": counts[0], "num_real": counts[1], "num_points": points, "neighbors": NEIGHBOURS,
        "extractor": extractor.name, "extractor_digest": extractor.digest, "features": dims,
        "resize": resize_of(extractor, fake, real),
        "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    return Evaluation(figures, intervals, protocol)


def evaluate_beside_statistics(
    fake: ImageSource, real: FidStatistics, extractor: Extractor, metrics: Collection[str], count: int, notify: Notify
) -> Evaluation:
    """Return the FID of the first ``count`` images of ``fake`` beside statistics that were computed before.

    Raises:
        ValueError: ``metrics`` do not include it, the extractor has another number of dimensions, fewer than 2 images,
            or work that does not fit in the memory that is available.
    """
    if "fid" not in metrics:
        raise ValueError(f"{real.name} holds FID statistics, which give fid only, got --metrics {','.join(metrics)}")
    count = count if fake.count is None else min(count, fake.count)
    _check_count(fake, count)
    dims, expected = extractor(fake.first(2)).shape[1], len(real.moments.mean)
    if dims != expected:
        raise ValueError(
            f"the features must have the {expected} dimensions of the statistics in {real.name}, and those of "
            f"{extractor.name} have {dims}: use the --features that the file was made with"
        )
    if left_out := [name for name in metrics if name != "fid"]:
        notify(f"{', '.join(left_out)}: left out, {real.name} holds FID statistics, which give fid only")
    _check_memory([count, 2 * dims], dims, 0, 0, ["fid"])
    _notify_of_rank(count, dims, notify)
    made = see(fake, extractor, count, 0, with_moments=True)
    assert made.moments is not None
    protocol = {
        "fake": fake.name, "fake_digest": fake.digest, "real": real.name, "real_digest": real.digest,
        "split": fake.split, "step": fake.step, "seed": fake.seed, "image_shape": list(fake.shape),
        "num_fake": count, "num_real": None, "num_points": 0,
        "extractor": extractor.name, "extractor_digest": extractor.digest, "features": dims,
        "resize": resize_of(extractor, fake),
        "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    return Evaluation({"fid": frechet_distance(real.moments, made.moments)}, {}, protocol)


def see(
    source: ImageSource,
    extractor: Extractor,
    count: int,
    points: int,
    num_images: int = 0,
    *,
    with_moments: bool = True,
) -> Seen:
    """Return what is kept of the first ``count`` images of ``source``."""
    moments: Moments | None = None
    features, images, seen = [], [], 0
    for chunk in source.chunks(count):
        found = extractor(chunk)
        if with_moments:
            moments = moments or Moments(found.shape[1])
            moments.update(found)
        features.append(found[: max(0, points - seen)])
        images.append(chunk[: max(0, num_images - seen)])
        seen += len(chunk)
    return Seen(moments, torch.cat(features), torch.cat(images))


def _see_cached(
    source: ImageSource, extractor: Extractor, count: int, dims: int, points: int, num_images: int, with_moments: bool,
    cache: Path | None, notify: Notify,
) -> Seen:  # fmt: skip
    """Return what :func:`see` does; features and moments are kept in ``cache`` under all that they depend on."""
    if cache is None:
        return see(source, extractor, count, points, num_images, with_moments=with_moments)
    depends_on = [source.digest, source.resize, extractor.digest, extractor.resize, count, points, with_moments]
    key = json.dumps([*depends_on, __version__])
    path = cache / f"seen-{hashlib.sha256(key.encode()).hexdigest()[:24]}.pt"
    keeps_rows = with_moments and count <= dims  # the features of all images: of more there is the covariance
    shapes: dict[str, tuple[int, ...]] = {"features": (count if keeps_rows else points, dims)}
    if with_moments and not keeps_rows:
        shapes |= {"mean": (dims,), "scatter": (dims, dims)}
    if path.exists():
        try:
            state = load_tensors(path)
            if state.keys() != shapes.keys() or any(
                state[name].shape != shape or not state[name].is_floating_point() or not state[name].isfinite().all()
                for name, shape in shapes.items()
            ):
                raise ValueError("numbers of something else")
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"{path} is damaged ({error_line(error)[:100]}): delete it") from error
        moments = Moments(dims) if with_moments else None
        if moments is not None and keeps_rows:
            moments.update(state["features"])
        elif moments is not None:
            moments.count, moments.mean, moments.scatter = count, state["mean"], state["scatter"]
        return Seen(moments, state["features"][:points], source.first(num_images) if num_images else Tensor())
    found = see(source, extractor, count, points, num_images, with_moments=with_moments)
    if sum(8 * math.prod(shape) for shape in shapes.values()) > KEPT_BYTES:
        return found
    state = {"features": found.features}
    if found.moments is not None and keeps_rows:
        state = {"features": torch.cat(found.moments.rows)}
    elif found.moments is not None and found.moments.scatter is not None:
        state |= {"mean": found.moments.mean, "scatter": found.moments.scatter}
    try:
        save_tensors(path, state)
    except SaveError as error:
        notify(f"{error}; going on without")
    return found


def label_of(name: str, features: str) -> str:
    """Return how a metric is called in print: with its feature space, unless the name says another."""
    if name.startswith("entanglement"):
        return name
    kind, slash, file = features.rpartition("/")
    if slash:  # folders of a path are left out
        features = kind[: kind.rfind(":") + 1] + file
    room = LABEL_WIDTH - len(name) - len(" ()")
    if len(features) > room:
        features = f"{features[: room // 2 - 3]}...{features[-(room - room // 2) :]}"
    return f"{name} ({features})"


def resize_of(extractor: Extractor, fake: ImageSource, real: ImageSource | None = None) -> str:
    """Return what is done to the images of each side, and then by the extractor, in words; "none" for nothing."""
    real = real or fake
    sides = fake.resize if fake.resize == real.resize else f"fake: {fake.resize}; real: {real.resize}"
    if extractor.resize == "none":
        return sides
    return extractor.resize if sides == "none" else f"{sides}; then {extractor.resize}"


def _check_count(side: ImageSource, number: int) -> None:
    if number < 2:
        raise ValueError(f"{side.name} holds {number} image{'s' * (number != 1)}: figures take 2 or more")


def _notify_of_rank(count: int, dims: int, notify: Notify) -> None:
    if count <= dims:
        notify(
            f"fid: {count} images do not span {dims} features, so the covariance is of lower rank and the figure "
            "too high: compare it only with figures of as many images"
        )


def _check_memory(counts: list[int], dims: int, points: int, pixels: int, metrics: Collection[str]) -> None:
    """Raise ``ValueError`` where the metrics take more memory than is available, by a low estimate."""
    features = 8 * dims * points  # 4 bytes of 2 sides
    kept, peaks = features, [0]
    if "fid" in metrics:
        ranks = [min(count, dims) for count in counts]
        kept += sum(4 * dims * count if count <= dims else 8 * dims * dims for count in counts)
        peaks.append(8 * dims * sum(ranks) + 16 * math.prod(ranks))
    if "kid" in metrics:
        peaks.append(24 * dims * min(points, 2 * BLOCK))
    if "prdc" in metrics or "1nn" in metrics:
        peaks.append(3 * features + 8 * ROWS * points)
    if "entanglement" in metrics:
        kept += 2 * pixels * points
        peaks += [4 * features, 40 * pixels * points]
    name = "fid" if len(metrics) == 1 and "fid" in metrics else ", ".join(metrics)
    remedy = "a smaller --count, --points or --image-size" if points else "a smaller --count or --image-size"
    if "fid" in metrics and len(metrics) > 1:
        remedy += ", or --metrics without fid"
    check_available(kept + max(peaks), f"measuring {name} of {max(counts)} images in {dims} dimensions", remedy)


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
