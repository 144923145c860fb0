"""Deep k-nearest neighbors: how far the training data vouch for a prediction, in the space of each layer.

The nonconformity of a point with a class is the number of its nearest training points, over all layers, that bear
another label. Held-out points and their true classes calibrate it: the p-value of a class is the share of them that
conform no better. Papernot and McDaniel 2018, "Deep k-Nearest Neighbors", algorithm 1 and section IV.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.files import write_npz
from snngan.labels import integer_labels
from snngan.registry import unknown_name
from snngan.untrusted import check_memory, check_regular, npz_keys, parse_json, read_npz_array

SETTINGS = ("num_classes", "num_neighbors", "distance")
MOST_CLASSES = 1 << 20
"""No saved DkNN is read that has more."""
BLOCK, CHUNK = 256, 16384
"""Queries and training points whose distances are held at once."""


@dataclass(frozen=True)
class Vouched:
    """What the training data make of Q points."""

    p_values: Tensor
    """(Q, K) float64, in (0, 1]: of each class."""

    @property
    def predicted(self) -> Tensor:
        """The class (Q,) with the highest p-value; of several the first."""
        return self.p_values.argmax(1)

    @property
    def credibility(self) -> Tensor:
        """The highest p-value (Q,): how well the training data support the prediction."""
        return self.p_values.amax(1)

    @property
    def confidence(self) -> Tensor:
        """1 less the second highest p-value (Q,): how clearly they speak against every other class."""
        return 1 - self.p_values.topk(2, 1).values[:, 1]


class DkNN:
    """A classifier's training points in the spaces of its layers; to be calibrated by held-out points.

    Args:
        layers: activations (N, ...) of the training points by the layer's name; float32 and float64 ones are not
            copied.
        labels: (N,) integer classes, 0 to ``num_classes - 1``.
        num_classes: K; default: one above the highest label.
        num_neighbors: k, in each layer.
        distance: ``"cosine"``, as in the paper, or ``"sqeuclidean"``.
        search: what finds the neighbors: ``"torch"``, exactly, by distances in float64, or ``"faiss"`` (a package of
            its own, on the CPU) by distances of centered points in float32.

    Raises:
        ValueError: sizes, layers or labels that do not fit, fewer points than neighbors, or no faiss.

    Example:
        >>> points = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)]) + torch.rand(100, 2) / 4
        >>> labels = torch.arange(100) // 50
        >>> dknn = DkNN({"input": points[::2]}, labels[::2], num_neighbors=5, distance="sqeuclidean")
        >>> dknn.calibrate({"input": points[1::2]}, labels[1::2])
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
            raise ValueError(f"layers must be tensors by the name of the layer, got {type(layers).__name__}")
        labels = integer_labels(labels, len(labels))
        lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        self.num_classes = highest + 1 if num_classes is None else num_classes
        self.num_neighbors, self.distance = num_neighbors, distance
        if distance not in ("cosine", "sqeuclidean"):
            raise ValueError(f"distance must be 'cosine' or 'sqeuclidean', not {distance!r}")
        if search not in SEARCHES:
            raise unknown_name("search", search, SEARCHES)
        self._nearest = SEARCHES[search]
        if not layers or not 1 <= num_neighbors <= len(labels):
            raise ValueError(f"{len(layers)} layers of {len(labels)} points have no {num_neighbors} neighbors each")
        if self.num_classes < 2 or lowest < 0 or highest >= self.num_classes:
            raise ValueError(
                f"labels go from {lowest} to {highest}; expected classes from 0 to below {self.num_classes}, 2 or more"
            )
        self.labels = labels
        self.layers = {name: self._points(name, layers, len(labels)) for name in layers}
        self.calibration = labels.new_zeros(0)
        """(C,) int64, sorted: the nonconformity of each held-out point with its true class."""

    def calibrate(self, layers: Mapping[str, Tensor], labels: Tensor) -> None:
        """Take held-out points, their activations (C, ...) by layer and their true classes (C,), as the measure.

        Raises:
            ValueError: there are none, or a layer or label does not fit.
        """
        labels = integer_labels(labels, len(labels))
        if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"calibration needs points with labels from 0 to below {self.num_classes}")
        own = self.conforming(layers, len(labels)).gather(1, labels[:, None].to(self.labels.device))[:, 0]
        self.calibration = (self.most - own).sort().values

    @property
    def most(self) -> int:
        """The highest nonconformity there can be."""
        return self.num_neighbors * len(self.layers)

    def __call__(self, layers: Mapping[str, Tensor], *, ties: torch.Generator | None = None) -> Vouched:
        """Return what the training data make of points whose activations (Q, ...) are ``layers``, by name.

        The p-value of a class is (1 + number of calibration points at least as nonconforming) / (1 + C). Many points
        have no neighbor of another class at all, and so the same p-value, near 1. With ``ties``, of calibration
        points as nonconforming as the point only a share counts, drawn anew for each point: of points like those of
        the calibration, the p-value of the true class is uniform then (Vovk et al. 2005, "Algorithmic Learning in a
        Random World", section 2.2).

        Raises:
            ValueError: it is not calibrated, or a layer is missing or of another size.
        """
        if not len(self.calibration):
            raise ValueError("not calibrated: call calibrate with held-out points and their labels first")
        count = len(next(iter(layers.values()))) if layers else 0
        nonconformity = self.most - self.conforming(layers, count)
        size = len(self.calibration)
        below = torch.searchsorted(self.calibration, nonconformity.contiguous())
        count_at_least = (1 + size - below).double()
        if ties is not None:
            above = size - torch.searchsorted(self.calibration, nonconformity.contiguous(), right=True)
            share = torch.rand(len(nonconformity), 1, generator=ties, dtype=torch.float64).to(above.device)
            count_at_least = above + share * (count_at_least - above)
        return Vouched(count_at_least / (1 + size))

    def save(self, path: Path) -> None:
        """Write everything to ``path``, an npz file of plain arrays that :meth:`load` reads.

        Raises:
            OSError: it cannot be written; what was there before is unharmed.
        """
        tensors = {f"points/{name}": points for name, points in self.layers.items()}
        tensors |= {"labels": self.labels, "calibration": self.calibration}
        arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        arrays["settings"] = json.dumps({name: getattr(self, name) for name in SETTINGS})
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> DkNN:
        """Return what :meth:`save` wrote to ``path``; nothing in the file is run.

        Raises:
            ValueError: the file is missing or not of this kind.
        """
        try:
            check_regular(path)
            with zipfile.ZipFile(path) as archive:
                check_memory(sum(entry.file_size for entry in archive.infolist()), "it")
                arrays = {name: read_npz_array(archive, name) for name in npz_keys(archive)}
            settings = parse_json(str(arrays.pop("settings")))
            tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
            if type(settings["num_classes"]) is not int or settings["num_classes"] > MOST_CLASSES:
                raise ValueError(f"{settings['num_classes']} classes")
            labels, calibration = tensors.pop("labels"), tensors.pop("calibration")
            layers = {name.removeprefix("points/"): points for name, points in tensors.items()}
            for name, numbers in (("labels", labels), ("calibration", calibration)):
                if numbers.dtype != torch.int64 or numbers.dim() != 1:
                    raise ValueError(f"{name} of shape {tuple(numbers.shape)} {numbers.dtype}")
            dknn = cls(layers, labels, **settings)
        except Exception as error:  # a damaged or hostile archive fails in many ways
            raise ValueError(f"{path} is not a saved DkNN: {error}") from error
        dknn.calibration = calibration
        return dknn

    def conforming(self, layers: Mapping[str, Tensor], count: int) -> Tensor:
        """Return how many of the neighbors of each point bear each label, over all layers, (count, K) int64."""
        votes = torch.zeros(count, self.num_classes, dtype=torch.int64, device=self.labels.device)
        for name, points in self.layers.items():
            queries = self._points(name, layers, count)
            if queries.shape[1] != points.shape[1]:
                raise ValueError(f"layer {name} has {queries.shape[1]} values a point; expected {points.shape[1]}")
            numbers = self._nearest(queries.to(points.device), points, self.num_neighbors, self.distance)
            found = self.labels[numbers.to(self.labels.device)]
            votes.scatter_add_(1, found, torch.ones_like(found))
        return votes

    def _points(self, name: str, layers: Mapping[str, Tensor], count: int) -> Tensor:
        """Return a layer's points (count, D), narrower types as float32."""
        if name not in layers:
            raise ValueError(f"no activations of layer {name}; there are: {', '.join(layers)}")
        points = layers[name].detach().flatten(1)
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        if len(points) != count:
            raise ValueError(f"layer {name} must have a point for each of {count} labels, got {len(points)}")
        if not bool(points.isfinite().all()):
            raise ValueError(f"layer {name} must hold finite numbers, got NaN or infinity")
        return points


def nearest(queries: Tensor, points: Tensor, count: int, distance: str = "sqeuclidean") -> Tensor:
    """Return the numbers (Q, count) of the ``count`` nearest of ``points`` (N, D) to each query (Q, D), nearest first.

    Distances are in float64, where points that float32 can tell apart are told apart wherever they lie. It takes
    Q * N * D multiplications and memory for ``BLOCK * CHUNK`` distances.
    """
    center = points.mean(0, dtype=torch.float64)
    numbers = torch.zeros(len(queries), 0, dtype=torch.int64, device=points.device)
    nearness = torch.zeros(len(queries), 0, dtype=torch.float64, device=points.device)
    for start in range(0, len(points), CHUNK):
        chunk = _in_float64(points[start : start + CHUNK], center, distance)
        squares = chunk.square().sum(1) if distance == "sqeuclidean" else torch.zeros_like(chunk[:, 0])
        found = []
        for block, kept, near in zip(*(torch.split(each, BLOCK) for each in (queries, numbers, nearness)), strict=True):
            new = torch.addmm(squares, _in_float64(block, center, distance), chunk.T, beta=-1, alpha=2)
            own = torch.arange(start, start + len(chunk), device=points.device).expand(len(block), -1)
            best = torch.cat([near, new], 1).topk(min(count, near.shape[1] + len(chunk)))
            found.append((torch.cat([kept, own], 1).gather(1, best.indices), best.values))
        numbers, nearness = (torch.cat(parts) for parts in zip(*found, strict=True)) if found else (numbers, nearness)
    return numbers if len(queries) else numbers.new_zeros(0, count)


def _in_float64(points: Tensor, center: Tensor, distance: str) -> Tensor:
    """Return points (n, D) relative to ``center`` (D,), or, for the cosine distance, at unit length."""
    return F.normalize(points.double(), dim=1, eps=1e-300) if distance == "cosine" else points.double() - center


def nearest_by_faiss(queries: Tensor, points: Tensor, count: int, distance: str = "sqeuclidean") -> Tensor:
    """Return what :func:`nearest` returns, found by the package faiss on the CPU.

    Raises:
        ValueError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # of the way its bindings are made
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError as error:
        raise ValueError("search by faiss needs its package: pip install 'snngan[faiss]'") from error
    center = points.mean(0, dtype=torch.float64)
    queries, points = (_in_float64(each, center, distance) for each in (queries, points))
    middle = points.mean(0)  # of unit vectors too
    queries, points = (queries - middle).float(), (points - middle).float()
    _, numbers = faiss.knn(queries.cpu().numpy(), points.cpu().numpy(), count)
    return torch.from_numpy(numbers)


SEARCHES: Mapping[str, Callable[..., Tensor]] = {"torch": nearest, "faiss": nearest_by_faiss}
