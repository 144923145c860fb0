"""Metrics of one set of images against another, and the protocol by which they were computed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snngan.data import POINT_SHAPE
from snngan.data.datasets import Notify
from snngan.data.grids import check_output
from snngan.evaluation.feature_classifier import prepare_features
from snngan.evaluation.features import Extractor, Pixels, choose_extractor
from snngan.evaluation.nearest import save_nearest
from snngan.evaluation.sources import (
    FidStatistics,
    ImagesLike,
    ImageSource,
    Reader,
    dataset_source,
    digest_of,
    find_run,
    open_statistics,
)
from snngan.files import SaveError, load_tensors, save_tensors
from snngan.memory import check_available
from snngan.metrics import FeatureStatistics, choose_metrics, compute_metrics, metric_values
from snngan.metrics.distances import NEIGHBORS, ROWS
from snngan.metrics.moments import Moments
from snngan.metrics.prdc import recall_by_class
from snngan.version import __version__

MAX_CACHED_DIMS = 4096
"""Statistics of a reference in more dimensions are not cached."""
MAX_CLASSES = 20
"""The most classes whose recall is printed."""
EVALUATIONS = "evaluations.jsonl"
"""The file in a run's folder that ``snngan evaluate`` appends to."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, the 95 % intervals of those that have one, and the protocol: how they were computed.

    ``recall_by_class`` has the recall of each class by name, lowest first, where the real images have labels.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    recall_by_class: dict[str, float] = field(default_factory=dict)

    def to_json(self, indent: int | None = None) -> str:
        """Return all of it as one JSON object; a metric that is not finite is null."""
        metrics = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        content: dict[str, Any] = {"metrics": metrics, "intervals": self.intervals, "protocol": self.protocol}
        if self.recall_by_class:
            content["recall_by_class"] = self.recall_by_class
        return json.dumps(content, indent=indent)

    def lines(self) -> Iterator[str]:
        """Yield the lines to print."""
        protocol, known = self.protocol, metric_values()
        seed = "" if protocol["seed"] is None else f"; seed {protocol['seed']}"
        step = "" if protocol["step"] is None else f" (step {protocol['step']})"
        real = protocol["real"] if protocol["num_real"] is None else f"{protocol['num_real']} of {protocol['real']}"
        yield f"{protocol['num_fake']} images of {protocol['fake']}{step} against {real}"
        digest = "" if protocol["extractor"] == "pixels" else f"{protocol['extractor_digest'][:12]}, "
        yield f"features: {protocol['extractor']}, {digest}{protocol['features']}-D{seed}"
        yield f"resize: {protocol['resize']}"
        all_images = values_of_all_images()
        counts = protocol["num_fake"], protocol["num_real"]
        if set(self.metrics) - set(all_images) and max(counts) > protocol["pairwise_count"]:
            yield f"all but {', '.join(all_images)} over the first {protocol['pairwise_count']} of each"
        labels = {name: label_metric(name, protocol["extractor"]) for name in self.metrics}
        width = max(map(len, labels.values()), default=0)
        for name, value in self.metrics.items():
            yield f"  {labels[name]:{width}} {value:10.4g}  {known[name].direction}"
            if name in self.intervals:
                low, high = self.intervals[name]
                yield f"    95 % interval: {low:.4g} to {high:.4g}"
        if self.recall_by_class:
            lowest = [f"{name} {value:.2f}" for name, value in self.recall_by_class.items()][:MAX_CLASSES]
            text = f"recall by class, lowest first: {', '.join(lowest)}"
            yield from textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    ")

    def append_to(self, run: Path) -> None:
        """Append it to ``evaluations.jsonl`` in a run's folder; raises ``OSError``."""
        path = run / EVALUATIONS
        is_cut_off = path.exists() and not path.read_bytes().endswith(b"\n")  # a line that was never finished
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" * is_cut_off + self.to_json() + "\n")


def evaluate(
    images: ImagesLike,
    reference: ImagesLike | None = None,
    *,
    features: str | None = None,
    metrics: Collection[str] | None = None,
    count: int = 10000,
    pairwise_count: int = 5000,
    seed: int = 0,
    download: bool = False,
    nearest: str | os.PathLike[str] | None = None,
    force: bool = False,
    **options: Any,
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
        metrics: names of ``snngan.metrics.METRICS``; default: all that the images allow.
        count: number of images of each side, or as many as there are.
        pairwise_count: number of them in the metrics of pairs (all but fid).
        seed: seed of a run's noise; a run as reference has seed + 1.
        download: whether missing Inception weights are fetched; implies ``features="inception"``.
        nearest: PNG file to write: samples, each beside its nearest training images.
        force: whether ``nearest`` may replace a file.
        options: fields of :class:`snngan.evaluation.Reader`, which say how images are read: ``split``, ``image_size``,
            ``data_dir`` (default: that of the run), ``device``, ``skip_broken``, ``notify``.

    Raises:
        ValueError: images, reference, features or metrics are unknown or do not fit together, ``nearest`` or
            ``copying`` is asked for where the training images are unknown, the picture cannot be written, or there is
            too little memory.

    Example:
        >>> images = torch.rand(40, 1, 8, 8) * 2 - 1
        >>> found = evaluate(images, "digits", features="pixels", metrics=["prdc"], count=40)
        >>> found.metrics["precision"], found.protocol["num_real"]
        (0.0, 40)
    """
    choose_metrics(metrics)  # an unknown name is an error before anything is read
    run, reader = find_run(images), Reader(**options)
    sheet = None if nearest is None else Path(nearest)
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise ValueError(f"--nearest must be a name ending in .png, got {sheet}")
        check_output(sheet, force=force, option="--nearest")
    if run is not None:  # whose data folder is read, but not written to
        reader = replace(reader, data_dir=reader.data_dir or run.config.data_dir)
    sides = open_sides(images, reference, reader, features, download, seed)
    counts: dict[str, Any] = {"count": count, "pairwise_count": pairwise_count}
    result = evaluate_sources(
        *sides, metrics=metrics, **counts, sheet=sheet, cache=reader.feature_folder, notify=reader.notify
    )
    if run is not None:
        try:
            result.append_to(run.path)
        except OSError as error:
            reader.notify(f"{run.path / EVALUATIONS} could not be written ({error.strerror}); going on without")
    return result


def open_sides(
    fake: ImagesLike,
    real: ImagesLike | None,
    reader: Reader,
    features: str | None,
    download: bool,
    seed: int,
    use_fake_labels: bool = False,
) -> tuple[ImageSource, ImageSource | FidStatistics, Extractor]:
    """Return both sets of images and the feature extractor that the arguments of :func:`evaluate` name.

    With ``use_fake_labels`` a small classifier of ``fake`` gives the features where ``real`` has no labels.
    """
    run, dataset, fake_source = find_run(fake), None, reader.open(fake, seed)
    real_source: ImageSource | FidStatistics
    if real is not None:
        real_source = open_statistics(real) or reader.open(real, seed + 1)  # noise of its own
        if run is not None and isinstance(real_source, ImageSource) and real != run.config.dataset:
            real_source = replace(real_source, training=None)  # the run was trained on other images
    elif run is not None:
        dataset = reader.load_training_set(run)
        real_source = dataset_source(dataset, reader.split)
    else:
        name = fake_source.name if isinstance(fake, Tensor) else fake
        raise ValueError(
            f"{name} is not a run folder, which knows its data set: name the real images by --reference SET"
        )
    if features or download or isinstance(real_source, FidStatistics):
        size = reader.image_size or (run.config.image_size if run else None)
        return fake_source, real_source, choose_extractor(features or "inception", reader, size, download)
    if real is not None:
        dataset = reader.load_labeled_set(real, real_source)
    if dataset is None and use_fake_labels:
        dataset = reader.load_labeled_set(fake, fake_source)
    channels = max(fake_source.shape[0], real_source.shape[0])
    shapes = {source.with_channels(channels).shape for source in (fake_source, real_source)}
    if dataset is None or shapes != {dataset.image_shape} or not dataset.suits_classifier:
        return fake_source, real_source, Pixels()
    return fake_source, real_source, prepare_features(dataset, reader)


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
    sheet: Path | None = None,
) -> Evaluation:
    """Return the metrics of the images of ``fake`` against those of ``real``, in the space of ``extractor``.

    Images are read in chunks; only the features of the first ``pairwise_count`` are kept, and these images where a
    metric needs them. The statistics of ``real`` and the features of its training images are cached in the folder
    ``cache``; ``sheet`` is the picture ``nearest`` of :func:`evaluate`, which see for the other arguments.

    Raises:
        ValueError: an unknown metric, fewer than 2 images on a side, images that the extractor does not take, FID
            statistics of other features, ``copying`` or ``sheet`` where the training images are unknown, or work
            that does not fit in the available memory.
    """
    chosen = names = choose_metrics(metrics)
    if min(count, pairwise_count) < 2:
        raise ValueError(f"count and pairwise_count must be 2 or more, got {count} and {pairwise_count}")
    counts = [fake.limit(count, 2)]
    if isinstance(real, FidStatistics):
        chosen = {name: metric for name, metric in names.items() if metric.needs == ("moments",)}
        if not chosen:
            raise ValueError(f"{real.name} holds FID statistics, which give fid only, got --metrics {','.join(names)}")
        dims, expected = extractor(fake.first(2)).shape[1], len(real.moments.mean)
        if dims != expected:
            raise ValueError(
                f"the features must have the {expected} dimensions of the statistics in {real.name}, and those of "
                f"{extractor.name} have {dims}: use the --features that the file was made with"
            )
        if left_out := [name for name in names if name not in chosen]:
            notify(f"{', '.join(left_out)}: left out, {real.name} holds FID statistics, which give fid only")
        images = fake
    else:
        counts.append(real.limit(count, 2))
        fake, real, dims = match_sides(fake, real, extractor)
        images = real
    training = None if isinstance(real, FidStatistics) else real.training
    if training is None:
        of_training = {name for name, metric in chosen.items() if "training" in metric.needs}
        chosen = {name: metric for name, metric in chosen.items() if name not in of_training}
        if sheet is not None or of_training & set(metrics or ()):
            raise ValueError(
                "copying needs the training images, those of a run's own data set or of a data set named by "
                f"--reference, without --split train; got {real.name} as the reference"
            )
    elif sheet is not None and (fake.shape != images.shape or images.shape == POINT_SHAPE):
        shapes = "2-D points" if images.shape == POINT_SHAPE else f"{fake.shape} and {images.shape}"
        raise ValueError(f"--nearest needs images of one shape, got {shapes}")
    needs = {part for metric in chosen.values() for part in metric.needs}
    if sheet is not None:
        needs |= {"features", "images", "training"}
    pairwise = min(pairwise_count, *counts) if needs & {"features", "images"} else 0
    if "moments" not in needs:
        counts = [pairwise, pairwise]
    size = 16 * dims * max(pairwise, min(max(counts), dims) if "moments" in needs else 0) + 8 * ROWS * pairwise
    if training is not None and "training" in needs:
        num_extracted = 0 if extractor.digest == Pixels.digest else len(training)
        size += 8 * math.prod(images.shape) * pairwise + 4 * dims * num_extracted
    check_available(
        size,
        f"measuring {', '.join(chosen)} of {max(counts)} images in {dims} dimensions",
        "a smaller --count, --pairwise-count or --image-size, or fewer --metrics",
    )
    fake_statistics = collect_statistics(fake, extractor, counts[0], pairwise, needs)
    if isinstance(real, FidStatistics):
        real_statistics = FeatureStatistics(real.moments, torch.empty(0, dims), torch.empty(0))
    else:
        cache = None if dims > MAX_CACHED_DIMS else cache
        real_statistics = _collect_cached(real, extractor, counts[1], pairwise, needs, cache, notify)
        if "training" in needs:
            real_statistics.training = _collect_training(real, extractor, cache, notify)
    if "moments" in needs and min(counts) <= dims:
        notify(
            f"fid: {min(counts)} images do not span {dims} features, so the covariance has a lower rank and the metric "
            "is too high: compare it only with that of as many images"
        )
    if too_few := [name for name, metric in chosen.items() if metric.min_images > (pairwise or min(counts))]:
        least = max(chosen.pop(name).min_images for name in too_few)
        notify(f"{', '.join(too_few)}: left out, needing {least} or more images per side, got {pairwise}")
    values, intervals = compute_metrics(chosen.values(), real_statistics, fake_statistics)
    if sheet is not None:
        assert real_statistics.training is not None
        save_nearest(sheet, fake_statistics, real_statistics.training)
    protocol = {
        "fake": fake.name, "fake_digest": fake.digest, "real": real.name, "real_digest": real.digest,
        "split": images.split or fake.split, "step": fake.step,
        "seed": fake.seed, "real_seed": None if images is fake else images.seed, "image_shape": list(images.shape),
        "num_fake": counts[0], "num_real": None if images is fake else counts[1],
        "pairwise_count": pairwise, "neighbors": NEIGHBORS,
        "extractor": extractor.name, "extractor_digest": extractor.digest, "features": dims,
        "resize": describe_resizes(extractor, fake, images), "snngan": __version__, "torch": torch.__version__,
    }  # fmt: skip
    by_class = {}
    if "prdc" in chosen and not isinstance(real, FidStatistics) and real.labels is not None:
        features = real_statistics.features, fake_statistics.features
        recalls = recall_by_class(*features, real.labels[:pairwise])
        by_class = {real.class_names[each] if real.class_names else str(each): value for each, value in recalls.items()}
    return Evaluation(values, intervals, protocol, dict(sorted(by_class.items(), key=lambda item: item[1])))


def match_sides(fake: ImageSource, real: ImageSource, extractor: Extractor) -> tuple[ImageSource, ImageSource, int]:
    """Return both sets of images with as many channels, gray ones widened, and the number of their features.

    Raises:
        ValueError: the images have no feature space in common.
    """
    channels = max(fake.shape[0], real.shape[0])
    fake, real = fake.with_channels(channels), real.with_channels(channels)
    dims, other_dims = (extractor(side.first(2)).shape[1] for side in (fake, real))
    if dims == other_dims:
        return fake, real, dims
    points = [side for side in (fake, real) if side.shape == POINT_SHAPE]
    if len(points) == 1:
        pictures = real if points[0] is fake else fake
        raise ValueError(f"{points[0].name} holds 2-D points and {pictures.name} images, which cannot be compared")
    raise ValueError(
        f"{fake.name} has images {fake.shape}, {real.name} {real.shape}, which cannot be compared in "
        f"{extractor.name}: give --image-size, or --features inception"
    )


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
    folder: Path | None,
    notify: Notify,
) -> FeatureStatistics:
    """Return :func:`collect_statistics`; features and moments are kept under a hash of all that they depend on."""
    if folder is None:
        return collect_statistics(source, extractor, count, pairwise_count, needs)
    depends_on = [source.digest, source.resize, extractor.digest, extractor.resize, count, pairwise_count]
    key = hashlib.sha256(json.dumps([*depends_on, "moments" in needs, __version__]).encode()).hexdigest()[:24]
    path = folder / f"statistics-{key}.safetensors"
    if path.exists():
        try:
            tensors, _ = load_tensors(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it") from error
        moments = Moments.from_tensors(count, tensors) if "moments" in needs else None
        images = source.first(pairwise_count) if "images" in needs else torch.empty(0)
        return FeatureStatistics(moments, tensors["features"], images)
    found = collect_statistics(source, extractor, count, pairwise_count, needs)
    try:
        save_tensors(path, {"features": found.features} | (found.moments.to_tensors() if found.moments else {}))
    except SaveError as error:
        notify(f"{error}; going on without")
    return found


def _collect_training(real: ImageSource, extractor: Extractor, cache: Path | None, notify: Notify) -> FeatureStatistics:
    """Return features and images of all training images of the data set whose held-out images are ``real``."""
    images = real.training
    assert images is not None
    if extractor.digest == Pixels.digest:
        return FeatureStatistics(None, images, images)
    source = replace(real, digest=digest_of([images]), read=lambda rows: images[rows.start : rows.stop])
    found = _collect_cached(source, extractor, len(images), len(images), {"features"}, cache, notify)
    return replace(found, images=images)


def values_of_all_images() -> list[str]:
    """Return the names of values that use all images; the others compare the first images pairwise."""
    return [name for each in choose_metrics().values() if each.needs == ("moments",) for name in each.values]


def label_metric(name: str, features: str) -> str:
    """Return the printed label of a metric: its name and its feature space, unless the name says it."""
    if name.startswith("entanglement") or name.endswith(("_features", "_input")):
        return name
    kind, slash, file = features.rpartition("/")
    return f"{name} ({kind[: kind.rfind(':') + 1] + file if slash else features})"  # without the folders of a path


def describe_resizes(extractor: Extractor, fake: ImageSource, real: ImageSource) -> str:
    """Return what is done to the images of each side, and then by the extractor, in words; "none" for nothing."""
    sides = fake.resize if fake.resize == real.resize else f"fake: {fake.resize}; real: {real.resize}"
    if extractor.resize == "none":
        return sides
    return extractor.resize if sides == "none" else f"{sides}; then {extractor.resize}"
