from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snngan.evaluation import measure
from snngan.evaluation.features import Pixels, extract_features
from snngan.evaluation.measure import Evaluation, evaluate, evaluate_sources, label_metric
from snngan.evaluation.sources import (
    FidStatistics,
    ImageSource,
    array_source,
    open_source,
    open_statistics,
)
from snngan.memory import available_bytes
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


@pytest.mark.parametrize("metrics", [*((name,) for name in METRICS.names()), METRICS.names()])
def test_large_images_build_no_covariance(metrics: tuple[str, ...], tmp_path: Path) -> None:
    """With 120000 pixels a covariance would take 115 GB."""
    sides = pictures(8, 200), pictures(7, 200, 1)
    found = evaluate_sources(*sides, Pixels(), metrics=metrics, cache=tmp_path)
    assert found.metrics
    again = evaluate_sources(*sides, Pixels(), metrics=metrics, cache=tmp_path)
    assert again.metrics == found.metrics
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5 * 10**6  # 4 bytes for each of 7 x 120000


@pytest.mark.parametrize("side", [2, 4, 8])
def test_pixel_fid_equals_that_of_the_full_covariance(side: int) -> None:
    """There are 12, 48 and 192 pixels, fewer or more than images."""
    sides = pictures(40, side), pictures(50, side, 1)
    features = [extract_features(Pixels(), each.first(50)).double() for each in sides]
    means, covariances = [each.mean(0) for each in features], [each.T.cov() for each in features]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    expected = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * product
    found = evaluate_sources(*sides, Pixels(), metrics=("fid",)).metrics["fid"]
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("metrics", [("fid",), ("kid",), ("fid", "kid")])
@pytest.mark.parametrize("side", [2, 8])
def test_a_cached_reference_is_not_read_again(metrics: tuple[str, ...], side: int, tmp_path: Path) -> None:
    sides = pictures(30, side), pictures(40, side, 1)
    extractors = Counted(), Counted()
    options: dict[str, Any] = {"metrics": metrics, "pairwise_count": 20, "cache": tmp_path}
    found = [evaluate_sources(*sides, each, **options).metrics for each in extractors]
    assert found[0] == found[1]
    num_cached = 40 if "fid" in metrics else 20
    assert extractors[0].seen - extractors[1].seen == num_cached
    (path,) = tmp_path.iterdir()
    kept = torch.load(path, weights_only=True)
    assert ("scatter" in kept) == ("fid" in metrics and side == 2)


def test_the_cache_depends_on_metrics_and_resize(tmp_path: Path) -> None:
    sides = pictures(30, 4), pictures(30, 4, 1)
    for real in (sides[1], replace(sides[1], resize="otherwise")):
        for metrics in (("fid",), ("kid",)):
            evaluate_sources(sides[0], real, Pixels(), metrics=metrics, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_large_statistics_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_CACHED_BYTES", 10**5)
    evaluate_sources(pictures(30, 64), pictures(30, 64), Pixels(), metrics=("kid",), cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (("fid",), r"measuring fid of 40 images in 12288 dimensions needs .*: use a smaller --count or --image-size$"),
        (("kid",), "measuring kid .*: use a smaller --count, --pairwise-count or --image-size$"),
        (("fid", "kid"), "measuring fid, kid .*: use a smaller .* or --image-size, or --metrics without fid$"),
    ],
)
def test_too_little_memory_is_an_error_before_the_start(
    metrics: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snngan.evaluation.memory.available_bytes", lambda: 2.0**20)
    extractor = Counted()
    with pytest.raises(ValueError, match=words):
        evaluate_sources(pictures(40, 64), pictures(40, 64), extractor, metrics=metrics)
    assert extractor.seen == 4


def test_only_fid_needs_memory_for_a_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 972 dimensions, a covariance takes 8 MB per side, and so does its root."""
    monkeypatch.setattr("snngan.evaluation.memory.available_bytes", lambda: 20e6)
    sides = pictures(1000, 18), pictures(1000, 18, 1)
    assert evaluate_sources(*sides, Pixels(), metrics=("kid",), pairwise_count=100).metrics
    with pytest.raises(ValueError, match="measuring fid"):
        evaluate_sources(*sides, Pixels(), metrics=("fid",))


def test_memory_limit_of_the_process() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    code = "from snngan.memory import available_bytes; print(available_bytes())"
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8 << 30
    assert available_bytes() > 0


def test_printed_metrics_have_their_direction_and_fit_80_columns(tmp_path: Path) -> None:
    for features in ("pixels", "classifier:mnist-5k", f"classifier:npz:{tmp_path}/{'long-' * 12}name.npz", "x" * 90):
        values = dict.fromkeys(metric_values(), -1.234e-05)
        protocol = {
            "fake": "run a", "real": "digits test", "num_fake": 50, "num_real": 40, "pairwise_count": 40,
            "features": 128, "extractor": features, "extractor_digest": "0123456789ab", "resize": "none",
            "seed": 0, "step": None,
        }  # fmt: skip
        lines = list(Evaluation(values, {"kid": (-1.234e-05, 1.234e-05)}, protocol).lines())
        printed = lines[lines.index("all but fid over the first 40 of each") + 1 :]
        assert max(map(len, printed)) <= 80
        assert len(printed) == len(values) + 1
        for name, line in zip(values, [line for line in printed if "95 %" not in line], strict=True):
            assert line.strip().startswith(name)
            assert line.endswith(f"-1.234e-05  {metric_values()[name].direction}")


@pytest.mark.parametrize(
    ("features", "label"),
    [
        ("classifier:mnist-5k", "fid (classifier:mnist-5k)"),
        ("inception", "fid (inception)"),
        ("classifier:folder:/some/where/pictures", "fid (classifier:folder:pictures)"),
        ("inception:/some/where/weights.pth", "fid (inception:weights.pth)"),
        ("net.pt2", "fid (net.pt2)"),
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
    whole = {kind: open_source(f"{kind}:{tmp_path}/pictures{end}") for kind, end in (("folder", ""), ("npz", ".npz"))}
    small = {
        kind: open_source(f"{kind}:{tmp_path}/pictures{end}", image_size=8)
        for kind, end in (("folder", ""), ("npz", ".npz"))
    }
    for sides, resize in ((whole, "none"), (small, small["npz"].resize)):
        found = evaluate_sources(sides["folder"], sides["npz"], Pixels(), metrics=("fid",))
        assert found.protocol["resize"] == resize
        assert found.metrics["fid"] < 1e-6
    assert "bicubic to 8x8" in small["npz"].resize
    found = evaluate_sources(pictures(9, 8), small["folder"], Pixels(), metrics=("fid",))
    assert found.protocol["resize"] == f"fake: none; real: {small['folder'].resize}"

    class Shrinking(Pixels):
        resize = "by half"

    found = evaluate_sources(small["npz"], small["folder"], Shrinking(), metrics=("fid",))
    assert found.protocol["resize"] == f"{small['npz'].resize}; then by half"


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
    for text in (str(tmp_path / "images.npz"), f"npz:{tmp_path / 'images.npz'}", str(tmp_path), "digits"):
        assert open_statistics(text) is None


def test_too_few_images_leave_metrics_out() -> None:
    notes: list[str] = []
    names = ("kid", "prdc", "1nn")
    found = evaluate_sources(pictures(5, 4), pictures(9, 4, 1), Pixels(), metrics=names, notify=notes.append)
    assert set(found.metrics) == {"kid"}
    assert notes == ["prdc, 1nn: left out, needing 6 or more images per side, got 5"]


def test_a_tensor_is_evaluated_like_a_file(tmp_path: Path) -> None:
    images = pictures(30, 4).first(30)
    reference = pictures(40, 4, 1).first(40)
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
