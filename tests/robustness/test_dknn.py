"""Deep k-nearest neighbors: against a slow count by hand, calibrated, kept, and what is refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from reference.batches import INTEGERS
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from snngan.robustness.dknn import DkNN, nearest, nearest_by_faiss

CLASSES, LAYERS = 4, {"conv": (3, 2), "fc": (5,)}


def points(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return activations of two layers around a center for each class, overlapping, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    layers = {}
    for name, shape in LAYERS.items():
        centers = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(9))
        layers[name] = centers[labels] + 0.8 * torch.randn(count, *shape, generator=generator)
    return layers, labels


def fitted(distance: Any = "cosine", num_neighbors: int = 7, seed: int = 0) -> DkNN:
    dknn = DkNN(*points(200, seed), num_neighbors=num_neighbors, distance=distance)
    dknn.calibrate(*points(60, seed + 1))
    return dknn


def nonconformity_by_hand(layers: dict[str, Tensor], distance: str, count: int) -> np.ndarray:
    """Return (Q, K): neighbors of another label, one query and layer at a time."""
    train, labels = points(200, 0)
    queries = len(layers["fc"])
    found = np.zeros((queries, CLASSES))
    for name, activations in layers.items():
        for number in range(queries):
            one, many = activations[number].flatten().double(), train[name].flatten(1).double()
            if distance == "cosine":
                apart = 1 - torch.nn.functional.cosine_similarity(one[None], many)
            else:
                apart = (many - one).square().sum(1)
            neighbors = labels[apart.argsort()[:count]].numpy()
            for label in range(CLASSES):
                found[number, label] += (neighbors != label).sum()
    return found


@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
def test_p_values_are_those_by_hand(distance: str) -> None:
    dknn = fitted(distance)
    held_out, held_labels = points(60, 1)
    queries, _ = points(30, 2)
    calibration = nonconformity_by_hand(held_out, distance, 7)[np.arange(60), held_labels.numpy()]
    nonconformity = nonconformity_by_hand(queries, distance, 7)
    expected = (1 + (calibration[None, None] >= nonconformity[:, :, None]).sum(2)) / 61
    vouched = dknn(queries)
    np.testing.assert_allclose(vouched.p_values.numpy(), expected, rtol=1e-12)
    ordered = np.sort(expected, 1)
    np.testing.assert_allclose(vouched.credibility.numpy(), ordered[:, -1])
    np.testing.assert_allclose(vouched.confidence.numpy(), 1 - ordered[:, -2])
    assert (vouched.predicted.numpy() == expected.argmax(1)).all()


def test_the_true_class_s_p_value_is_uniform_under_exchange() -> None:
    """Far fewer queries than calibration points, whose own chance they all share."""
    dknn = DkNN(*points(2000, 0), num_neighbors=75)
    dknn.calibrate(*points(5000, 1))
    queries, labels = points(500, 2)
    own = dknn(queries).p_values.gather(1, labels[:, None])[:, 0].numpy()
    assert scipy.stats.kstest(own, "uniform").pvalue > 0.01
    assert 0.03 < (own <= 0.05).mean() < 0.08


def test_with_ties_broken_by_chance_tied_points_are_uniform_too() -> None:
    """Well-parted classes: nearly every point has no neighbor of another label, and by itself the p-value 1."""
    centers = {name: 5.0 * torch.randn(CLASSES, *shape) for name, shape in LAYERS.items()}

    def parted(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        layers, labels = points(count, seed)
        return {name: layer + centers[name][labels] for name, layer in layers.items()}, labels

    dknn = DkNN(*parted(2000, 0), num_neighbors=7)
    dknn.calibrate(*parted(5000, 1))
    queries, labels = parted(500, 2)
    plain = dknn(queries).p_values.gather(1, labels[:, None])[:, 0].numpy()
    assert (plain == 1).mean() > 0.9
    vouched = dknn(queries, ties=torch.Generator().manual_seed(0))
    own = vouched.p_values.gather(1, labels[:, None])[:, 0].numpy()
    assert scipy.stats.kstest(own, "uniform").pvalue > 0.01
    assert (own > 0).all() and (own <= plain).all()


@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
def test_faiss_finds_the_same(distance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", exc_type=ImportError)
    found = []
    for search in ("torch", "faiss"):
        dknn = DkNN(*points(200, 0), num_neighbors=7, distance=distance, search=search)  # type: ignore[arg-type]
        dknn.calibrate(*points(60, 1))
        found.append(dknn(points(30, 2)[0]).p_values)
    assert torch.equal(*found)
    many = torch.randn(300, 3)
    assert torch.equal(nearest(many[:20], many, 9), nearest_by_faiss(many[:20], many, 9))
    assert torch.equal(nearest(many[:20], many, 9, "cosine"), nearest_by_faiss(many[:20], many, 9, "cosine"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'snngan\[faiss\]'"):
        nearest_by_faiss(many[:20], many, 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
def test_on_a_gpu_it_answers_the_same(distance: Any) -> None:
    queries, _ = points(30, 2)
    there = DkNN(*moved(*points(200, 0)), num_neighbors=7, distance=distance)
    there.calibrate(*moved(*points(60, 1)))
    found = there(moved(*points(30, 2))[0]).p_values
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), fitted(distance)(queries).p_values)


def moved(layers: dict[str, Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return {name: layer.cuda() for name, layer in layers.items()}, labels.cuda()


def test_strange_points_have_little_credibility() -> None:
    dknn = fitted("sqeuclidean")
    between = {name: torch.zeros(20, *shape) for name, shape in LAYERS.items()}
    known, _ = points(200, 5)
    assert float(dknn(between).credibility.mean()) < float(dknn(known).credibility.mean())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, many = torch.randn(50, 3), torch.randn(300, 3)
    whole = nearest(queries, many, 9)
    monkeypatch.setattr("snngan.robustness.dknn.BLOCK", 7)
    assert torch.equal(nearest(queries, many, 9), whole)
    apart = torch.cdist(queries.double(), many.double())
    assert torch.equal(apart.topk(9, largest=False).indices, whole)
    cosines = F.normalize(queries.double(), dim=1) @ F.normalize(many.double(), dim=1).T
    assert torch.equal(cosines.topk(9).indices, nearest(queries, many, 9, "cosine"))
    many[7] = 0  # as far from everything as what is at a right angle
    assert bool((nearest(queries, many, 300, "cosine") == 7).any(1).all())
    assert nearest(queries[:0], many, 9).shape == (0, 9)


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    dknn, (queries, _) = fitted(), points(30, 2)
    dknn.save(tmp_path / "index.npz")
    again = DkNN.load(tmp_path / "index.npz")
    assert torch.equal(again(queries).p_values, dknn(queries).p_values)
    assert [path.name for path in tmp_path.iterdir()] == ["index.npz"]


class Payload:
    """Would run something when unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_what_is_no_index_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pickled.npz").write_bytes(pickle.dumps(Payload()))
    np.savez("objects.npz", labels=np.array([Payload()], dtype=object))
    np.savez("other.npz", images=np.zeros(3))
    Path("text.npz").write_text("no index")
    for name in ("pickled.npz", "objects.npz", "other.npz", "text.npz", "missing.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a saved DkNN"):
            DkNN.load(Path(name))
    assert not Path("ran").exists()
    layers, labels = points(100, 0)
    DkNN(layers, labels).save(Path("short.npz"))
    arrays = dict(np.load("short.npz"))
    np.savez("short.npz", **(arrays | {"labels": arrays["labels"].astype(np.int16)}))
    with pytest.raises(ValueError, match=r"short\.npz is not a saved DkNN: labels of shape"):
        DkNN.load(Path("short.npz"))


def test_what_is_refused() -> None:
    layers, labels = points(20, 0)
    with pytest.raises(ValueError, match="2 layers of 20 points have no 75 neighbors each"):
        DkNN(layers, labels)
    with pytest.raises(ValueError, match="distance must be"):
        DkNN(layers, labels, num_neighbors=3, distance="manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown search 'fais'; did you mean 'faiss'"):
        DkNN(layers, labels, num_neighbors=3, search="fais")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels go from 0 to 3; expected classes from 0 to below 2"):
        DkNN(layers, labels, num_neighbors=3, num_classes=2)
    with pytest.raises(ValueError, match="labels go from -1 to 2"):
        DkNN(layers, labels - 1, num_neighbors=3)
    with pytest.raises(ValueError, match="layer conv must have a point for each of 20 labels, got 19"):
        DkNN(layers | {"conv": layers["conv"][1:]}, labels, num_neighbors=3)
    with pytest.raises(ValueError, match="layer fc must hold finite numbers, got NaN or infinity"):
        DkNN(layers | {"fc": layers["fc"] * torch.nan}, labels, num_neighbors=3)
    dknn = DkNN(layers, labels, num_neighbors=3)
    with pytest.raises(ValueError, match="not calibrated"):
        dknn(layers)
    with pytest.raises(ValueError, match="calibration needs points with labels from 0 to below 4"):
        dknn.calibrate(layers, labels + 4)
    dknn.calibrate(layers, labels)
    with pytest.raises(ValueError, match="no activations of layer conv; there are: fc"):
        dknn({"fc": layers["fc"]})
    with pytest.raises(ValueError, match="layer fc has 4 values a point; expected 5"):
        dknn(layers | {"fc": layers["fc"][:, :4]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_neighbors_are_exact_far_from_the_origin(offset: float, distance: str, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    many = torch.randn(500, 4, generator=rng, dtype=dtype) + offset
    many[250:] += 10 * offset  # two clusters: no one center is near both
    queries = many[::7] + torch.randn(many[::7].shape, generator=rng, dtype=dtype)
    one, all_others = queries.double()[:, None], many.double()[None]
    if distance == "cosine":
        one, all_others = one / one.norm(dim=-1, keepdim=True), all_others / all_others.norm(dim=-1, keepdim=True)
    apart = (one - all_others).square().sum(-1)
    found = nearest(queries, many, 9, distance)
    assert_close(apart.gather(1, found), apart.sort(1).values[:, :9], rtol=1e-2, atol=1e-14)
    layers = {"only": many}
    dknn = DkNN(layers, torch.arange(500) // 250, num_neighbors=9, distance=distance)  # type: ignore[arg-type]
    assert torch.equal(dknn._points("only", layers, 500), many)  # not rounded to a narrower type


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_may_be_integers_of_any_type(dtype: torch.dtype) -> None:
    train, labels = points(200, 0)
    held_out, held_labels = points(60, 1)
    found = []
    for kind in (torch.int64, dtype):
        dknn = DkNN(train, (labels % 2).to(kind), num_neighbors=7)
        dknn.calibrate(held_out, (held_labels % 2).to(kind))
        found.append(dknn(points(30, 2)[0]).p_values)
    assert torch.equal(*found)


def test_labels_of_another_form_are_refused() -> None:
    train, labels = points(200, 0)
    for wrong in (labels.float(), labels[:, None]):
        with pytest.raises(ValueError, match=r"labels must be integers \(200,\), one per sample, got "):
            DkNN(train, wrong, num_neighbors=7)
        with pytest.raises(ValueError, match=r"labels must be integers \(200,\), one per sample, got "):
            fitted().calibrate(train, wrong)
