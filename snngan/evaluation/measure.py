"""Metrics of one set of images against another, and the protocol by which they were computed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snngan.data import error_line
from snngan.data.datasets import Notify, data_folder
from snngan.evaluation.features import Extractor, choose_extractor, default_extractor
from snngan.evaluation.sources import (
    FidStatistics,
    ImagesLike,
    ImageSource,
    dataset_source,
    find_run,
    load_labeled_set,
    load_training_set,
    match_channels,
    open_source,
    open_statistics,
    refuse_shapes,
)
from snngan.files import SaveError
from snngan.memory import check_available
from snngan.metrics import FeatureStatistics, Metric, Sizes, choose_metrics, compute_metrics, metric_values
from snngan.metrics.distances import NEIGHBORS
from snngan.metrics.moments import Moments
from snngan.training.checkpoint import load_tensors, save_tensors
from snngan.training.device import choose_device
from snngan.version import __version__

MAX_CACHED_BYTES = 1 << 28
"""Statistics of a reference that are larger than this are not cached."""
LABEL_WIDTH = 49
"""Longest label of a printed metric: with value and direction a line has 80 columns."""
EVALUATIONS = "evaluations.jsonl"
"""The file in a run's folder that ``snngan evaluate`` appends to."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, the 95 % intervals of those that have one, and the protocol: how they were computed."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    def to_json(self, indent: int | None = None) -> str:
        """Return all of it as one JSON object; a metric that is not finite is null."""
        metrics = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        content = {"metrics": metrics, "intervals": self.intervals, "protocol": self.protocol}
        return json.dumps(content, indent=indent)

    def lines(self) -> Iterator[str]:
        """Yield the lines to print; those of metrics have at most 80 columns."""
        protocol, known = self.protocol, metric_values()
        seed = "" if protocol["seed"] is None else f"; seed {protocol['seed']}"
        step = "" if protocol["step"] is None else f" (step {protocol['step']})"
        real = protocol["real"] if protocol["num_real"] is None else f"{protocol['num_real']} of {protocol['real']}"
        yield f"{protocol['num_fake']} images of {protocol['fake']}{step} against {real}"
        digest = "" if protocol["extractor"] == "pixels" else f"{protocol['extractor_digest'][:12]}, "
        yield f"features: {protocol['extractor']}, {digest}{protocol['features']}-D{seed}"
        yield f"resize: {protocol['resize']}"
        counts = protocol["num_fake"], protocol["num_real"]
        if set(self.metrics) - {"fid"} and max(counts) > protocol["pairwise_count"]:
            yield f"all but fid over the first {protocol['pairwise_count']} of each"
        labels = {name: label_metric(name, protocol["extractor"]) for name in self.metrics}
        width = max(map(len, labels.values()), default=0)
        for name, value in self.metrics.items():
            yield f"  {labels[name]:{width}} {value:10.4g}  {known[name].direction}"
            if name in self.intervals:
                low, high = self.intervals[name]
                yield f"    95 % interval: {low:.4g} to {high:.4g}"

    def append_to(self, run: Path) -> None:
        """Append it to ``evaluations.jsonl`` in a run's folder.

        Raises:
            OSError: the file cannot be written, or is a link, which might lead anywhere.
        """

        def open_no_link(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        with open(run / EVALUATIONS, "ab+", opener=open_no_link) as file:
            file.seek(max(0, file.seek(0, 2) - 1))
            is_cut_off = file.read() not in (b"", b"\n")  # a line that was never finished
            file.write(f"{chr(10) * is_cut_off}{self.to_json()}\n".encode())


def evaluate(
    images: ImagesLike,
    reference: ImagesLike | None = None,
    *,
    features: str | None = None,
    metrics: Collection[str] | None = None,
    count: int = 10000,
    pairwise_count: int = 5000,
    split: str = "test",
    image_size: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    device: str | torch.device = "auto",
    skip_broken: bool = False,
    download: bool = False,
    notify: Notify = lambda line: None,
) -> Evaluation:
    """Return the metrics of ``images`` against ``reference``, as ``snngan evaluate`` prints them.

    The result for a run is also appended to ``evaluations.jsonl`` in its folder, where ``snngan report`` finds it.

    Args:
        images: a run folder, folder of images, npz file, data set name, or tensor (N, C, H, W) of uint8, or float in
            [-1, 1].
        reference: the real images, given in the same ways, or an npz file of FID statistics; default: the data set that
            the run ``images`` was trained on.
        features: feature space, one of :data:`snngan.evaluation.features.FEATURE_SPACES`; default: a small classifier
            of the reference if it has labels, else pixels; Inception for FID statistics.
        metrics: names of ``snngan.metrics.METRICS``; default: all.
        count: number of images of each side, or as many as there are.
        pairwise_count: number of them in the metrics of pairs (all but fid).
        split: "test" or "train", the half of data sets.
        image_size: height and width in pixels that images of folders and sets are shrunk and cropped to.
        seed: seed of a run's noise; a run as reference has seed + 1.
        data_dir: folder of data sets; default: the variable SNNGAN_DATA, else ``data``.
        device: "auto", "cuda" or "cpu".
        skip_broken: whether unreadable images of a folder are left out.
        download: whether missing Inception weights are fetched; implies ``features="inception"``.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: images, reference, features or metrics are unknown or do not fit together, or there is too little
            memory.

    Example:
        >>> images = torch.rand(40, 1, 8, 8) * 2 - 1
        >>> found = evaluate(images, "digits", features="pixels", metrics=["prdc"], count=40)
        >>> found.metrics["precision"], found.protocol["num_real"]
        (0.0, 40)
    """
    chosen, place = choose_metrics(metrics), choose_device(str(device))
    run = find_run(images)
    folder = data_folder(data_dir) / "features"  # where the user keeps data: a run folder can come from anyone
    keep, feature_size = data_dir is not None or run is None, image_size
    if run is not None:
        data_dir, feature_size = data_dir or run.config.data_dir, image_size or run.config.image_size
    data: dict[str, Any] = {"data_dir": data_dir, "skip_broken": skip_broken, "notify": notify}
    reading: dict[str, Any] = {"split": split, "image_size": image_size, "device": place, "keep": keep} | data
    where: dict[str, Any] = {"folder": folder, "also": data_folder(data_dir) / "features", "device": place}
    fake = open_source(images, seed=seed, **reading)
    real: ImageSource | FidStatistics | None = None if reference is None else open_statistics(reference)
    features = features or ("inception" if download or isinstance(real, FidStatistics) else None)
    dataset = None
    if reference is None:
        if run is None:
            name = fake.name if isinstance(images, Tensor) else images
            raise ValueError(
                f"{name} is not a run folder, which knows its data set: name the real images by --reference SET"
            )
        dataset = load_training_set(run, image_size=image_size, **data)
        real = dataset_source(dataset, split)
    elif real is None:
        real = open_source(reference, seed=seed + 1, **reading)  # two runs: each has noise of its own
        dataset = None if features else load_labeled_set(reference, real, **data)
    if features:
        extractor = choose_extractor(features, image_size=feature_size, download=download, **where, **data)
    else:
        assert isinstance(real, ImageSource)
        extractor = default_extractor(fake, real, dataset, notify=notify, **where)
    result = evaluate_sources(
        fake, real, extractor, metrics=chosen, count=count, pairwise_count=pairwise_count, cache=folder, notify=notify
    )
    if run is not None:
        try:
            result.append_to(run.path)
        except OSError as error:
            notify(f"{run.path / EVALUATIONS} could not be written ({error.strerror}); going on without")
    return result


def evaluate_sources(
    fake: ImageSource,
    real: ImageSource | FidStatistics,
    extractor: Extractor,
    *,
    metrics: Collection[str] | None = None,
    count: int = 10000,
    pairwise_count: int = 5000,
    cache: Path | None = None,
    notify: Notify = lambda line: None,
) -> Evaluation:
    """Return the metrics of the images of ``fake`` against those of ``real``, in the space of ``extractor``.

    Images are read in chunks. The features of the first ``pairwise_count`` images are kept, in memory
    O(pairwise_count D), and the images too where a metric needs them. FID also keeps the features of all images while
    there are at most D, and their D x D covariance beyond that.

    Args:
        fake: the images to measure.
        real: the reference; FID statistics give fid only.
        extractor: the feature space.
        metrics: names of ``METRICS``; default: all.
        count: number of images of each side, or as many as there are.
        pairwise_count: number of them in the metrics of pairs (all but fid).
        cache: folder in which the statistics of ``real`` are cached.
        notify: called with each line worth telling the user.

    Raises:
        ValueError: an unknown metric, fewer than 2 images on a side, images that the extractor does not take, FID
            statistics of other features, or work that does not fit in the available memory.
    """
    chosen = names = choose_metrics(metrics)
    if min(count, pairwise_count) < 2:
        raise ValueError(f"count and pairwise_count must be 2 or more, got {count} and {pairwise_count}")
    num_fake = fake.limit(count)
    check_count(fake, num_fake, 2)
    if isinstance(real, FidStatistics):
        chosen = {name: metric for name, metric in chosen.items() if metric.needs == ("moments",)}
        if not chosen:
            raise ValueError(f"{real.name} holds FID statistics, which give fid only, got --metrics {','.join(names)}")
        dims, expected = extractor(fake.first(2)).shape[1], len(real.moments.mean)
        if dims != expected:
            raise ValueError(
                f"the features must have the {expected} dimensions of the statistics in {real.name}, and those of "
                f"{extractor.name} have {dims}: use the --features that the file was made with"
            )
        counts = num_fake, 2 * dims  # statistics from a file count as of full rank
        if left_out := [name for name in names if name not in chosen]:
            notify(f"{', '.join(left_out)}: left out, {real.name} holds FID statistics, which give fid only")
    else:
        counts = num_fake, real.limit(count)
        check_count(real, counts[1], 2)
        fake, real = match_channels(fake, real)
        dims, other_dims = (extractor(side.first(2)).shape[1] for side in (fake, real))
        if dims != other_dims:
            refuse_shapes(fake, real, extractor.name)
    needs = {part for metric in chosen.values() for part in metric.needs}
    pairwise = min(pairwise_count, *counts) if needs & {"features", "images"} else 0
    if "moments" not in needs:
        counts = pairwise, pairwise
    _check_memory(chosen, Sizes(counts, dims, pairwise, math.prod(fake.shape)))
    fake_statistics = collect_statistics(fake, extractor, counts[0], pairwise, needs)
    if isinstance(real, FidStatistics):
        real_statistics = FeatureStatistics(real.moments, torch.empty(0, dims), torch.empty(0))
    else:
        real_statistics = _collect_cached(real, extractor, counts[1], pairwise, needs, dims, cache, notify)
    if "moments" in needs and min(counts) <= dims:
        notify(
            f"fid: {min(counts)} images do not span {dims} features, so the covariance has a lower rank and the metric "
            "is too high: compare it only with that of as many images"
        )
    too_few = [name for name, metric in chosen.items() if metric.min_images > (pairwise or min(counts))]
    if too_few:
        least = max(chosen.pop(name).min_images for name in too_few)
        notify(f"{', '.join(too_few)}: left out, needing {least} or more images per side, got {pairwise}")
    values, intervals = compute_metrics(chosen.values(), real_statistics, fake_statistics)
    images = fake if isinstance(real, FidStatistics) else real
    protocol = {
        "fake": fake.name,
        "fake_digest": fake.digest,
        "real": real.name,
        "real_digest": real.digest,
        "split": images.split or fake.split,
        "step": fake.step,
        "seed": fake.seed,
        "real_seed": None if images is fake else images.seed,
        "image_shape": list(images.shape),
        "num_fake": counts[0],
        "num_real": None if images is fake else counts[1],
        "pairwise_count": pairwise,
        "neighbors": NEIGHBORS,
        "extractor": extractor.name,
        "extractor_digest": extractor.digest,
        "features": dims,
        "resize": describe_resizes(extractor, fake, images),
        "snngan": __version__,
        "torch": torch.__version__,
    }
    return Evaluation(values, intervals, protocol)


def collect_statistics(
    source: ImageSource, extractor: Extractor, count: int, pairwise_count: int, needs: Collection[str]
) -> FeatureStatistics:
    """Return the statistics of the first ``count`` images of ``source``, the parts that ``needs`` names."""
    moments: Moments | None = None
    features, images, num_seen = [], [], 0
    for chunk in source.chunks(count):
        found = extractor(chunk)
        if "moments" in needs:
            moments = moments or Moments(found.shape[1])
            moments.update(found)
        num_kept = max(0, pairwise_count - num_seen)
        features.append(found[:num_kept])
        images.append(chunk[: num_kept if "images" in needs else 0])
        num_seen += len(chunk)
    return FeatureStatistics(moments, torch.cat(features), torch.cat(images))


def _collect_cached(
    source: ImageSource,
    extractor: Extractor,
    count: int,
    pairwise_count: int,
    needs: Collection[str],
    dims: int,
    cache: Path | None,
    notify: Notify,
) -> FeatureStatistics:
    """Return :func:`collect_statistics`; features and moments are cached under a hash of all that they depend on."""
    with_moments = "moments" in needs
    depends_on = [source.digest, source.resize, extractor.digest, extractor.resize, count, pairwise_count, with_moments]
    key = hashlib.sha256(json.dumps([*depends_on, __version__]).encode()).hexdigest()[:24]
    path = None if cache is None else cache / f"statistics-{key}.pt"
    keeps_rows = with_moments and count <= dims  # Moments keeps the features of all images
    shapes: dict[str, tuple[int, ...]] = {"features": (count if keeps_rows else pairwise_count, dims)}
    if with_moments and not keeps_rows:
        shapes |= {"mean": (dims,), "scatter": (dims, dims)}
    if path is not None and path.exists():
        try:
            state = load_tensors(path)
            if state.keys() != shapes.keys() or any(
                state[name].shape != shape or not state[name].is_floating_point() or not state[name].isfinite().all()
                for name, shape in shapes.items()
            ):
                raise ValueError("unexpected content")
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"{path} is damaged ({error_line(error)[:100]}): delete it") from error
        moments = Moments(dims) if with_moments else None
        if moments is not None and keeps_rows:
            moments.update(state["features"])
        elif moments is not None:
            moments.count, moments.mean, moments.scatter = count, state["mean"], state["scatter"]
        images = source.first(pairwise_count) if "images" in needs else torch.empty(0)
        return FeatureStatistics(moments, state["features"][:pairwise_count], images)
    found = collect_statistics(source, extractor, count, pairwise_count, needs)
    if path is None or sum(8 * math.prod(shape) for shape in shapes.values()) > MAX_CACHED_BYTES:
        return found
    state = {"features": found.features}
    if found.moments is not None and keeps_rows:
        state = {"features": torch.cat(found.moments.rows)}
    elif found.moments is not None:
        state |= {"mean": found.moments.mean, "scatter": found.moments.scatter}
    try:
        save_tensors(path, state)
    except SaveError as error:
        notify(f"{error}; going on without")
    return found


def label_metric(name: str, features: str) -> str:
    """Return the printed label of a metric: its name and its feature space, unless the name says it."""
    if name.startswith("entanglement"):
        return name
    kind, slash, file = features.rpartition("/")
    if slash:  # the folders of a path are left out
        features = kind[: kind.rfind(":") + 1] + file
    room = LABEL_WIDTH - len(name) - len(" ()")
    if len(features) > room:
        features = f"{features[: room // 2 - 3]}...{features[-(room - room // 2) :]}"
    return f"{name} ({features})"


def describe_resizes(extractor: Extractor, fake: ImageSource, real: ImageSource) -> str:
    """Return what is done to the images of each side, and then by the extractor, in words; "none" for nothing."""
    sides = fake.resize if fake.resize == real.resize else f"fake: {fake.resize}; real: {real.resize}"
    if extractor.resize == "none":
        return sides
    return extractor.resize if sides == "none" else f"{sides}; then {extractor.resize}"


def check_count(side: ImageSource, number: int, least: int) -> None:
    """Raise ``ValueError`` where a side has fewer than ``least`` images."""
    if number < least:
        raise ValueError(f"{side.name} must hold {least} or more images, got {number}")


def _check_memory(chosen: Mapping[str, Metric], sizes: Sizes) -> None:
    """Raise ``ValueError`` where the metrics take more memory than is available, by a low estimate."""
    counts, dims, pairwise, pixels = sizes
    needs = {part for metric in chosen.values() for part in metric.needs}
    size = 8 * dims * pairwise + max(metric.peak_bytes(sizes) for metric in chosen.values())
    if "moments" in needs:
        size += sum(4 * dims * count if count <= dims else 8 * dims * dims for count in counts)
    if "images" in needs:
        size += 2 * pixels * pairwise
    remedy = f"a smaller --count{', --pairwise-count' if pairwise else ''} or --image-size"
    if "fid" in chosen and len(chosen) > 1:
        remedy += ", or --metrics without fid"
    check_available(size, f"measuring {', '.join(chosen)} of {counts[0]} images in {dims} dimensions", remedy)
