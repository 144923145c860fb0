"""Inception against pytorch-fid, functions of the user's and small classifiers as features."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from snngan.data import Dataset, to_unit_range
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.features import FunctionFeatures, Inception, Pixels, choose_extractor, fetch
from snngan.evaluation.sources import Reader


@pytest.mark.slow
def test_inception_equals_pytorch_fid(inception_weights: Path, pytorch_fid_network: nn.Module) -> None:
    extractor = Inception(inception_weights)
    images = torch.randint(256, (3, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = extractor(images)
    with torch.no_grad():
        assert_close(found, pytorch_fid_network(images / 255)[0].flatten(1), rtol=0, atol=0)
    assert found.shape == (3, 2048)
    assert float(found.std()) > 0
    gray = images[:, :1]
    assert_close(extractor(gray), extractor(gray.repeat(1, 3, 1, 1)))
    assert len(extractor.digest) == 64


def test_wrong_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"cannot find Inception weights at .*: fetch them with --download, .* inceptio"
    ):
        Inception()
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    (tmp_path / "text.pth").write_bytes(b"no network")
    for name in ("linear", "text"):
        with pytest.raises(ValueError, match="does not hold the weights of pytorch-fid's InceptionV3"):
            Inception(tmp_path / f"{name}.pth")


def test_weights_are_downloaded_completely_or_not_at_all(tmp_path: Path) -> None:
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, message in (
        (digest, ""),
        ("0" * 8, r"could not be fetched as .* \(invalid hash value"),
        ("1" * 8, "fetched"),
    ):
        source, target = tmp_path / f"net-{name}.pth", tmp_path / "hub" / f"{name}.pth"
        if name != "1" * 8:
            source.write_bytes(content)
        if message:
            with pytest.raises(ValueError, match=message):
                fetch(source.as_uri(), target)
        else:
            fetch(source.as_uri(), target)
    (kept,) = (tmp_path / "hub").iterdir()
    assert kept.read_bytes() == content


NETS = """
import torch
weight = torch.ones(())
def double(images):
    return 2 * weight * images.flatten(1)
flat = torch.flatten
nothing = lambda images: None
nan = lambda images: images.flatten(1) / 0 * 0
fails = lambda images: images @ torch.zeros(3)
number = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a module of functions in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own_nets.py"
    path.write_text(NETS)
    return path


def test_a_function_of_the_user(nets: Path) -> None:
    images = torch.randint(256, (5, 1, 6, 6), dtype=torch.uint8)
    for name in ("own_nets:double", f"{nets}:double"):
        extractor = choose_extractor(name, Reader())
        assert extractor.name == name
        assert_close(extractor(images), 2 * to_unit_range(images).flatten(1))
    digests = []
    for weight in (1.0, 1.0, 2.0):
        extractor = FunctionFeatures("own_nets:double")
        extractor.function.__globals__["weight"] = torch.tensor(weight)
        extractor(images)
        digests.append(extractor.digest)
    assert digests[0] == digests[1] != digests[2]  # the digest is that of what the function computes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_nets:flat", r"own_nets:flat must return features \(2, D\), got \(128,\)"),
        ("own_nets:nothing", r"must return features \(2, D\), got NoneType"),
        ("own_nets:nan", "must return finite features, got NaN or infinity"),
        ("own_nets:fails", r"own_nets:fails fails on images \(2, 1, 8, 8\): "),
        ("own_nets:missing", "--features own_nets:missing: the module own_nets has no function missing"),
        ("own_nets:number", "the module own_nets has no function number"),
        ("no_nets:double", "--features no_nets: it cannot be imported: ModuleNotFoundError"),
        ("inceptoin", "--features must be classifier:NAME, .*module:function, got 'inceptoin'"),
        ("classifier:", "--features must be classifier:NAME"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_mistakes_in_the_feature_space(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_extractor(name, Reader())(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_classifier_features_are_trained_once_and_saved(digits: Dataset, tmp_path: Path) -> None:
    lines: list[str] = []
    state = torch.get_rng_state()
    first = load_or_train_features(digits, tmp_path, notify=lines.append)
    assert torch.equal(torch.get_rng_state(), state)
    again = load_or_train_features(digits, tmp_path, notify=lines.append)
    assert lines[0].startswith("training a small classifier of digits for its features, about a minute; kept in ")
    assert lines[1:] == [lines[1]] * 2
    assert float(lines[1].split()[-1].rstrip("%")) > 80
    assert first.digest == again.digest
    found = first(digits.test_images[:9])
    assert_close(again(digits.test_images[:9]), found, rtol=0, atol=0)
    assert found.shape == (9, 128)
    with pytest.raises(ValueError, match=r"takes images \(1, 8, 8\), got \(3, 8, 8\): use --features inception"):
        first(digits.test_images[:2].repeat(1, 3, 1, 1))
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        load_or_train_features(digits, tmp_path)


def test_sets_that_train_no_features(digits: Dataset, tmp_path: Path) -> None:
    points = torch.zeros(4, 1, 1, 2)
    assert Pixels()(points).shape == (4, 2)
    assert digits.train_labels is not None
    for dataset, message in (
        (Dataset("points", points, torch.zeros(4).long(), points, None), "features are trained on pictures"),
        (
            replace(digits, train_labels=torch.zeros_like(digits.train_labels)),
            "of 2 classes or more; use --features in",
        ),
        (replace(digits, train_labels=None), "digits has no labels, and a classifier needs them"),
    ):
        with pytest.raises(ValueError, match=message):
            load_or_train_features(dataset, tmp_path)
    assert not list(tmp_path.iterdir())
