from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from snngan.evaluation.choice import open_statistics
from torch import Tensor

from snngan.data import Dataset
from snngan.evaluation import measure
from snngan.evaluation.features import Pixels, features_of
from snngan.evaluation.measure import DIRECTIONS, Evaluation, evaluate, evaluate_beside_statistics, label_of
from snngan.evaluation.memory import available_bytes
from snngan.evaluation.sources import ImageSource, dataset_source, open_source


def pictures(count: int, side: int, seed: int = 0) -> ImageSource:
    images = torch.randint(
        256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return dataset_source(Dataset(f"noise-{seed}", images, None, images, None), "test")


class Counted(Pixels):
    """Pixels that count the images they are asked for."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().__call__(images)


@pytest.mark.parametrize(
    "metrics", [("fid",), ("kid",), ("prdc",), ("1nn",), ("entanglement",), tuple(measure.METRICS)]
)
def test_large_pictures_take_no_covariance(metrics: tuple[str, ...], tmp_path: Path) -> None:
    """With 120000 pixels a covariance would take 115 GB."""
    sides = pictures(8, 200), pictures(7, 200, 1)
    found = evaluate(*sides, Pixels(), metrics=metrics, cache=tmp_path)
    assert found.figures
    again = evaluate(*sides, Pixels(), metrics=metrics, cache=tmp_path)
    assert again.figures == found.figures
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5 * 10**6  # 4 bytes for each of 7 x 120000


@pytest.mark.parametrize("side", [2, 4, 8])
def test_pixel_fid_is_that_of_the_full_covariance(side: int) -> None:
    """With 12, 48 and 192 pixels, of which 40 images are more or fewer."""
    sides = pictures(40, side), pictures(50, side, 1)
    points = [features_of(Pixels(), each.first(50)).double() for each in sides]
    means, covariances = [each.mean(0) for each in points], [each.T.cov() for each in points]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    expected = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * product
    found = evaluate(*sides, Pixels(), metrics=("fid",)).figures["fid"]
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("metrics", [("fid",), ("kid",), ("fid", "kid")])
@pytest.mark.parametrize("side", [2, 8])
def test_a_reference_is_looked_at_once(metrics: tuple[str, ...], side: int, tmp_path: Path) -> None:
    sides = pictures(30, side), pictures(40, side, 1)
    extractors = Counted(), Counted()
    found = [evaluate(*sides, each, metrics=metrics, points=20, cache=tmp_path).figures for each in extractors]
    assert found[0] == found[1]
    looked_at = 40 if "fid" in metrics else 20
    assert extractors[0].seen - extractors[1].seen == looked_at
    (path,) = tmp_path.iterdir()
    kept = torch.load(path, weights_only=True)
    assert ("scatter" in kept) == ("fid" in metrics and side == 2)


def test_a_reference_of_another_metric_or_resize_is_another(tmp_path: Path) -> None:
    sides = pictures(30, 4), pictures(30, 4, 1)
    for real in (sides[1], replace(sides[1], resize="otherwise")):
        for metrics in (("fid",), ("kid",)):
            evaluate(sides[0], real, Pixels(), metrics=metrics, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_large_statistics_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "KEPT_BYTES", 10**5)
    evaluate(pictures(30, 64), pictures(30, 64), Pixels(), metrics=("kid",), cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (("fid",), r"measuring fid of 40 images in 12288 dimensions takes .*: use a smaller --count or --image-size$"),
        (("kid",), "measuring kid .*: use a smaller --count, --points or --image-size$"),
        (("fid", "kid"), "measuring fid, kid .*: use a smaller .* or --image-size, or --metrics without fid$"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_starts(
    metrics: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snngan.evaluation.memory.available_bytes", lambda: 2.0**20)
    extractor = Counted()
    with pytest.raises(ValueError, match=words):
        evaluate(pictures(40, 64), pictures(40, 64), extractor, metrics=metrics)
    assert extractor.seen == 4


def test_the_covariance_of_many_images_counts_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 972 dimensions, of 1000 images: 8 MB a side of covariance, and its roots."""
    monkeypatch.setattr("snngan.evaluation.memory.available_bytes", lambda: 20e6)
    sides = pictures(1000, 18), pictures(1000, 18, 1)
    assert evaluate(*sides, Pixels(), metrics=("kid",), points=100).figures
    with pytest.raises(ValueError, match="measuring fid"):
        evaluate(*sides, Pixels(), metrics=("fid",))


def test_the_limit_of_the_process_counts() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    code = "from snngan.evaluation.memory import available_bytes; print(available_bytes())"
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8 << 30
    assert available_bytes() > 0


def test_printed_metrics_have_their_direction_and_fit_80_columns(tmp_path: Path) -> None:
    for features in ("pixels", "classifier:mnist-5k", f"classifier:npz:{tmp_path}/{'long-' * 12}name.npz", "x" * 90):
        figures = dict.fromkeys(["fid", "kid", *DIRECTIONS], -1.234e-05)
        protocol = {
            "fake": "run a", "real": "digits test", "num_fake": 50, "num_real": 40, "num_points": 40, "features": 128,
            "extractor": features, "extractor_digest": "0123456789ab", "resize": "none", "seed": 0, "step": None,
        }  # fmt: skip
        lines = list(Evaluation(figures, {"kid": (-1.234e-05, 1.234e-05)}, protocol).lines())
        printed = lines[lines.index("all but fid over the first 40 of each") + 1 :]
        assert max(map(len, printed)) <= 80
        assert len(printed) == len(figures) + 1
        for name, line in zip(figures, [line for line in printed if "95 %" not in line], strict=True):
            assert line.strip().startswith(name)
            assert line.endswith(f"-1.234e-05  {DIRECTIONS[name]}")


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
    assert label_of("fid", features) == label


def test_one_resize_for_both_sides_and_both_are_named(tmp_path: Path) -> None:
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
        found = evaluate(sides["folder"], sides["npz"], Pixels(), metrics=("fid",))
        assert found.protocol["resize"] == resize
        assert found.figures["fid"] < 1e-6
    assert "bicubic to 8x8" in small["npz"].resize
    found = evaluate(pictures(9, 8), small["folder"], Pixels(), metrics=("fid",))
    assert found.protocol["resize"] == f"fake: none; real: {small['folder'].resize}"

    class Shrinking(Pixels):
        resize = "by half"

    found = evaluate(small["npz"], small["folder"], Shrinking(), metrics=("fid",))
    assert found.protocol["resize"] == f"{small['npz'].resize}; then by half"


@pytest.fixture
def statistics(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes the FID statistics of pictures in their pixels."""

    def write(source: ImageSource) -> str:
        points = features_of(Pixels(), source.first(10**6)).numpy().astype(np.float64)
        path = tmp_path / f"{source.name.replace(' ', '-')}.npz"
        np.savez(path, mu=points.mean(0), sigma=np.cov(points, rowvar=False))
        return str(path)

    return write


@pytest.mark.parametrize(("count", "other"), [(30, 30), (100, 30), (30, 100), (100, 100)])
def test_fid_statistics_are_a_reference(count: int, other: int, statistics: Callable[..., str]) -> None:
    """Of 48 dimensions."""
    fake, real = pictures(count, 4), pictures(other, 4, 1)
    kept = open_statistics(statistics(real))
    assert kept is not None
    notes: list[str] = []
    found = evaluate_beside_statistics(fake, kept, Pixels(), ("fid", "kid"), 1000, notes.append)
    expected = evaluate(fake, real, Pixels(), metrics=("fid",)).figures
    assert found.figures == pytest.approx(expected, rel=1e-6)
    assert (found.protocol["num_fake"], found.protocol["num_real"]) == (count, None)
    assert notes[0] == "kid: left out, noise-1-test.npz holds FID statistics, which give fid only"
    assert "against noise-1-test.npz" in next(found.lines())


def test_fid_statistics_of_other_features_are_refused(statistics: Callable[..., str]) -> None:
    kept = open_statistics(statistics(pictures(30, 4)))
    assert kept is not None
    with pytest.raises(
        ValueError, match=r"the 48 dimensions of the statistics in .*, and those of pixels have 192: use"
    ):
        evaluate_beside_statistics(pictures(30, 8), kept, Pixels(), ("fid",), 30, print)
    with pytest.raises(ValueError, match="FID statistics, which give fid only, got --metrics kid,prdc"):
        evaluate_beside_statistics(pictures(30, 4), kept, Pixels(), ("kid", "prdc"), 30, print)


def test_a_file_of_images_holds_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((4, 1, 8, 8), np.uint8))
    for text in (str(tmp_path / "images.npz"), f"npz:{tmp_path / 'images.npz'}", str(tmp_path), "digits"):
        assert open_statistics(text) is None
