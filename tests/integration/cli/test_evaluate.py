"""``snngan evaluate`` and ``snngan compare``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snngan.data.datasets import load_dataset
from snngan.evaluation import two_sample

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 99)
    monkeypatch.setattr(two_sample, "RESAMPLES", 20)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_a_run_in_classifier_features(cli: Cli, run: Path) -> None:
    command = f"evaluate {run} --features classifier:digits --count 40 --pairwise-count 30 --device cpu"
    said = cli(command)
    assert "40 images of run run (step 6) against 24 of npz:" in said.out
    for name in ("fid", "kid", "precision", "coverage", "1nn_accuracy"):
        assert f"  {name} (classifier:digits) " in said.out
    for name in ("entanglement_input", "entanglement_features"):
        assert f"  {name} " in said.out
    assert "fid: 24 images do not span 128 features" in said.err
    content = json.loads(cli(f"{command} --json --metrics fid,prdc").out)
    assert set(content["metrics"]) == {"fid", "precision", "recall", "density", "coverage"}
    assert f"{content['metrics']['fid']:.4g}" in said.out
    protocol = content["protocol"]
    assert (protocol["num_fake"], protocol["num_real"], protocol["pairwise_count"]) == (40, 24, 24)
    assert (protocol["split"], protocol["seed"], protocol["extractor"]) == ("test", 0, "classifier:digits")
    assert Path(run, "evaluations.jsonl").read_text().count("\n") == 2


def test_features_are_trained_without_a_run(cli: Cli) -> None:
    said = cli("evaluate --features classifier:digits --device cpu")
    assert "training a small classifier of digits for its features, about a minute; kept in " in said.err
    assert "accuracy of this classifier on held-out images: " in said.err


def test_a_set_against_itself(cli: Cli) -> None:
    said = cli("evaluate digits --reference digits --features pixels --count 150 --json")
    metrics = json.loads(said.out)["metrics"]
    assert metrics["fid"] < 1e-6
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1, 1, 1)


def test_compare_two_sets(cli: Cli, run: Path) -> None:
    said = cli(f"compare digits {run} --count 60 --out compared --device cpu")
    for words in ("entanglement score", "p-value", "corrected", "real anchors of class 7", "compared"):
        assert words in said.out
    assert {path.name for path in Path("compared").iterdir()} == {
        "curve.png", "least-covered.png", "furthest-off.png", "result.json",
    }  # fmt: skip
    content = json.loads(cli(f"compare digits {run} --count 60 --json --device cpu").out)
    assert content == json.loads(Path("compared/result.json").read_text())
    assert content["num_real"] == content["num_fake"] == 60
    assert 0 <= content["score_interval"][0] <= content["score"] <= content["score_interval"][1] <= 1


def test_every_space_and_kind_of_source(cli: Cli, refused: Cli, run: Path) -> None:
    images = load_dataset("digits").test_images[:30]
    np.savez("some.npz", images=images.numpy())
    Path("folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"folder/{number}.png")
    Path("folder/broken.png").write_bytes(Path("folder/1.png").read_bytes()[:60])
    refused("compare some.npz folder", r"folder/broken\.png cannot be read")
    said = cli("compare some.npz folder --skip-broken")
    assert "not told apart by neighborhoods" in said.out
    for words, extractor in (
        ("folder --space pixel --skip-broken", "pixels"),
        (f"{run} --space projection", "learned space of run run"),
        ("digits --features classifier:digits", "classifier:digits"),
        ("digits --space features", "classifier:digits"),
        ("digits", "pixels"),
    ):
        content = json.loads(cli(f"compare some.npz {words} --count 20 --json --device cpu").out)
        assert content["extractor"] == extractor


def test_images_that_cannot_be_compared(refused: Cli, run: Path) -> None:
    for name, shape in {"few": (3, 1, 8, 8), "none": (0, 1, 8, 8), "other": (20, 1, 9, 9)}.items():
        np.savez(f"{name}.npz", images=np.zeros(shape, np.uint8))
    for command, message in {
        "compare few.npz digits": "few.npz must hold 4 or more images, got 3",
        "compare digits none.npz": "none.npz",
        "compare digits other.npz": r"\(1, 8, 8\), .* \(1, 9, 9\), which cannot be compared",
        "evaluate other.npz --reference digits": "cannot be compared in pixels: give --image-size",
        f"compare other.npz {run} --space projection": r"takes images \(1, 8, 8\), got \(1, 9, 9\)",
    }.items():
        refused(command, message)


def test_constant_images(cli: Cli) -> None:
    np.savez("gray.npz", images=np.full((20, 1, 8, 8), 128, np.uint8))
    metrics = json.loads(cli("evaluate gray.npz --reference digits --features pixels --count 20 --json").out)["metrics"]
    assert metrics["precision"] == 0
    assert metrics["entanglement_input_fake_anchors"] < 0.1
    assert "nan" not in cli("compare digits gray.npz --count 20").out


def train(cli: Cli, dataset: str, name: str, *more: str) -> str:
    tiny = "--objective snnl-pixel --arch mlp --set width=16 --batch-size 16 --steps 2 --device cpu"
    cli([*f"train --dataset {dataset} {tiny} --run-dir {name}".split(), *more])
    return name


def test_a_run_is_compared_with_held_out_images(cli: Cli, refused: Cli) -> None:
    """A tenth of a file without splits is held out; it must not have changed since the training."""
    images = load_dataset("digits").train_images[:100].numpy()
    np.savez("all.npz", images=images)
    run = train(cli, "npz:all.npz", "small", "--image-size", "6")
    protocol = json.loads(cli(f"evaluate {run} --features pixels --json").out)["protocol"]
    assert (protocol["num_real"], protocol["split"], protocol["image_shape"]) == (10, "test", [1, 6, 6])
    np.savez("all.npz", images=images[::-1])
    refused("evaluate small --features pixels", "differ from those the run was started with")


def test_samples_beside_their_nearest_training_images(cli: Cli, refused: Cli, run: Path) -> None:
    command = f"evaluate {run} --features classifier:digits --metrics copying --nearest sheet.png --device cpu"
    said = cli(command)
    names = ["nearest_features", "copies_features", "nearest_input", "copies_input"]
    assert [line.strip().partition("  ")[0] for line in said.out.splitlines()[3:7]] == names
    assert "the first 10, each with its nearest training images in features and in pixels -> sheet.png" in said.out
    before = Path("sheet.png").read_bytes()
    refused(command, "sheet.png exists already: give another --nearest, or --force to replace it")
    said = cli(f"{command} --force --seed 1 --json")
    assert list(json.loads(said.out)["metrics"]) == names
    assert "-> sheet.png" in said.err
    assert Path("sheet.png").read_bytes() != before


def test_two_runs_have_different_noise(cli: Cli, run: Path) -> None:
    content = json.loads(cli(f"evaluate {run} --reference {run} --features pixels --count 60 --json").out)
    assert (content["protocol"]["seed"], content["protocol"]["real_seed"]) == (0, 1)
    assert content["metrics"]["1nn_accuracy"] > 0.2  # each image would have its twin
    compared = json.loads(cli(f"compare {run} {run} --count 60 --json").out)
    assert (compared["real_seed"], compared["fake_seed"]) == (1, 0)
    assert compared["p_value"] < 1


def test_a_run_on_labeled_images_needs_no_options(cli: Cli) -> None:
    """Its data are read where the run says; features are kept in the user's own folder, or found there."""
    run = train(cli, "digits", "one", "--data-dir", "elsewhere")
    said = cli(f"evaluate {run}")
    assert "training a small classifier of digits for its features, about a minute; kept in " in said.err
    (path,) = Path("data/features").glob("digits-*.safetensors")
    assert re.search(r"  fid \(classifier:digits\) +[0-9.e+]+  lower is better\n", said.out)
    assert re.search(r"  1nn_accuracy \(classifier:digits\) +[0-9.e+]+  0.5 is ideal\n", said.out)
    assert max(map(len, said.out.partition("next:\n")[0].splitlines())) <= 80
    again = cli(f"evaluate {run} --json")
    assert "training" not in again.err
    Path("elsewhere/features").mkdir(parents=True)
    path.rename(Path("elsewhere/features", path.name))
    assert "training" not in cli(f"evaluate {run} --metrics kid").err
    assert json.loads(again.out)["protocol"]["extractor"] == "classifier:digits"


def save_labeled(name: str, labels: np.ndarray | None, side: int = 8) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, side, side), dtype=np.uint8)
    np.savez(name, images=images, **({} if labels is None else {"labels": labels}))


def test_features_follow_from_the_reference(cli: Cli) -> None:
    save_labeled("mine.npz", None)
    save_labeled("labeled.npz", np.arange(60) % 3)
    save_labeled("one-class.npz", np.full(60, 7))
    for reference, features in {
        "digits": "classifier:digits",
        "npz:labeled.npz": "classifier:npz:labeled.npz",
        "mine.npz": "pixels",
        "one-class.npz": "pixels",
    }.items():
        said = cli(f"evaluate mine.npz --reference {reference} --json --device cpu")
        assert json.loads(said.out)["protocol"]["extractor"] == features
        assert ("training a small classifier" in said.err) == (features != "pixels")
    run = train(cli, "rings", "points")
    assert json.loads(cli(f"evaluate {run} --count 50 --json").out)["protocol"]["extractor"] == "pixels"
