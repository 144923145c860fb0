"""Deep k-nearest neighbors: p-values against a slow count, calibration, exact search, saved files; activations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from snngan.files import save_tensors
from snngan.losses.entangled import hidden_layers
from snngan.robustness.activations import compute_activations
from snngan.robustness.dknn import DkNN, find_nearest, find_nearest_by_faiss

CLASSES, LAYERS = 4, {"conv": (3, 2), "fc": (5,)}
DISTANCES = pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])


def make_samples(count: int, seed: int, spread: float = 1.0) -> tuple[dict[str, Tensor], Tensor]:
    """Return activations of two layers around a center for each class, and labels; the classes overlap by default."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    layers = {}
    for name, shape in LAYERS.items():
        centers = spread * torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(9))
        layers[name] = centers[labels] + 0.8 * torch.randn(count, *shape, generator=generator)
    return layers, labels


def fit(distance: Any = "cosine", search: Any = "torch", device: str = "cpu") -> DkNN:
    (train, labels), (held_out, held_out_labels) = make_samples(200, 0), make_samples(60, 1)
    dknn = DkNN(move(train, device), labels.to(device), num_neighbors=7, distance=distance, search=search)
    dknn.calibrate(move(held_out, device), held_out_labels.to(device))
    return dknn


def move(layers: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: layer.to(device) for name, layer in layers.items()}


def count_nonconformity(layers: dict[str, Tensor], distance: str, count: int) -> np.ndarray:
    """Return (Q, K): neighbors with another label, one query and layer at a time."""
    train, labels = make_samples(200, 0)
    queries = len(layers["fc"])
    found = np.zeros((queries, CLASSES))
    for name, activations in layers.items():
        for number in range(queries):
            one, many = activations[number].flatten().double(), train[name].flatten(1).double()
            distances = -F.cosine_similarity(one[None], many) if distance == "cosine" else (many - one).norm(dim=1)
            neighbors = labels[distances.argsort()[:count]].numpy()
            for label in range(CLASSES):
                found[number, label] += (neighbors != label).sum()
    return found


@DISTANCES
def test_p_values_equal_a_slow_count(distance: str) -> None:
    held_out, held_out_labels = make_samples(60, 1)
    queries, _ = make_samples(30, 2)
    calibration = count_nonconformity(held_out, distance, 7)[np.arange(60), held_out_labels.numpy()]
    nonconformity = count_nonconformity(queries, distance, 7)
    expected = (1 + (calibration[None, None] >= nonconformity[:, :, None]).sum(2)) / 61
    output = fit(distance)(queries)
    np.testing.assert_allclose(output.p_values.numpy(), expected, rtol=1e-12)
    ordered = np.sort(expected, 1)
    np.testing.assert_allclose(output.credibility.numpy(), ordered[:, -1])
    np.testing.assert_allclose(output.confidence.numpy(), 1 - ordered[:, -2])
    assert (output.predicted.numpy() == expected.argmax(1)).all()


@pytest.mark.parametrize(("spread", "num_neighbors", "ties"), [(1.0, 75, False), (6.0, 7, True)])
def test_the_p_value_of_the_true_class_is_uniform(spread: float, num_neighbors: int, ties: bool) -> None:
    """Far fewer queries than calibration samples, whose own randomness is in every p-value.

    Of far classes, nearly every sample has no neighbor with another label, and so, without random ties, the p-value 1.
    """
    dknn = DkNN(*make_samples(2000, 0, spread), num_neighbors=num_neighbors)
    dknn.calibrate(*make_samples(5000, 1, spread))
    queries, labels = make_samples(500, 2, spread)
    tied = dknn(queries).p_values.gather(1, labels[:, None])[:, 0].numpy()
    assert ((tied == 1).mean() > 0.9) == ties
    output = dknn(queries, ties=torch.Generator().manual_seed(0) if ties else None)
    own = output.p_values.gather(1, labels[:, None])[:, 0].numpy()
    assert scipy.stats.kstest(own, "uniform").pvalue > 0.01
    assert (own > 0).all() and (own <= tied).all()


@DISTANCES
def test_faiss_finds_the_same_neighbors(distance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", exc_type=ImportError)
    queries, _ = make_samples(30, 2)
    assert torch.equal(fit(distance, "faiss")(queries).p_values, fit(distance)(queries).p_values)
    many = torch.randn(300, 3)
    assert torch.equal(find_nearest_by_faiss(many[:20], many, 9, distance), find_nearest(many[:20], many, 9, distance))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'snngan\[faiss\]'"):
        find_nearest_by_faiss(many[:20], many, 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@DISTANCES
def test_p_values_on_a_gpu_equal_those_on_a_cpu(distance: Any) -> None:
    queries, _ = make_samples(30, 2)
    found = fit(distance, device="cuda")(move(queries, "cuda")).p_values
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), fit(distance)(queries).p_values)


def test_neighbors_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, many = torch.randn(50, 3), torch.randn(300, 3)
    whole = find_nearest(queries, many, 9)
    monkeypatch.setattr("snngan.robustness.dknn.QUERY_BLOCK", 7)
    monkeypatch.setattr("snngan.robustness.dknn.TRAIN_BLOCK", 41)
    assert torch.equal(find_nearest(queries, many, 9), whole)
    distances = torch.cdist(queries.double(), many.double())
    assert torch.equal(distances.topk(9, largest=False).indices, whole)
    cosines = F.normalize(queries.double(), dim=1) @ F.normalize(many.double(), dim=1).T
    assert torch.equal(cosines.topk(9).indices, find_nearest(queries, many, 9, "cosine"))
    many[7] = 0  # as far from everything as a vector at a right angle
    assert bool((find_nearest(queries, many, 300, "cosine") == 7).any(1).all())
    assert find_nearest(queries[:0], many, 9).shape == (0, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@DISTANCES
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_neighbors_are_exact_far_from_the_origin(offset: float, distance: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(500, 4, generator=generator, dtype=dtype) + offset
    many[250:] += 10 * offset  # two clusters, which no single center is near
    queries = many[::7] + torch.randn(many[::7].shape, generator=generator, dtype=dtype)
    one, all_others = queries.double()[:, None], many.double()[None]
    if distance == "cosine":
        one, all_others = one / one.norm(dim=-1, keepdim=True), all_others / all_others.norm(dim=-1, keepdim=True)
    distances = (one - all_others).square().sum(-1)
    found = find_nearest(queries, many, 9, distance)
    assert_close(distances.gather(1, found), distances.sort(1).values[:, :9], rtol=1e-2, atol=1e-14)
    dknn = DkNN({"only": many}, torch.arange(500) // 250, num_neighbors=9, distance=distance)
    assert torch.equal(dknn.layers["only"], many)  # not rounded to a narrower type


def test_a_saved_dknn_gives_the_same_p_values(tmp_path: Path) -> None:
    dknn, (queries, _) = fit(), make_samples(30, 2)
    dknn.save(tmp_path / "dknn.safetensors")
    assert torch.equal(DkNN.load(tmp_path / "dknn.safetensors")(queries).p_values, dknn(queries).p_values)


def test_files_that_are_not_a_saved_dknn_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "other", {"weights": torch.zeros(3)})
    (tmp_path / "text").write_text("text")
    for name in ("other", "text", "missing"):
        with pytest.raises(ValueError, match=f"{name}.* (is not a saved DkNN|is damaged|cannot)"):
            DkNN.load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbors": 75}, "num_neighbors must be from 1 to 20, the samples, got 75"),
        ({"layers": {}}, "layers must hold at least one layer, got none"),
        ({"distance": "manhattan"}, "distance must be 'cosine' or 'sqeuclidean', got 'manhattan'"),
        ({"search": "fais"}, "unknown search 'fais'; did you mean 'faiss'"),
        ({"num_classes": 2}, "got labels from 0 to 3 and 2 classes"),
        ({"labels": torch.arange(20) % 4 - 1}, "got labels from -1 to 2 and 3 classes"),
        ({"labels": torch.zeros(20)}, r"labels must be integers \(20,\), one per sample, got float32"),
        ({"layers": {"fc": torch.zeros(19, 5)}}, "layer fc must have one sample for each of 20 labels, got 19"),
        ({"layers": {"fc": torch.full((20, 5), torch.nan)}}, "layer fc must hold finite numbers, got NaN or infinity"),
    ],
)
def test_arguments_that_do_not_match_are_refused(change: dict[str, Any], message: str) -> None:
    layers, _ = make_samples(20, 0)
    arguments: dict[str, Any] = {"layers": layers, "labels": torch.arange(20) % 4, "num_neighbors": 3}
    with pytest.raises(ValueError, match=message):
        DkNN(**(arguments | change))


def test_queries_and_calibration_that_do_not_match_are_refused() -> None:
    layers, labels = make_samples(20, 0)
    dknn = DkNN(layers, labels, num_neighbors=3)
    with pytest.raises(ValueError, match="DkNN is not calibrated: call calibrate"):
        dknn(layers)
    with pytest.raises(ValueError, match="calibration needs at least one sample, with labels from 0 to below 4"):
        dknn.calibrate(layers, labels + 4)
    with pytest.raises(ValueError, match="activations must include layer conv, got: fc"):
        dknn.calibrate({"fc": layers["fc"]}, labels)
    with pytest.raises(ValueError, match="layer fc must have 5 values a sample, got 4"):
        dknn.calibrate(layers | {"fc": layers["fc"][:, :4]}, labels)


def test_activations_equal_those_of_a_forward_pass_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3))
    images = torch.randn(7, 1, 4, 4)
    logits, found = compute_activations(model, hidden_layers(model, ["0", "1"]), images, chunk=3)
    by_hand = model[0](images)
    torch.testing.assert_close(found["0"], by_hand.flatten(1))  # not what the in-place ReLU wrote over it
    torch.testing.assert_close(found["1"], by_hand.relu().flatten(1))
    torch.testing.assert_close(logits, model[3](by_hand.relu().flatten(1)))
    assert not logits.requires_grad
    assert not found["0"].requires_grad
