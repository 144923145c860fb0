"""npz files as data sets: each accepted form, and a clear message for each that is not accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.testing import assert_close

from snngan.data import Dataset
from snngan.data.datasets import load_dataset
from snngan.data.npz import read_images, read_statistics, save_dataset

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
LAST = IMAGES.transpose(0, 2, 3, 1)
LABELS = np.arange(20) % 4


def load(path: Path) -> Dataset:
    return load_dataset(f"npz:{path}")


def load_arrays(path: Path, *unnamed: NDArray[np.generic], **arrays: Any) -> Dataset:
    np.savez(path, *unnamed, **arrays)
    return load(path)


@pytest.mark.parametrize("labeled", [True, False])
def test_saved_data_sets_are_read_back(labeled: bool, tmp_path: Path) -> None:
    images, labels = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    train_labels, test_labels = (labels[:15], labels[15:]) if labeled else (None, None)
    dataset = Dataset("set", images[:15], train_labels, images[15:], test_labels)
    save_dataset(dataset, tmp_path / "new" / "set.npz")
    assert load(tmp_path / "new" / "set.npz").labeled_digest() == dataset.labeled_digest()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.npz"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": IMAGES, "labels": LABELS},
        {"train_images": IMAGES, "train_labels": LABELS},
        {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:0]},
    ],
)
def test_a_tenth_is_held_out_without_test_images(arrays: dict[str, Any], tmp_path: Path) -> None:
    dataset = load_arrays(tmp_path / "samples.npz", **arrays)
    assert len(dataset.train_images) == 18 and len(dataset.test_images) == 2
    assert dataset.train_labels is not None and dataset.train_labels.dtype == torch.int64
    for image, label in zip(dataset.train_images, dataset.train_labels, strict=True):
        row = int(np.flatnonzero((image.numpy() == IMAGES).all((1, 2, 3)))[0])
        assert LABELS[row] == label


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": LAST, "arr_1": LABELS},
        {"arr_0": IMAGES, "arr_1": LABELS[:, None]},
        {"images": LAST, "labels": LABELS.astype(np.uint8)},
        {"images": LAST.astype(np.int64), "labels": LABELS},
        {"images": IMAGES.astype(">u2"), "labels": LABELS},
        {"images": LAST.astype(np.float32) / 127.5 - 1, "labels": LABELS},
        {"images": IMAGES.astype(">f8") / 127.5 - 1, "labels": LABELS},
        {"images": (IMAGES / 127.5 - 1).astype("<f2"), "labels": LABELS},
        {"images": IMAGES, "labels": LABELS, "arr_0": np.zeros(3), "notes": np.array([{}], dtype=object)},
        {"arr_0": LAST, "arr_1": LABELS, "mu": np.ones(2), "sigma": np.eye(2)},
    ],
)
def test_files_of_other_tools_give_the_same_data_set(arrays: dict[str, Any], tmp_path: Path) -> None:
    expected = load_arrays(tmp_path / "ours.npz", images=IMAGES, labels=LABELS)
    found = load_arrays(tmp_path / "theirs.npz", **arrays)
    assert found.labeled_digest() == expected.labeled_digest()
    images, labels, split = read_images(tmp_path / "theirs.npz", "test")
    assert_close(images, torch.from_numpy(IMAGES))
    assert_close(labels, torch.from_numpy(LABELS))
    assert split is None


@pytest.mark.parametrize("available", [8.0, 1e9], ids=["memory-mapped", "in memory"])
@pytest.mark.parametrize("keys", ["x_train y_train x_test y_test", "X_train Y_train X_test Y_test"])
def test_names_of_keras(keys: str, available: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = LAST[:15], LABELS[:15, None], LAST[15:], LABELS[15:, None]
    monkeypatch.setattr("snngan.data.npz.available_bytes", lambda: available)
    dataset = load_arrays(tmp_path / "set.npz", **dict(zip(keys.split(), arrays, strict=True)))
    expected = load_arrays(
        tmp_path / "ours.npz",
        train_images=IMAGES[:15], train_labels=LABELS[:15], test_images=IMAGES[15:], test_labels=LABELS[15:],
    )  # fmt: skip
    assert expected.labeled_digest() == dataset.labeled_digest()
    assert_close(dataset.test_images, torch.from_numpy(IMAGES[15:]))
    assert read_images(tmp_path / "set.npz", "train")[2] == "train"


def test_images_without_names_and_with_one_channel(tmp_path: Path) -> None:
    assert load_arrays(tmp_path / "a.npz", LAST).image_shape == (3, 4, 4)
    assert load_arrays(tmp_path / "b.npz", IMAGES[:, 0]).image_shape == (1, 4, 4)
    assert load_arrays(tmp_path / "c.npz", IMAGES[:, 0, :, :, None]).image_shape == (1, 4, 4)
    first = IMAGES[:, :, :, :3]  # could be either
    load_arrays(tmp_path / "d.npz", images=first)
    assert_close(read_images(tmp_path / "d.npz", "test")[0], torch.from_numpy(first.copy()))


def test_2d_points_stay_floats(tmp_path: Path) -> None:
    points = RNG.uniform(0, 1, (30, 1, 1, 2)).astype(np.float32)
    dataset = load_arrays(tmp_path / "points.npz", images=points)
    assert dataset.is_points and len(dataset.train_images) == 27


NAN = np.full((20, 3, 4, 4), np.nan, np.float32)
SHAPES = r"must be integers or floats \(N, C, H, W\), \(N, H, W, C\) or \(N, H, W\) with C 1 or 3, got "
LEVELS = r"must be integers from 0 \(black\) to 255 or floats from -1 \(black\) to 1, got "
BAD_FILES: list[tuple[dict[str, object], str]] = [
    ({}, "must hold train_images or images, got: nothing"),
    ({"x": IMAGES, "y": LABELS}, "must hold train_images or images, got: x, y"),
    ({"mu": np.ones(3), "sigma": np.eye(3)}, "got: mu, sigma; mu and sigma are for snngan evaluate IMAGES --reference"),
    ({"images": IMAGES.astype(np.int32) * 16}, f"images {LEVELS}int32 0 to 40[0-9]+$"),
    ({"images": (IMAGES > 9).astype(np.int64)}, rf"{LEVELS}int64 0 to 1: save images \* 255 as uint8"),
    ({"arr_0": IMAGES / 255}, rf"arr_0 {LEVELS}float32 0 to 1: save images \* 255 as uint8"),
    ({"images": IMAGES.astype(np.float32)}, f"{LEVELS}float32 0 to 255"),
    ({"images": NAN}, f"{LEVELS}float32 nan to nan"),
    ({"images": IMAGES > 9}, f"{SHAPES}bool"),
    ({"images": IMAGES[0, 0]}, rf"{SHAPES}uint8 \(4, 4\)"),
    ({"arr_0": np.zeros((20, 8, 8, 4), np.uint8)}, rf"arr_0 {SHAPES}uint8 \(20, 8, 8, 4\); images\[\.\.\., :3\]"),
    ({"images": np.zeros((64, 64, 3), np.uint8)}, rf"{SHAPES}uint8 \(64, 64, 3\)"),
    ({"images": IMAGES[..., :0]}, rf"{SHAPES}uint8 \(20, 3, 4, 0\)"),
    ({"train_images": IMAGES, "test_images": np.uint8(3)}, rf"test_images {SHAPES}uint8 \(\)"),
    ({"x_train": IMAGES, "x_test": IMAGES[..., :3]}, r"x_test must be images \(3, 4, 4\) .* like train.*\(3, 4, 3\)"),
    ({"arr_0": IMAGES, "arr_1": IMAGES}, r"arr_1 must be integers \(20,\), one for each image, got uint8 \(20, 3"),
    ({"x_train": IMAGES, "y_train": LABELS / 2}, r"y_train must be integers \(20,\), .* got float64"),
    ({"images": IMAGES, "labels": LABELS[:7]}, r"labels must be integers \(20,\), .* got int64 \(7,\)"),
    ({"images": IMAGES, "labels": LABELS.astype(str)}, r"labels must be integers \(20,\), .* got <U21"),
    ({"images": IMAGES, "labels": LABELS - 1}, "labels must be 0 or more, got -1"),
    ({"images": IMAGES[:1]}, "images must hold 2 training images or more, got 1"),
    ({"train_images": IMAGES[:0], "test_images": IMAGES}, "train_images must hold 2 training images or more, got 0"),
    ({"images": np.array([{}], dtype=object)}, "images cannot be read .*Object arrays.*expected plain arrays"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_FILES)
def test_bad_arrays(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"bad\.npz:? .*{message}") as caught:
        load_arrays(tmp_path / "bad.npz", **arrays)
    assert "\n" not in str(caught.value)


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot find the file .*missing\.npz"):
        load(tmp_path / "missing.npz")
    np.savez_compressed(tmp_path / "whole.npz", images=IMAGES)
    whole = (tmp_path / "whole.npz").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path = tmp_path / "damaged.npz"
    for content in (b"", b"hello", whole[:middle], flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.npz: (the archive|images) cannot be read .*plain arrays"):
            load(path)


def test_files_that_unpack_to_more_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((2**15, 1, 8, 8), np.uint8))
    monkeypatch.setattr("snngan.memory.available_bytes", lambda: float(2**20))
    with pytest.raises(ValueError, match=r"images cannot be read \(it needs about 0\.0 GiB of memory"):
        load(tmp_path / "bomb.npz")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_large_uint8_images_are_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    path = tmp_path / "large.npz"
    arrays = {"train_images": IMAGES[:16], "train_labels": LABELS[:16], "test_images": IMAGES[16:]}
    read = load_arrays(path, **arrays)
    assert not is_mapped()
    monkeypatch.setattr("snngan.data.npz.available_bytes", lambda: 4.0 * 16 * 48)
    mapped = load(path)
    assert is_mapped()
    assert mapped.labeled_digest() == read.labeled_digest()
    path.write_bytes(path.read_bytes().replace(b"(16, 3, 4, 4)", b"(99, 3, 4, 4)"))  # a header that declares more
    with pytest.raises(ValueError, match="train_images cannot be read"):
        load(path)


@pytest.mark.parametrize("how", ["compressed", "floats", "by columns", "three dimensions"])
def test_other_large_images_are_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = IMAGES[:, :1]
    expected, path = load_arrays(tmp_path / "small.npz", images=images), tmp_path / "large.npz"
    monkeypatch.setattr("snngan.data.npz.available_bytes", lambda: 8.0)
    stored = {"floats": images / 127.5 - 1, "by columns": np.asfortranarray(images), "three dimensions": images[:, 0]}
    (np.savez_compressed if how == "compressed" else np.savez)(path, images=stored.get(how, images))
    assert load(path).digest() == expected.digest()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_feature_statistics_are_read_in_float64(dtype: type, save: Any, tmp_path: Path) -> None:
    mu, sigma = np.arange(5).astype(dtype), np.cov(RNG.normal(size=(5, 20))).astype(dtype)
    save(tmp_path / "stats.npz", mu=mu, sigma=sigma, mu_s=mu[:2])
    found = read_statistics(tmp_path / "stats.npz")
    assert found is not None and found[0].dtype == found[1].dtype == np.float64
    np.testing.assert_array_equal(found[0], mu.astype(np.float64))
    np.testing.assert_array_equal(found[1], sigma.astype(np.float64))


@pytest.mark.parametrize(
    "arrays", [{"notes": np.ones(3)}, {"mu": np.ones(3)}, {"images": IMAGES, "mu": np.ones(3), "sigma": np.eye(3)}]
)
def test_files_without_statistics_have_none(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", **arrays)
    assert read_statistics(tmp_path / "some.npz") is None


@pytest.mark.parametrize(
    ("mu", "sigma", "message"),
    [
        (np.ones(3), np.eye(4), r"shapes \(D,\) and \(D, D\), got \(3,\) and \(4, 4\)"),
        (np.ones((1, 3)), np.eye(3), r"got \(1, 3\) and \(3, 3\)"),
        (np.array([1, np.nan]), np.eye(2), "must be finite numbers"),
        (np.ones(2), np.eye(2).astype(str), "must be finite numbers, got float64 and <U"),
        (np.array([{}]), np.eye(2), "mu cannot be read .*Object arrays"),
    ],
)
def test_invalid_statistics_are_refused(
    mu: NDArray[np.generic], sigma: NDArray[np.generic], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(ValueError, match=rf"bad\.npz: .*{message}"):
        read_statistics(tmp_path / "bad.npz")
