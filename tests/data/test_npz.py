"""npz files as data sets: each accepted form, and a clear message for each that is not accepted."""

from __future__ import annotations

import os
import re
from pathlib import Path

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
LABELS = np.arange(20) % 4


def load(path: Path, messages: list[str] | None = None) -> Dataset:
    return load_dataset(f"npz:{path}", notify=([] if messages is None else messages).append)


@pytest.mark.parametrize("labeled", [True, False])
def test_saved_data_sets_are_read_back(labeled: bool, tmp_path: Path) -> None:
    images, labels = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    train_labels, test_labels = (labels[:15], labels[15:]) if labeled else (None, None)
    dataset = Dataset("set", images[:15], train_labels, images[15:], test_labels)
    save_dataset(dataset, tmp_path / "new" / "set.npz")
    back = load(tmp_path / "new" / "set.npz")
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        expected = getattr(dataset, field)
        assert getattr(back, field) is None if expected is None else torch.equal(getattr(back, field), expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.npz"]


def test_a_tenth_of_plain_images_is_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", images=IMAGES, labels=LABELS.astype(np.uint8))
    dataset = load(tmp_path / "samples.npz")
    assert len(dataset.train_images) == 18 and len(dataset.test_images) == 2
    assert dataset.train_labels is not None and dataset.train_labels.dtype == torch.int64
    for image, label in zip(dataset.train_images, dataset.train_labels, strict=True):
        row = int(np.flatnonzero((image.numpy() == IMAGES).all((1, 2, 3)))[0])
        assert LABELS[row] == label


@pytest.mark.parametrize("test_images", [None, np.zeros((0, 3, 4, 4), np.uint8)])
def test_without_test_images_a_tenth_is_held_out(test_images: NDArray[np.uint8] | None, tmp_path: Path) -> None:
    more = {} if test_images is None else {"test_images": test_images}
    np.savez(tmp_path / "set.npz", train_images=IMAGES, **more)  # type: ignore[arg-type]
    assert len(load(tmp_path / "set.npz").test_images) == 2


def test_gray_images_without_a_channel_axis(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "gray.npz", images=IMAGES[:, 0])
    assert load(tmp_path / "gray.npz").image_shape == (1, 4, 4)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_floats_become_uint8(dtype: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bytes.npz", images=IMAGES)
    np.savez(tmp_path / "floats.npz", images=(IMAGES / 127.5 - 1).astype(dtype))
    messages: list[str] = []
    floats = load(tmp_path / "floats.npz", messages)
    assert_close(floats.train_images, load(tmp_path / "bytes.npz").train_images)
    assert messages == []


def test_floats_from_0_to_1_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "floats.npz", images=IMAGES / 255)
    with pytest.raises(ValueError, match=r"with black at -1, got floats 0 to .*: save images \* 2"):
        load(tmp_path / "floats.npz")


def test_2d_points_stay_floats(tmp_path: Path) -> None:
    points = RNG.uniform(-1, 1, (30, 1, 1, 2)).astype(np.float32)
    np.savez(tmp_path / "points.npz", images=points)
    dataset = load(tmp_path / "points.npz")
    assert dataset.is_points and len(dataset.train_images) == 27


NAN = np.full((20, 3, 4, 4), np.nan, np.float32)
SHAPES = r"images must be \(N, C, H, W\) or \(N, H, W, C\) with C 1 or 3, or \(N, H, W\), got shape "
FLOATS = r"images must be floats in \[-1, 1\] or uint8 from 0 to 255, got floats "
LEVELS = "images must be integers from 0 to 255, got "
BAD_FILES: list[tuple[dict[str, object], str]] = [
    ({}, "has neither train_images nor images; it holds: nothing"),
    ({"x": IMAGES, "y": LABELS}, "neither train_images nor images; it holds: x, y"),
    ({"images": IMAGES.astype(np.int32) * 16}, LEVELS + "int32 0 to 40[0-9]+: save them scaled"),
    ({"images": IMAGES.astype(np.int16) - 1}, LEVELS + "int16 -1 to 254"),
    ({"images": (IMAGES > 9).astype(np.int64)}, LEVELS + r"int64 0 to 1: save images \* 255"),
    ({"images": IMAGES.astype(np.uint64) << 56}, LEVELS + "uint64 0 to [0-9]{20}"),
    ({"images": IMAGES > 9}, "images must be uint8 .*, got bool"),
    ({"images": IMAGES.astype(np.complex64)}, "images must be uint8 .*, got complex64"),
    ({"images": IMAGES.astype(np.float32)}, FLOATS + "0 to 255"),
    ({"images": NAN}, FLOATS + "nan to nan"),
    ({"images": np.full_like(NAN, np.inf)}, FLOATS + "inf to inf"),
    ({"images": np.full_like(NAN, -1.01)}, FLOATS + "-1.01"),
    ({"images": IMAGES[0, 0]}, SHAPES + r"\(4, 4\)"),
    ({"images": np.uint8(3)}, SHAPES + r"\(\)"),
    ({"images": IMAGES[None]}, SHAPES + r"\(1, 20, 3, 4, 4\)"),
    ({"images": IMAGES[:, :2]}, SHAPES + r"\(20, 2, 4, 4\)"),
    ({"arr_0": np.zeros((20, 8, 8, 4), np.uint8)}, r"arr_0 must be .*got shape \(20, 8, 8, 4\); images\[\.\.\., :3\]"),
    ({"images": np.zeros((64, 64, 3), np.uint8)}, SHAPES + r"\(64, 64, 3\)"),
    ({"arr_0": IMAGES, "arr_1": IMAGES}, r"arr_1 must have shape \(20,\), one for each image, got \(20, 3, 4, 4\)"),
    (
        {"x_train": IMAGES, "x_test": IMAGES[..., :3]},
        r"x_test must have shape and kind of x_train, \(20, 3, 4, 4\) uint8, got \(20, 3, 4, 3\) uint8",
    ),
    ({"x_train": IMAGES, "y_train": LABELS / 2}, "y_train must be integers, got float64"),
    ({"arr_0": IMAGES / 255}, "arr_0 must be floats .*black at -1, got floats 0 to 1"),
    (
        {"mu": np.ones(3), "sigma": np.eye(3)},
        r"must hold images, got the mean and covariance of features .*snngan eval",
    ),
    ({"images": IMAGES[..., :0]}, SHAPES + r"\(20, 3, 4, 0\)"),
    ({"images": IMAGES, "labels": LABELS[:7]}, r"labels must have shape \(20,\), .*, got \(7,\)"),
    ({"images": IMAGES, "labels": np.eye(20)[LABELS].astype(int)}, r"labels must have shape .*, got \(20, 20\)"),
    ({"images": IMAGES, "labels": LABELS - 1}, "labels must be 0 or more, got -1"),
    ({"images": IMAGES, "labels": LABELS.astype(str)}, "labels must be integers, got <U21"),
    ({"images": IMAGES[:1]}, "images must hold 2 images or more, got 1"),
    ({"images": IMAGES[:0]}, "images must hold training images, got none"),
    ({"train_images": IMAGES[:0], "test_images": IMAGES}, "train_images must hold training images, got none"),
    ({"train_images": IMAGES, "test_images": np.uint8(3)}, r"test_images must be .*got shape \(\)"),
    ({"train_images": IMAGES, "test_images": IMAGES, "test_labels": LABELS[:3]}, r"test_labels must .*got \(3,\)"),
    ({"test_images": IMAGES}, "neither train_images nor images; it holds: test_images"),
    ({"images": np.array([{}], dtype=object)}, "images cannot be read .*expected plain arrays"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_FILES)
def test_bad_arrays(arrays: dict[str, object], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "bad.npz")
    assert re.search(r"bad\.npz", str(caught.value)) and "\n" not in str(caught.value)


def test_other_keys_are_not_even_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=IMAGES, notes=np.array([{}], dtype=object))
    assert len(load(tmp_path / "set.npz").train_images) == 18


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot find the file .*missing\.npz"):
        load(tmp_path / "missing.npz")
    np.save(tmp_path / "bare.npy", IMAGES)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    for name in ("bare.npy", "empty.npz", "text.npz"):
        with pytest.raises(ValueError, match="it is not an npz file, or a damaged one"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder; expected a file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="is not a regular file"):
        load(tmp_path / "pipe.npz")


def test_damaged_files(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", images=IMAGES)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    (tmp_path / "flipped.npz").write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "cut.npz")
    with pytest.raises(ValueError, match=r"flipped\.npz: images cannot be read"):
        load(tmp_path / "flipped.npz")


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_large_uint8_images_are_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    arrays = {"train_images": images[:32], "train_labels": np.arange(32), "test_images": images[32:]}
    path = tmp_path / "large.npz"
    np.savez(path, **arrays)
    read = load_dataset(f"npz:{path}")
    assert not is_mapped(path)
    monkeypatch.setattr("snngan.data.npz.memory_bytes", lambda: 4 * 32 * 192)
    mapped = load_dataset(f"npz:{path}")
    assert is_mapped(path)
    assert_close(mapped.train_images, read.train_images)
    assert_close(mapped.test_images, read.test_images)
    assert mapped.labeled_digest() == read.labeled_digest()
    path.unlink()  # the mapping remains valid
    assert_close(mapped.train_images, read.train_images)


@pytest.mark.parametrize("how", ["compressed", "floats", "by columns", "three dimensions"])
def test_other_large_images_are_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 6), dtype=np.uint8)
    expected, path = load_of(images, tmp_path / "small.npz"), tmp_path / "large.npz"
    monkeypatch.setattr("snngan.data.npz.memory_bytes", lambda: 8)
    if how == "floats":
        np.savez(path, images=images.astype(np.float64) / 127.5 - 1)
    elif how == "compressed":
        np.savez_compressed(path, images=images)
    else:
        np.savez(path, images=np.asfortranarray(images) if how == "by columns" else images[:, 0])
    assert load_dataset(f"npz:{path}").digest() == expected.digest()


def test_truncated_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snngan.data.npz.memory_bytes", lambda: 8)
    path = tmp_path / "large.npz"
    np.savez(path, images=np.zeros((40, 1, 8, 8), dtype=np.uint8))
    whole = path.read_bytes()
    for size in (len(whole) - 100, len(whole) // 2, 60):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="large"):
            load_dataset(f"npz:{path}")
    path.write_bytes(whole.replace(b"(40, 1, 8, 8)", b"(90, 1, 8, 8)"))  # a header that declares more
    with pytest.raises(ValueError, match="images cannot be read"):
        load_dataset(f"npz:{path}")


def load_of(images: NDArray[np.uint8], path: Path) -> Dataset:
    np.savez(path, images=images)
    return load_dataset(f"npz:{path}")


def covariance(dims: int) -> NDArray[np.float64]:
    return np.cov(np.random.default_rng(0).normal(size=(4 * dims, dims)), rowvar=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_feature_statistics_are_read_in_float64(dtype: type, save: object, tmp_path: Path) -> None:
    mu, sigma = np.arange(5).astype(dtype), covariance(5).astype(dtype)
    save(tmp_path / "stats.npz", mu=mu, sigma=sigma, mu_s=mu[:2])  # type: ignore[operator]
    found = read_statistics(tmp_path / "stats.npz")
    assert found is not None and found[0].dtype == found[1].dtype == np.float64
    np.testing.assert_array_equal(found[0], mu.astype(np.float64))
    np.testing.assert_array_equal(found[1], sigma.astype(np.float64))


def test_a_zero_covariance_is_allowed(tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.ones(3), sigma=np.zeros((3, 3)))
    assert read_statistics(tmp_path / "stats.npz") is not None


@pytest.mark.parametrize("more", [{}, {"mu": np.ones(3)}, {"sigma": np.eye(3)}, {"mean": np.ones(3)}])
def test_files_without_statistics_have_none(more: dict[str, NDArray[np.float64]], tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", notes=np.arange(3), **more)  # type: ignore[arg-type]
    assert read_statistics(tmp_path / "some.npz") is None


def test_images_take_precedence_over_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", images=IMAGES, mu=np.ones(3), sigma=np.eye(3))
    assert read_statistics(tmp_path / "both.npz") is None
    assert len(load(tmp_path / "both.npz").train_images) == 18


@pytest.mark.parametrize(
    ("mu", "sigma", "message"),
    [
        (np.ones(3), np.eye(4), r"shapes \(D,\) and \(D, D\), got \(3,\) and \(4, 4\)"),
        (np.ones((1, 3)), np.eye(3), r"got \(1, 3\) and \(3, 3\)"),
        (np.ones(3), np.ones(3), r"got \(3,\) and \(3,\)"),
        (np.ones(0), np.eye(0), r"got \(0,\) and \(0, 0\)"),
        (np.array([1, np.nan]), np.eye(2), "must be finite"),
        (np.ones(2), np.diag([1, np.inf]), "must be finite"),
        (np.ones(2), np.array([[1, 0.5], [0.4, 1]]), "not symmetric"),
        (np.ones(2), np.diag([1, -1]), "negative variances"),
        (np.ones(2), np.eye(2).astype(str), "sigma must be floating-point numbers, got <U"),
        (np.ones(2) * 1j, np.eye(2), "mu must be floating-point numbers, got complex128"),
        (np.array([{}]), np.eye(2), "mu cannot be read .*Python objects"),
    ],
)
def test_invalid_statistics_are_refused(
    mu: NDArray[np.generic], sigma: NDArray[np.generic], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(ValueError, match=rf"bad\.npz: .*{message}") as caught:
        read_statistics(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


LAST = IMAGES.transpose(0, 2, 3, 1)
"""IMAGES with channels last."""


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": LAST, "arr_1": LABELS},
        {"arr_0": IMAGES, "arr_1": LABELS[:, None]},
        {"images": LAST, "labels": LABELS.astype(np.uint8)},
        {"images": LAST.astype(np.int64), "labels": LABELS},
        {"images": IMAGES.astype(">u2"), "labels": LABELS},
        {"images": LAST.astype(np.float32) / 127.5 - 1, "labels": LABELS},
        {"images": IMAGES, "labels": LABELS, "arr_0": np.zeros(3), "arr_1": np.zeros(3)},
        {"arr_0": LAST, "arr_1": LABELS, "mu": np.ones(2), "sigma": np.eye(2)},
    ],
)
def test_files_of_other_tools_give_the_same_data_set(arrays: dict[str, NDArray[np.generic]], tmp_path: Path) -> None:
    np.savez(tmp_path / "ours.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "theirs.npz", **arrays)  # type: ignore[arg-type]
    expected, found = load(tmp_path / "ours.npz"), load(tmp_path / "theirs.npz")
    assert found.labeled_digest() == expected.labeled_digest()
    assert found.train_images.is_contiguous()
    images, labels, split = read_images(tmp_path / "theirs.npz", "test")
    assert_close(images, torch.from_numpy(IMAGES))
    assert_close(labels, torch.from_numpy(LABELS))
    assert split is None


def test_arrays_saved_without_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", LAST)
    assert load(tmp_path / "samples.npz").image_shape == (3, 4, 4)
    np.savez(tmp_path / "labeled.npz", LAST, LABELS)
    assert load(tmp_path / "labeled.npz").num_classes == 4


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "keys", [("x_train", "y_train", "x_test", "y_test"), ("X_train", "Y_train", "X_test", "Y_test")]
)
def test_names_of_keras(keys: tuple[str, ...], large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = LAST[:15], LABELS[:15, None], LAST[15:], LABELS[15:, None]
    np.savez(tmp_path / "set.npz", **dict(zip(keys, arrays, strict=True)))  # type: ignore[arg-type]
    if large:
        monkeypatch.setattr("snngan.data.npz.memory_bytes", lambda: 8)  # so that images are memory-mapped
    dataset = load(tmp_path / "set.npz")
    assert_close(dataset.train_images, torch.from_numpy(IMAGES[:15]))
    assert_close(dataset.test_images, torch.from_numpy(IMAGES[15:]))
    assert_close(dataset.train_labels, torch.from_numpy(LABELS[:15]))
    assert_close(dataset.test_labels, torch.from_numpy(LABELS[15:]))
    np.savez(
        tmp_path / "ours.npz",
        train_images=IMAGES[:15], train_labels=LABELS[:15], test_images=IMAGES[15:], test_labels=LABELS[15:],
    )  # fmt: skip
    assert load(tmp_path / "ours.npz").labeled_digest() == dataset.labeled_digest()
    assert read_images(tmp_path / "set.npz", "train")[2] == "train"


def test_gray_images_of_keras(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=IMAGES[:, 0], y_train=LABELS, x_test=IMAGES[:4, 0], y_test=LABELS[:4])
    dataset = load(tmp_path / "mnist.npz")
    assert dataset.image_shape == (1, 4, 4) and len(dataset.test_images) == 4
    np.savez(tmp_path / "last.npz", IMAGES[:, 0, :, :, None])
    assert load(tmp_path / "last.npz").image_shape == (1, 4, 4)


def test_ambiguous_shapes_have_channels_first(tmp_path: Path) -> None:
    images = IMAGES[:, :, :, :3]
    np.savez(tmp_path / "set.npz", images=images)
    assert_close(read_images(tmp_path / "set.npz", "test")[0], torch.from_numpy(np.ascontiguousarray(images)))
