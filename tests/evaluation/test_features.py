from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from snngan.data import Dataset, to_unit_range
from snngan.evaluation.feature_classifier import load_or_train_features
from snngan.evaluation.features import ExportedNetwork, Inception, Pixels, fetch


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


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"cannot find Inception weights at .*: fetch them with --download, .* inception:FILE"
    ):
        Inception()
    with pytest.raises(ValueError, match=r"cannot find the file .*none\.pth"):
        Inception(tmp_path / "none.pth")


def test_weights_are_downloaded_completely_or_not_at_all(tmp_path: Path) -> None:
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, kept in ((digest, True), ("0" * 8, False)):
        source, target = tmp_path / f"net-{name}.pth", tmp_path / "hub" / f"{kept}.pth"
        source.write_bytes(content)
        if kept:
            fetch(source.as_uri(), target)
            assert target.read_bytes() == content
        else:
            with pytest.raises(ValueError, match=r"could not be fetched as .* \(invalid hash value"):
                fetch(source.as_uri(), target)
    with pytest.raises(ValueError, match="could not be fetched"):
        fetch((tmp_path / "none-01234567.pth").as_uri(), tmp_path / "hub" / "none.pth")
    assert [path.name for path in (tmp_path / "hub").iterdir()] == ["True.pth"]


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pt2"])
def test_other_files_are_refused_and_no_code_runs(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"bad{suffix}"
    for content in (b"", b"no network", pickle.dumps(Payload())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"does not hold|is not a network"):
            Inception(path) if suffix == ".pth" else ExportedNetwork(path)
    torch.save(Payload(), path)
    with pytest.raises(ValueError, match=r"does not hold|is not a network"):
        Inception(path) if suffix == ".pth" else ExportedNetwork(path)
    assert not Path("ran").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match="does not hold the weights of pytorch-fid's InceptionV3"):
        Inception(tmp_path / "linear.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("form", ["script", "export"])
def test_a_network_of_the_user(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    images = torch.randint(256, (5, 1, 6, 6), dtype=torch.uint8)
    path = tmp_path / ("net.pt" if form == "script" else "net.pt2")
    if form == "script":
        torch.jit.trace(network, torch.zeros(1, 1, 6, 6)).save(str(path))  # type: ignore[no-untyped-call]
    else:
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 6, 6),), dynamic_shapes=({0: batch},)), path)
    extractor = ExportedNetwork(path)
    assert_close(extractor(images), network(to_unit_range(images)).flatten(1).detach())
    with pytest.raises(ValueError, match=r"net.* does not take images \(5, 3, 6, 6\)"):
        extractor(images.repeat(1, 3, 1, 1))


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
    found: list[Tensor] = [extractor(digits.test_images[:9]) for extractor in (first, again)]
    assert_close(*found, rtol=0, atol=0)
    assert found[0].shape == (9, 128)
    with pytest.raises(ValueError, match=r"takes images \(1, 8, 8\), got \(3, 8, 8\): use --features inception"):
        first(digits.test_images[:2].repeat(1, 3, 1, 1))
    next(tmp_path.glob("*.pt")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="does not hold such a classifier"):
        load_or_train_features(digits, tmp_path)


def test_points_have_no_picture_features() -> None:
    points = torch.zeros(4, 1, 1, 2)
    assert Pixels()(points).shape == (4, 2)
    with pytest.raises(ValueError, match="features are trained on pictures"):
        load_or_train_features(Dataset("points", points, torch.zeros(4).long(), points, None), Path("nowhere"))


def test_one_class_trains_no_features(digits: Dataset, tmp_path: Path) -> None:
    assert digits.train_labels is not None
    alone = replace(digits, train_labels=torch.zeros_like(digits.train_labels), test_labels=None)
    with pytest.raises(ValueError, match="of 2 classes or more; use --features inception or pixels"):
        load_or_train_features(alone, tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_large_classifiers_are_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snngan.evaluation.memory.available_bytes", lambda: 2.0**30)
    images = torch.zeros(4, 1, 1024, 1024, dtype=torch.uint8)
    large = Dataset("large", images, torch.arange(4) % 2, images, None)
    with pytest.raises(
        ValueError, match=r"needs about 5.* GiB of memory, and 1.0 GiB are available: use a smaller --im"
    ):
        load_or_train_features(large, tmp_path)
