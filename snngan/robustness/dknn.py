"""Deep k-nearest neighbors: how well the training data support a prediction, in the feature space of each layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.files import load_tensors, save_tensors
from snngan.labels import integer_labels
from snngan.registry import Registry

QUERY_BLOCK, TRAIN_BLOCK = 256, 16384
"""Numbers of queries and of training samples whose distances are in memory at the same time."""
SEARCHES: Registry[Callable[..., Tensor]] = Registry("search")
"""Functions like :func:`find_nearest`."""


@dataclass(frozen=True)
class DkNNOutput:
    """The p-values of all classes for Q samples, and what follows from them."""

    p_values: Tensor
    """(Q, K) float64, in (0, 1]."""

    @property
    def predicted(self) -> Tensor:
        """The class (Q,) with the highest p-value; the first if there are several."""
        return self.p_values.argmax(1)

    @property
    def credibility(self) -> Tensor:
        """The highest p-value (Q,): how well the training data support the prediction."""
        return self.p_values.amax(1)

    @property
    def confidence(self) -> Tensor:
        """1 minus the second highest p-value (Q,): how clearly the training data rule out every other class."""
        return 1 - self.p_values.topk(2, 1).values[:, 1]


class DkNN:
    """Deep k-nearest neighbors among the training samples of a classifier; call :meth:`calibrate` before use.

    The nonconformity of an image with a class is the number of its nearest training images, over all layers, that have
    another label. Held-out images with their true classes calibrate it: the p-value of a class is the share of them
    that are at least as nonconforming. Source: Papernot and McDaniel 2018, algorithm 1 and section IV.

    Args:
        layers: activations (N, ...) of the training samples by name of the layer; float32 and float64 tensors are not
            copied.
        labels: (N,) integer classes from 0 to ``num_classes - 1``; by default ``num_classes`` is one above the highest.
        num_neighbors: number of neighbors in each layer.
        distance: ``"cosine"``, as in the paper, or ``"sqeuclidean"``.
        search: ``"torch"`` finds the neighbors exactly, by distances in float64; ``"faiss"`` (an optional package, on
            the CPU) by distances of centered samples in float32. Raises ``ValueError`` if it is not installed.

    Example:
        >>> samples = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)]) + torch.rand(100, 2) / 4
        >>> labels = torch.arange(100) // 50
        >>> dknn = DkNN({"input": samples[::2]}, labels[::2], num_neighbors=5, distance="sqeuclidean")
        >>> dknn.calibrate({"input": samples[1::2]}, labels[1::2])
        >>> dknn({"input": torch.tensor([[0.1, 0.1], [1.1, 1.1]])}).predicted
        tensor([0, 1])
    """

    def __init__(
        self,
        layers: Mapping[str, Tensor],
        labels: Tensor,
        *,
        num_classes: int | None = None,
        num_neighbors: int = 75,
        distance: Literal["cosine", "sqeuclidean"] = "cosine",
        search: Literal["torch", "faiss"] = "torch",
    ) -> None:
        if not isinstance(layers, Mapping):
            raise ValueError(f"layers must map names of layers to tensors, got {type(layers).__name__}")
        self.labels = integer_labels(labels, len(labels))
        lowest, highest = (int(self.labels.min()), int(self.labels.max())) if len(labels) else (0, 0)
        self.num_classes = highest + 1 if num_classes is None else num_classes
        self.num_neighbors, self.distance, self._find_nearest = num_neighbors, distance, SEARCHES[search]
        if distance not in ("cosine", "sqeuclidean"):
            raise ValueError(f"distance must be 'cosine' or 'sqeuclidean', got {distance!r}")
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        if not 1 <= num_neighbors <= len(labels):
            raise ValueError(f"num_neighbors must be from 1 to {len(labels)}, the samples, got {num_neighbors}")
        if self.num_classes < 2 or lowest < 0 or highest >= self.num_classes:
            got = f"labels from {lowest} to {highest} and {self.num_classes} classes"
            raise ValueError(f"labels must be from 0 to below num_classes, which must be 2 or above; got {got}")
        self.layers = {name: self._select_features(name, layers, len(labels)) for name in layers}
        self.calibration = self.labels.new_zeros(0)
        """(C,) int64, sorted: nonconformity of each held-out sample with its true class."""

    def calibrate(self, layers: Mapping[str, Tensor], labels: Tensor) -> None:
        """Calibrate by held-out samples: their activations (C, ...) by name of the layer, and true classes (C,)."""
        labels = integer_labels(labels, len(labels))
        if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"calibration needs at least one sample, with labels from 0 to below {self.num_classes}")
        nonconformity = self._compute_nonconformity(layers, len(labels))
        self.calibration = nonconformity.gather(1, labels[:, None].to(self.labels.device))[:, 0].sort().values

    def __call__(self, layers: Mapping[str, Tensor], *, ties: torch.Generator | None = None) -> DkNNOutput:
        """Return the p-values of samples whose activations (Q, ...) are ``layers``, by name.

        The p-value of a class is (1 + number of calibration samples at least as nonconforming) / (1 + C). Many samples
        have no neighbor of another class, and so share one p-value near 1. With ``ties``, only a random share of the
        calibration samples that are exactly as nonconforming counts, drawn for each sample: then the p-value of the
        true class is uniform for samples like those of the calibration (Vovk et al. 2005, "Algorithmic Learning in a
        Random World", section 2.2). Raises ``ValueError`` before :meth:`calibrate`.
        """
        size = len(self.calibration)
        if not size:
            raise ValueError("DkNN is not calibrated: call calibrate with held-out samples and their labels first")
        count = len(next(iter(layers.values()))) if layers else 0
        nonconformity = self._compute_nonconformity(layers, count)
        at_least = (1 + size - torch.searchsorted(self.calibration, nonconformity)).double()
        if ties is not None:
            above = size - torch.searchsorted(self.calibration, nonconformity, right=True)
            share = torch.rand(count, 1, generator=ties, dtype=torch.float64).to(above.device)
            at_least = above + share * (at_least - above)
        return DkNNOutput(at_least / (1 + size))

    def save(self, path: Path) -> None:
        """Write everything to ``path``, a safetensors file that :meth:`load` reads; raises ``SaveError``."""
        tensors = {f"layers/{name}": features for name, features in self.layers.items()}
        settings = {name: getattr(self, name) for name in ("num_classes", "num_neighbors", "distance")}
        save_tensors(path, tensors | {"labels": self.labels, "calibration": self.calibration}, settings)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> DkNN:
        """Return what :meth:`save` wrote to ``path``; raises ``ValueError`` for a missing, damaged or other file."""
        loaded, settings = load_tensors(path)
        try:
            labels, calibration = loaded.pop("labels").to(device), loaded.pop("calibration").to(device)
            layers = {name.removeprefix("layers/"): features.to(device) for name, features in loaded.items()}
            dknn = cls(layers, labels, **settings)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a saved DkNN: {error}") from error
        dknn.calibration = calibration
        return dknn

    def _compute_nonconformity(self, layers: Mapping[str, Tensor], count: int) -> Tensor:
        """Return the number of neighbors with another label, over all layers, for each class: (count, K) int64."""
        same = torch.zeros(count, self.num_classes, dtype=torch.int64, device=self.labels.device)
        for name, features in self.layers.items():
            queries = self._select_features(name, layers, count)
            if queries.shape[1] != features.shape[1]:
                raise ValueError(f"layer {name} must have {features.shape[1]} values a sample, got {queries.shape[1]}")
            nearest = self._find_nearest(queries.to(features.device), features, self.num_neighbors, self.distance)
            found = self.labels[nearest.to(self.labels.device)]
            same.scatter_add_(1, found, torch.ones_like(found))
        return self.num_neighbors * len(self.layers) - same

    @staticmethod
    def _select_features(name: str, layers: Mapping[str, Tensor], count: int) -> Tensor:
        """Return the flattened features (count, D) of one layer, float32 or float64, or raise ``ValueError``."""
        if name not in layers:
            raise ValueError(f"activations must include layer {name}, got: {', '.join(layers)}")
        features = layers[name].detach().flatten(1)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if len(features) != count:
            raise ValueError(f"layer {name} must have one sample for each of {count} labels, got {len(features)}")
        if not bool(features.isfinite().all()):
            raise ValueError(f"layer {name} must hold finite numbers, got NaN or infinity")
        return features


@SEARCHES.register("torch")
def find_nearest(queries: Tensor, samples: Tensor, count: int, distance: str = "sqeuclidean") -> Tensor:
    """Return the indices (Q, count) of the ``count`` nearest of ``samples`` (N, D) to each query (Q, D), nearest first.

    Distances are computed in float64, relative to the mean of the samples: samples that float32 can distinguish stay
    distinct, however far they are from the origin. The search takes Q * N * D multiplications and memory for
    ``QUERY_BLOCK * TRAIN_BLOCK`` distances.
    """
    center = samples.mean(0, dtype=torch.float64)
    indices = torch.zeros(len(queries), 0, dtype=torch.int64, device=samples.device)
    nearness = torch.zeros(len(queries), 0, dtype=torch.float64, device=samples.device)
    for start in range(0, len(samples), TRAIN_BLOCK):
        block = _to_float64(samples[start : start + TRAIN_BLOCK], center, distance)
        squares = block.square().sum(1) if distance == "sqeuclidean" else torch.zeros_like(block[:, 0])
        found = []
        parts = (torch.split(each, QUERY_BLOCK) for each in (queries, indices, nearness))
        for asked, kept, near in zip(*parts, strict=True):
            new = torch.addmm(squares, _to_float64(asked, center, distance), block.T, beta=-1, alpha=2)
            own = torch.arange(start, start + len(block), device=samples.device).expand(len(asked), -1)
            best = torch.cat([near, new], 1).topk(min(count, near.shape[1] + len(block)))
            found.append((torch.cat([kept, own], 1).gather(1, best.indices), best.values))
        indices, nearness = map(torch.cat, zip(*found, strict=True))
    return indices


@SEARCHES.register("faiss")
def find_nearest_by_faiss(queries: Tensor, samples: Tensor, count: int, distance: str = "sqeuclidean") -> Tensor:
    """Return what :func:`find_nearest` returns, computed by the package faiss on the CPU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # raised by the bindings of faiss
            import faiss
    except ImportError as error:
        raise ValueError("search 'faiss' needs the package faiss: pip install 'snngan[faiss]'") from error
    center = samples.mean(0, dtype=torch.float64)
    queries, samples = (_to_float64(each, center, distance) for each in (queries, samples))
    mean = samples.mean(0)  # not zero for unit vectors
    queries, samples = (queries - mean).float(), (samples - mean).float()
    _, indices = faiss.knn(queries.cpu().numpy(), samples.cpu().numpy(), count)
    return torch.from_numpy(indices)


def _to_float64(samples: Tensor, center: Tensor, distance: str) -> Tensor:
    """Return samples (n, D) relative to ``center`` (D,) or, for the cosine distance, scaled to length 1."""
    return F.normalize(samples.double(), dim=1, eps=1e-300) if distance == "cosine" else samples.double() - center
