"""Metrics of two sets of images: which images and features they use, their protocol, and what is printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from snngan.evaluation import measure
from snngan.evaluation.features import Pixels, extract_features
from snngan.evaluation.measure import Evaluation, evaluate, evaluate_sources, label_metric
from snngan.evaluation.sources import FidStatistics, ImageSource, array_source, open_source, open_statistics
from snngan.metrics import METRICS, metric_values


def pictures(count: int, side: int, seed: int = 0) -> ImageSource:
    rng = torch.Generator().manual_seed(seed)
    return array_source(f"noise-{seed}", torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=rng))


class Counted(Pixels):
    """Pixels that count the images they are asked for."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().__call__(images)


def test_large_images_build_no_covariance() -> None:
    """With 120000 pixels a covariance would take 115 GB."""
    found = evaluate_sources(pictures(8, 200), pictures(7, 200, 1), Pixels())
    assert set(found.metrics) == set(metric_values()) - set(METRICS["copying"].values)


@pytest.mark.parametrize("side", [2, 4])
def test_pixel_fid_equals_torch_fidelity(side: int) -> None:
    """There are 12 and 48 pixels, fewer or more than images."""
    sides = pictures(40, side), pictures(50, side, 1)
    statistics = [fid_features_to_statistics(extract_features(Pixels(), each.first(50)).double()) for each in sides]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert evaluate_sources(*sides, Pixels(), metrics=("fid",)).metrics["fid"] == pytest.approx(expected, rel=1e-6)


class Halves(Counted):
    """The upper half of each image, counted."""

    name = digest = "halves"

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images[:, :, : images.shape[2] // 2])


def held_out(training: ImageSource, seed: int = 1) -> ImageSource:
    assert training.count is not None
    return replace(pictures(40, 4, seed), training=training.first(training.count))


@pytest.mark.parametrize("cache", [False, True])
def test_copies_of_training_images(cache: bool, tmp_path: Path) -> None:
    """The features of training images are computed once."""
    training, extractors = pictures(70, 4), (Halves(), Halves())
    found = [
        evaluate_sources(training, held_out(training), each, count=50, cache=tmp_path if cache else None)
        for each in extractors
    ]
    for each in found:
        assert each.metrics["nearest_features"] == pytest.approx(0, abs=1e-6)
        assert each.metrics["nearest_input"] == pytest.approx(0, abs=1e-6)
        assert each.metrics["copies_features"] == each.metrics["copies_input"] == 1
    assert extractors[0].seen - extractors[1].seen == (40 + 70 if cache else 0)


def test_training_images_that_changed_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    """The held-out images, whose digest is that of the source, are the same."""
    copies = pictures(70, 4)
    for training, is_copied in ((copies, True), (pictures(70, 4, 5), False)):
        found = evaluate_sources(copies, held_out(training), Halves(), metrics=("copying",), cache=tmp_path)
        assert (found.metrics["copies_features"] == 1) == is_copied


def test_gray_training_images_of_color_samples() -> None:
    gray = array_source("gray", pictures(50, 4).first(50)[:, :1])
    real = replace(array_source("held out", pictures(40, 4, 1).first(40)[:, :1]), training=gray.first(50))
    for extractor in (Pixels(), Halves()):
        found = evaluate_sources(gray.with_channels(3), real, extractor, metrics=("copying",))
        assert found.metrics["copies_features"] == 1


@pytest.mark.parametrize("metrics", [("fid",), ("kid",), None])
@pytest.mark.parametrize("side", [2, 8])
def test_a_cached_reference_is_not_read_again(metrics: tuple[str, ...] | None, side: int, tmp_path: Path) -> None:
    sides = pictures(130, side), pictures(140, side, 1)
    extractors = Counted(), Counted()
    found = [evaluate_sources(*sides, each, metrics=metrics, pairwise_count=20, cache=tmp_path) for each in extractors]
    assert found[0].metrics == found[1].metrics
    assert extractors[0].seen - extractors[1].seen == (140 if metrics is None or "fid" in metrics else 20)


def test_the_cache_depends_on_metrics_and_resize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = pictures(30, 4), pictures(30, 4, 1)
    for real in (sides[1], replace(sides[1], resize="otherwise")):
        for metrics in (("fid",), ("kid",)):
            evaluate_sources(sides[0], real, Pixels(), metrics=metrics, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(measure, "MAX_CACHED_DIMS", 47)
    evaluate_sources(*sides, Pixels(), metrics=("kid",), count=20, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_too_little_memory_is_an_error_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snngan.memory.available_bytes", lambda: 2.0**22)
    extractor = Counted()
    with pytest.raises(
        ValueError, match=r"measuring fid, kid of 40 images in 12288 dimensions needs .* smaller --count,"
    ):
        evaluate_sources(pictures(40, 64), pictures(40, 64), extractor, metrics=("fid", "kid"))
    assert extractor.seen == 4
    fake, real = pictures(10, 64), replace(pictures(10, 64), training=pictures(200, 64).first(200))
    with pytest.raises(ValueError, match="measuring kid, copying of 10 images in 6144 dimensions"):
        evaluate_sources(fake, real, Halves(), metrics=("kid", "copying"))
    assert evaluate_sources(fake, real, Pixels(), metrics=("kid", "copying")).metrics  # the features are at hand
    assert evaluate_sources(pictures(40, 64), pictures(40, 64), extractor, metrics=("kid",), count=10).metrics


def test_printed_metrics_have_their_direction() -> None:
    values = dict.fromkeys(metric_values(), -1.234e-05)
    protocol = {
        "fake": "run a", "real": "digits test", "num_fake": 50, "num_real": 40, "pairwise_count": 40, "features": 128,
        "extractor": "pixels", "extractor_digest": "pixels", "resize": "none", "seed": 0, "step": None,
    }  # fmt: skip
    lines = list(Evaluation(values, {"kid": (-1.234e-05, 1.234e-05)}, protocol).lines())
    printed = lines[lines.index("all but fid over the first 40 of each") + 1 :]
    assert max(map(len, printed)) <= 80
    assert printed.pop(2) == "    95 % interval: -1.234e-05 to 1.234e-05"
    for (name, value), line in zip(metric_values().items(), printed, strict=True):
        assert line.strip().startswith(name)
        assert line.endswith(f"-1.234e-05  {value.direction}")


@pytest.mark.parametrize(
    ("features", "label"),
    [
        ("classifier:mnist-5k", "fid (classifier:mnist-5k)"),
        ("classifier:folder:/some/where/pictures", "fid (classifier:folder:pictures)"),
        ("inception:/some/where/weights.pth", "fid (inception:weights.pth)"),
        ("some/nets.py:features", "fid (nets.py:features)"),
    ],
)
def test_a_label_names_the_features(features: str, label: str) -> None:
    assert label_metric("fid", features) == label


def test_resizes_in_the_protocol(tmp_path: Path) -> None:
    from PIL import Image

    images = pictures(20, 20).first(20)
    np.savez(tmp_path / "pictures.npz", images=images.numpy())
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number:02}.png")
    names = f"folder:{tmp_path}/pictures", f"npz:{tmp_path}/pictures.npz"
    whole, small = ([open_source(name, image_size=size) for name in names] for size in (None, 8))
    for (folder, npz), resize in ((whole, "none"), (small, "center crop, Pillow bicubic to 8x8")):
        found = evaluate_sources(folder, npz, Pixels(), metrics=("fid",))
        assert found.protocol["resize"] == resize == npz.resize
        assert found.metrics["fid"] < 1e-6
    found = evaluate_sources(pictures(9, 8), small[0], Pixels(), metrics=("fid",))
    assert found.protocol["resize"] == f"fake: none; real: {resize}"

    class Shrinking(Pixels):
        resize = "by half"

    found = evaluate_sources(*small, Shrinking(), metrics=("fid",))
    assert found.protocol["resize"] == f"{resize}; then by half"


@pytest.fixture
def statistics(tmp_path: Path) -> Callable[..., FidStatistics | None]:
    """Return a function that writes the FID statistics of images in their pixels, and reads them."""

    def write(source: ImageSource) -> FidStatistics | None:
        features = extract_features(Pixels(), source.first(10**6)).numpy().astype(np.float64)
        path = tmp_path / f"{source.name}.npz"
        np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
        return open_statistics(path)

    return write


@pytest.mark.parametrize(("count", "other"), [(30, 30), (100, 30), (30, 100), (100, 100)])
def test_fid_statistics_as_reference(count: int, other: int, statistics: Callable[..., FidStatistics]) -> None:
    """In 48 dimensions."""
    fake, real = pictures(count, 4), pictures(other, 4, 1)
    notes: list[str] = []
    found = evaluate_sources(fake, statistics(real), Pixels(), metrics=("fid", "kid"), notify=notes.append)
    expected = evaluate_sources(fake, real, Pixels(), metrics=("fid",)).metrics
    assert found.metrics == pytest.approx(expected, rel=1e-6)
    assert (found.protocol["num_fake"], found.protocol["num_real"]) == (count, None)
    assert notes[0] == "kid: left out, noise-1.npz holds FID statistics, which give fid only"
    assert "against noise-1.npz" in next(found.lines())


def test_fid_statistics_of_other_features_are_refused(statistics: Callable[..., FidStatistics]) -> None:
    real = statistics(pictures(30, 4))
    with pytest.raises(ValueError, match=r"the 48 dimensions of the statistics in .*, and those of pixels have 192: "):
        evaluate_sources(pictures(30, 8), real, Pixels(), metrics=("fid",))
    with pytest.raises(ValueError, match="FID statistics, which give fid only, got --metrics kid,prdc"):
        evaluate_sources(pictures(30, 4), real, Pixels(), metrics=("kid", "prdc"))


def test_a_file_of_images_holds_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((4, 1, 8, 8), np.uint8))
    for text in (f"npz:{tmp_path / 'images.npz'}", str(tmp_path), "digits"):
        assert open_statistics(text) is None


def test_too_few_images_leave_metrics_out() -> None:
    notes: list[str] = []
    names = ("kid", "prdc", "1nn")
    found = evaluate_sources(pictures(5, 4), pictures(9, 4, 1), Pixels(), metrics=names, notify=notes.append)
    assert set(found.metrics) == {"kid"}
    assert notes == ["prdc, 1nn: left out, needing 6 or more images per side, got 5"]


def test_a_tensor_is_evaluated_like_a_file(tmp_path: Path) -> None:
    images, reference = pictures(30, 4).first(30), pictures(40, 4, 1).first(40)
    np.savez(tmp_path / "images.npz", images=images.numpy())
    np.savez(tmp_path / "reference.npz", images=reference.numpy())
    expected = evaluate(str(tmp_path / "images.npz"), tmp_path / "reference.npz", features="pixels", data_dir=tmp_path)
    for each in (images, images.float() / 127.5 - 1):
        found = evaluate(each, reference, features="pixels", data_dir=tmp_path)
        assert found.metrics == expected.metrics
        assert found.protocol["fake_digest"] == expected.protocol["fake_digest"]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(9, 8, 8), {}, r"must have the shape \(N, C, H, W\), got \(9, 8, 8\)"),
        (torch.full((9, 1, 8, 8), 2.0), {}, r"must be uint8, or float in \[-1, 1\]"),
        (torch.zeros(9, 1, 8, 8), {"reference": None}, "tensor is not a run folder, which knows its data set"),
        (torch.zeros(9, 1, 8, 8), {"metrics": ["kdi"]}, "unknown metric 'kdi'; did you mean 'kid'"),
        (torch.zeros(9, 1, 8, 8), {"count": 1}, "count and pairwise_count must be 2 or more, got 1 and 5000"),
        (torch.zeros(9, 1, 8, 8), {"split": "half"}, "split must be 'test' or 'train', got 'half'"),
    ],
)
def test_wrong_arguments(images: Tensor, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(images, **{"reference": "digits", "features": "pixels", "data_dir": tmp_path} | options)
