"""``snngan evaluate`` and ``snngan compare``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
<<<<<<< HEAD
    assert (protocol["split"], protocol["seed"]) == ("test", 0)
    assert protocol["extractor"] == "classifier:digits"
    assert len(protocol["extractor_digest"]) == 32
=======
>>>>>>> main


def test_features_are_trained_without_a_run(cli: Cli) -> None:
    said = cli("evaluate --features classifier:digits --device cpu")
    assert "training a small classifier of digits for its features, about a minute; kept in " in said.err
    assert "accuracy of this classifier on held-out images: " in said.err


def test_a_set_against_itself(cli: Cli) -> None:
    said = cli("evaluate digits --reference digits --features pixels --count 150 --json")
    metrics = json.loads(said.out)["metrics"]
    assert metrics["fid"] < 1e-6
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1, 1, 1)


<<<<<<< HEAD
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate", "name what to evaluate"),
        ("evaluate --features pixels", "name what to evaluate, .*: --features classifier:NAME"),
        ("evaluate run --features inception:none.pth", "cannot find Inception weights at none.pth"),
        ("evaluate run --features inception", "cannot find Inception weights at .*: fetch them with --download"),
        (
            "evaluate run --features pixels --download",
            "--download fetches Inception weights: give --features inception",
        ),
        (
            "evaluate run --features classifier:",
            "--features must be classifier:NAME, inception, inception:FILE, pixels",
        ),
        ("evaluate run --features classifier:digist", "unknown dataset 'digist'; did you mean 'digits'"),
        ("evaluate run --features inceptoin", "--features must be classifier:NAME, .*, got 'inceptoin'"),
        ("evaluate run --features no_nets:net", "--features no_nets: it cannot be imported"),
        ("evaluate run --features pixels --metrics fid,kdi", "unknown metric 'kdi'; did you mean 'kid'"),
        ("evaluate nowhere/run --features pixels --reference digits", "nowhere/run is not a run folder"),
        (
            "evaluate digits --features pixels",
            "digits is not a run folder, .*: name the real images by --reference SET",
        ),
        ("compare run", "Missing argument 'B'"),
        ("entangle run", "Missing argument 'B'"),
        ("evaluate run --points 30", "no option --points: use --pairwise-count"),
        ("compare run digist", "unknown dataset 'digist'; did you mean 'digits'"),
        ("compare run digits --features pixels --space pixel", "need --space features, got --space pixel"),
        ("compare digits digits --space projection", "--space projection needs a run among A and B"),
        ("compare digits digits --out run", "run exists already: give another --out, or --force to replace it"),
    ],
)
def test_mistakes(refused: Cli, run: Path, command: str, message: str) -> None:
    refused(command, message)


def test_compare_two_sets(cli: Cli, run: Path, tmp_path: Path) -> None:
=======
def test_compare_two_sets(cli: Cli, run: Path) -> None:
>>>>>>> main
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


def test_two_runs_have_different_noise(cli: Cli, run: Path) -> None:
    content = json.loads(cli(f"evaluate {run} --reference {run} --features pixels --count 60 --json").out)
    assert (content["protocol"]["seed"], content["protocol"]["real_seed"]) == (0, 1)
    assert content["metrics"]["1nn_accuracy"] > 0.2  # each image would have its twin
    compared = json.loads(cli(f"compare {run} {run} --count 60 --json").out)
    assert (compared["real_seed"], compared["fake_seed"]) == (1, 0)
    assert compared["p_value"] < 1


<<<<<<< HEAD
def test_features_are_found_in_the_data_folder_of_the_run(cli: Cli) -> None:
    run = train(cli, "digits", "one", "--data-dir", "elsewhere")
    words = f"evaluate {run} --features classifier:digits --metrics fid"
    kept = cli(f"{words} --data-dir elsewhere").err
    assert "training a small classifier of digits for its features, about a minute; kept in elsewhere/features" in kept
    before = {path: path.stat().st_mtime_ns for path in Path("elsewhere").rglob("*")}
    assert "training" not in cli(words).err
    assert "training" not in cli(f"evaluate {run} --metrics fid").err  # the default is the same classifier
    assert {path: path.stat().st_mtime_ns for path in Path("elsewhere").rglob("*")} == before


def test_a_data_set_name_comes_before_a_folder(cli: Cli, refused: Cli) -> None:
    Path("digits").mkdir()
    assert "of digits test" in cli("compare digits digits --count 20").out
    refused("compare digits folder:", "folder: needs a path after the colon")


def test_results_are_shown_if_nothing_can_be_saved(cli: Cli, refused: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise SaveError(f"{path} could not be written: No space left on device")

    monkeypatch.setattr("snngan.files.write_atomically", full)
    said = cli("evaluate digits --reference digits --features classifier:digits --metrics fid")
    assert "  fid (classifier:digits) " in said.out
    assert said.err.count("No space left on device; going on without") == 2
    Path("file").write_text("")
    refused("compare digits digits --out file/out", "file/out cannot be created: ")


def test_a_function_that_returns_no_features(refused: Cli) -> None:
    Path("own_odd.py").write_text("import torch\nflat = torch.flatten\n")
    message = r"own_odd:flat must return features \(2, D\), got \(128,\)"
    refused("evaluate digits --reference digits --features own_odd:flat", message)


def test_projection_needs_images_of_the_shape_of_the_run(cli: Cli, refused: Cli, run: Path) -> None:
    np.savez("large.npz", images=np.zeros((9, 1, 9, 9), np.uint8))
    refused(
        f"compare large.npz {run} --space projection", r"space of run run takes images \(1, 8, 8\), got \(1, 9, 9\)"
    )
    np.savez("none.npz", images=np.zeros((0, 1, 8, 8), np.uint8))
    refused("compare digits none.npz", "none.npz")


def test_a_page_does_not_replace_a_folder(refused: Cli, run: Path) -> None:
    Path("place").mkdir()
    refused(f"report {run} --out place --force", "--out place is a folder; give a file name$")


def test_a_run_on_labeled_pictures_needs_no_options(cli: Cli) -> None:
    """Its data are read, and the features are kept, where the run says."""
    run = train(cli, "digits", "one", "--data-dir", "elsewhere")
    said = cli(f"evaluate {run}")
    assert "training a small classifier of digits for its features, about a minute; kept in " in said.err
    assert len(list(Path("elsewhere/features").glob("digits-*.safetensors"))) == 1
=======
def test_a_run_on_labeled_images_needs_no_options(cli: Cli) -> None:
    """Its data are read where the run says, and the features are written to the user's data folder."""
    run = train(cli, "digits", "one", "--data-dir", "elsewhere")
    said = cli(f"evaluate {run}")
    assert "training a small classifier of digits for its features, about a minute; kept in " in said.err
    assert len(list(Path("data/features").glob("digits-*"))) == 1
    assert not Path("elsewhere/features").exists()
>>>>>>> main
    assert re.search(r"  fid \(classifier:digits\) +[0-9.e+]+  lower is better\n", said.out)
    assert re.search(r"  1nn_accuracy \(classifier:digits\) +[0-9.e+]+  0.5 is ideal\n", said.out)
    assert max(map(len, said.out.partition("next:\n")[0].splitlines())) <= 80
    again = cli(f"evaluate {run} --json")
    assert "training" not in again.err
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


<<<<<<< HEAD
def test_two_sizes_train_no_features(refused: Cli) -> None:
    np.savez("other.npz", images=np.zeros((20, 1, 9, 9), np.uint8))
    refused("evaluate other.npz --reference digits", "which cannot be compared in pixels: give --image-size")


def test_features_imply_the_space(cli: Cli) -> None:
    digits = "compare digits digits --count 20 --json --device cpu"
    for words, name in (
        ("--features classifier:digits", "classifier:digits"), ("--space features", "classifier:digits"),
        ("--features pixels", "pixels"), ("", "pixels"),
    ):  # fmt: skip
        assert json.loads(cli(f"{digits} {words}").out)["extractor"] == name


@pytest.mark.parametrize("command", ["evaluate {0} --reference {0} --features pixels --json", "compare {0} {0} --json"])
def test_skip_broken(cli: Cli, refused: Cli, command: str) -> None:
    Path("broken").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(f"broken/{number:02}.png")
    Path("broken/13.png").write_bytes(Path("broken/00.png").read_bytes()[:60])
    Path("broken/14.jpg").write_bytes(b"no picture")
    refused(command.format("folder:broken"), r"broken/1[34]\.", notes=0)
    content = json.loads(cli(f"{command.format('folder:broken')} --skip-broken").out)
    assert content.get("protocol", content)["num_real"] == 12


def test_download_of_weights(cli: Cli, refused: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_fid import inception

    content = b"these are no weights"
    wrong, right = Path("net-01234567.pth"), Path(f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    kept = Path("torch/hub/checkpoints", INCEPTION_FILE)
    for path in (wrong, right):
        path.write_bytes(content)
    for command in ("evaluate digits --reference digits --download", "compare digits digits --download"):
        monkeypatch.setattr(inception, "FID_WEIGHTS_URL", wrong.absolute().as_uri())
        said = cli(command, 2)
        assert "could not be fetched as " in said.err
        assert "invalid hash value" in said.err
        assert not list(kept.parent.iterdir())
        monkeypatch.setattr(inception, "FID_WEIGHTS_URL", right.absolute().as_uri())
        said = cli(f"{command} --features inception", 2)
        assert f"fetching {right.absolute().as_uri()} as " in said.err
        assert "does not hold the weights of pytorch-fid's InceptionV3" in said.err
        assert kept.read_bytes() == content
        assert "fetching" not in cli(command, 2).err
        kept.unlink()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 1 byte")])
def test_out_of_memory_names_options_of_the_command(
    refused: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("snngan.evaluation.measure.collect_statistics", fail)
    refused(
        "evaluate digits --reference digits --features pixels",
        "out of memory: use a smaller --count, --pairwise-count or --image-size, or fewer --metrics",
    )
    monkeypatch.setattr("snngan.evaluation.two_sample_report.compare_features", fail)
    refused("compare digits digits", "out of memory: use a smaller --count or --image-size$")


def test_fid_statistics_of_another_tool(cli: Cli, refused: Cli) -> None:
    points = load_dataset("digits").test_images.flatten(1).double().numpy() / 127.5 - 1
    np.savez("statistics.npz", mu=points.mean(0), sigma=np.cov(points, rowvar=False))
    for name in ("statistics.npz", "npz:statistics.npz"):
        said = cli(f"evaluate digits --reference {name} --features pixels --json")
        assert json.loads(said.out)["metrics"]["fid"] < 1e-6
        assert "left out, statistics.npz holds FID statistics, which give fid only" in said.err
    # Such files are made with Inception features.
    refused("evaluate digits --reference statistics.npz", "cannot find Inception weights at ")
    refused(
        "evaluate digits --reference statistics.npz --features pixels --metrics kid", "give fid only, got --metrics kid"
    )
    np.savez("other.npz", images=np.zeros((20, 1, 9, 9), np.uint8))
    refused("evaluate other.npz --reference statistics.npz --features pixels", "64 dimensions .* pixels have 81")
=======
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_network_that_returns_no_features(refused: Cli) -> None:
    torch.jit.trace(torch.nn.Flatten(0), torch.rand(2, 1, 8, 8)).save("odd.pt")  # type: ignore[no-untyped-call]
    refused("evaluate digits --reference digits --features odd.pt", r"must return features \(2, D\), got \(128,\)")
>>>>>>> main
