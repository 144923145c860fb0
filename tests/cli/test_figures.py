"""``snngan evaluate`` and ``snngan entangle``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snngan.data.datasets import load_dataset
from snngan.evaluation import twosample

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(twosample, "PERMUTATIONS", 99)
    monkeypatch.setattr(twosample, "RESAMPLES", 20)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_a_run_is_evaluated_in_trained_features(cli: Cli, run: Path) -> None:
    said = cli(f"evaluate {run} --train-features digits --count 40 --points 30 --device cpu")
    assert "24 of npz" in said.out or "24 of few.npz" in said.out
    for name in ("fid", "kid", "precision", "coverage", "1nn_accuracy", "entanglement_input", "entanglement_features"):
        assert f"  {name} " in said.out
    assert "fid: 24 images do not span 128 features" in said.err
    again = cli(f"evaluate {run} --train-features digits --count 40 --points 30 --device cpu --json --metrics fid,prdc")
    content = json.loads(again.out)
    assert set(content["figures"]) == {"fid", "precision", "recall", "density", "coverage"}
    assert f"{content['figures']['fid']:.4g}" in said.out
    protocol = content["protocol"]
    assert (protocol["num_fake"], protocol["num_real"], protocol["num_points"]) == (40, 24, 24)
    assert (protocol["split"], protocol["seed"]) == ("test", 0)
    assert protocol["extractor"] == "small classifier of digits"
    assert len(protocol["extractor_digest"]) == 32


def test_features_are_trained_without_a_run(cli: Cli) -> None:
    said = cli("evaluate --train-features digits --device cpu")
    assert "features: a small classifier of digits -> " in said.err
    assert "its accuracy on held-out images: " in said.err


def test_a_set_against_itself_is_ideal(cli: Cli) -> None:
    said = cli("evaluate digits --against digits --features pixels --count 150 --json")
    figures = json.loads(said.out)["figures"]
    assert figures["fid"] < 1e-6
    assert (figures["precision"], figures["recall"], figures["coverage"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate", "name what to evaluate"),
        ("evaluate run", "no feature space: give --train-features NAME"),
        ("evaluate run --features pixels --train-features digits", "--features and --train-features name two"),
        ("evaluate run --inception-weights none.pth", "no Inception weights at none.pth"),
        ("evaluate run --features none.pt2", "there is no file none.pt2"),
        ("evaluate run --features pixels --metrics fid,kdi", "unknown metric 'kdi'; did you mean 'kid'"),
        ("evaluate nowhere/run --features pixels --against digits", "nowhere/run is no run folder"),
        ("evaluate digits --features pixels", "digits is no run folder, so say what it is held against"),
        ("entangle run", "Missing argument 'B'"),
        ("entangle run digist", "unknown dataset 'digist'; did you mean 'digits'"),
        ("entangle run digits --features pixels", "want --space features, not pixel"),
        ("entangle digits digits --space projection", "--space projection wants a run among the two"),
        ("entangle digits digits --out run", "run exists already: choose another --out"),
    ],
)
def test_mistakes(refused: Cli, run: Path, command: str, message: str) -> None:
    refused(command, message)


def test_two_sets_are_entangled(cli: Cli, run: Path, tmp_path: Path) -> None:
    said = cli(f"entangle digits {run} --count 60 --out compared --device cpu")
    for words in ("entanglement score", "p-value", "corrected", "real anchors of class 7", "compared"):
        assert words in said.out
    assert {path.name for path in Path("compared").iterdir()} == {
        "curve.png", "least-covered.png", "furthest-off.png", "result.json",
    }  # fmt: skip
    for name in ("curve", "least-covered", "furthest-off"):
        with Image.open(Path("compared") / f"{name}.png") as image:
            assert min(image.size) >= 300
    content = json.loads(Path("compared/result.json").read_text())
    said = cli(f"entangle digits {run} --count 60 --json --device cpu")
    assert json.loads(said.out) == content
    assert content["num_real"] == content["num_fake"] == 60
    assert 0 <= content["score_interval"][0] <= content["score"] <= content["score_interval"][1] <= 1


def test_every_space_and_kind_of_source(cli: Cli, run: Path) -> None:
    images = load_dataset("digits").test_images[:30]
    np.savez("some.npz", images=images.numpy())
    Path("folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"folder/{number}.png")
    same = json.loads(cli("entangle some.npz folder --json").out)
    assert same["score"] > 0.99
    assert same["p_value"] > 0.05
    projected = json.loads(cli(f"entangle some.npz {run} --space projection --json --device cpu").out)
    assert projected["extractor"] == "learned space of run run"
    features = json.loads(cli(f"entangle some.npz {run} --space features --train-features digits --json").out)
    assert features["extractor"] == "small classifier of digits"


def test_sets_that_cannot_be_told_apart_are_said_to_be_so(cli: Cli) -> None:
    digits = load_dataset("digits")
    order = torch.randperm(len(digits.train_images), generator=torch.Generator().manual_seed(0))[:200]
    np.savez("first.npz", images=digits.train_images[order[:100]].numpy())
    np.savez("second.npz", images=digits.train_images[order[100:]].numpy())
    assert "not told apart by neighbourhoods" in cli("entangle first.npz second.npz").out


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_images_are_refused(refused: Cli, count: int) -> None:
    np.savez("few.npz", images=np.zeros((count, 1, 8, 8), np.uint8))
    refused("entangle few.npz digits", f"few.npz holds {count} image.*: a comparison takes 4 or more")


def test_images_of_two_sizes_meet_in_features_only(refused: Cli) -> None:
    np.savez("other.npz", images=np.zeros((20, 1, 9, 9), np.uint8))
    refused("entangle digits other.npz", r"images \(1, 8, 8\), .* \(1, 9, 9\): give --image-size, or --space features")
    refused("evaluate other.npz --against digits --features pixels", "which do not meet in pixels: give --image-size")


def test_constant_images_have_figures(cli: Cli) -> None:
    np.savez("grey.npz", images=np.full((20, 1, 8, 8), 128, np.uint8))
    figures = json.loads(cli("evaluate grey.npz --against digits --features pixels --count 20 --json").out)["figures"]
    assert figures["precision"] == 0
    assert figures["entanglement_input_fake_anchors"] < 0.1
    assert "nan" not in cli("entangle digits grey.npz --count 20").out
