"""The built-in trainer of features: a small classifier of a data set, trained once and kept beside the data."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.data import Dataset, error_line, to_unit_range
from snngan.data.datasets import Notify
from snngan.evaluation.features import SmallClassifier, SmallFeatures
from snngan.evaluation.memory import check_available
from snngan.evaluation.sources import digest_of
from snngan.files import SaveError
from snngan.seeds import seed_for
from snngan.training.checkpoint import load_tensors, save_tensors

EPOCHS, BATCH, RATE, SEED = 3, 128, 1e-3, 0


def trained_features(
    dataset: Dataset,
    folder: Path,
    device: torch.device | str = "cpu",
    notify: Notify = lambda line: None,
    *,
    also: Path | None = None,
) -> SmallFeatures:
    """Return the features of a small classifier of ``dataset``, from ``folder`` or trained and kept there.

    They are looked for in the folder ``also`` too, where nothing is written.

    3 epochs of Adam over the training half, at seed 0: always the same features on one machine.

    Raises:
        ValueError: the data set has no labels, only one class, images too small or too large for the memory that is
            available, or the file there holds no such network.
    """
    if not is_trainable(dataset):
        if dataset.train_labels is None:
            raise ValueError(
                f"{dataset.missing_labels}, and a classifier needs them: use --features inception or pixels"
            )
        raise ValueError(
            f"{dataset.name}: features are trained on pictures of 4 pixels a side or more, with labels that number "
            "the classes from 0 on, of 2 classes or more; use --features inception or pixels"
        )
    features = kept_features(dataset, folder, device)
    if features is None and also is not None:
        features = kept_features(dataset, also, device)
    if features is None:
        path = _path(dataset, folder)
        _check_memory(dataset)
        notify(f"training a small classifier of {dataset.name} for its features, about a minute; kept in {folder}")
        network = _blank(dataset)
        _train(network, dataset, torch.device(device))
        try:
            save_tensors(path, {name: value.cpu() for name, value in network.state_dict().items()})
        except SaveError as error:
            notify(f"{error}; going on without")
        features = _features(dataset, network)
    if dataset.test_labels is not None:
        right = accuracy(features.network, dataset.test_images, dataset.test_labels)
        notify(f"accuracy of this classifier on held-out images: {right:.1%}")
    return features


def kept_features(dataset: Dataset, folder: Path, device: torch.device | str = "cpu") -> SmallFeatures | None:
    """Return the features that :func:`trained_features` has kept in ``folder``, or None where it has not.

    Raises:
        ValueError: the file there is no such network.
    """
    if not is_trainable(dataset) or not (path := _path(dataset, folder)).exists():
        return None
    network = _blank(dataset)
    try:
        network.load_state_dict(load_tensors(path))
    except Exception as error:  # a file of another kind fails in many ways
        raise ValueError(f"{path} holds no such classifier ({error_line(error)[:100]}); delete it") from error
    return _features(dataset, network.to(device))


def is_trainable(dataset: Dataset) -> bool:
    """Return whether :func:`trained_features` takes this data set."""
    labels = dataset.train_labels
    return (
        labels is not None
        and not dataset.is_points
        and min(dataset.image_shape[1:]) >= 4
        and 0 <= int(labels.min()) < int(labels.max()) < len(labels)  # there is no class without an image
    )


def _check_memory(dataset: Dataset) -> None:
    """Raise ``ValueError`` where weights, gradients, Adam's averages and the layers of a batch do not fit in memory."""
    _, height, width = dataset.image_shape
    weights = 64 * (height // 4) * (width // 4) * 128
    check_available(
        16 * weights + 4 * BATCH * 100 * height * width,  # a pixel of the input has about 100 numbers in all layers
        f"a small classifier of {dataset.name} at {width}x{height} pixels",
        "a smaller --image-size, --features pixels or --features inception",
    )


def _features(dataset: Dataset, network: SmallClassifier) -> SmallFeatures:
    return SmallFeatures(dataset.name, network, dataset.image_shape, digest_of(network.state_dict().values()))


def _path(dataset: Dataset, folder: Path) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", dataset.name.rpartition("/")[2].rpartition(":")[2])[-40:]
    return folder / f"{name}-{dataset.labeled_digest()[:12]}.pt"


def _blank(dataset: Dataset) -> SmallClassifier:
    """Return the classifier of ``dataset`` before it is trained, always the same."""
    assert dataset.train_labels is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(SEED, "features"))
        return SmallClassifier(dataset.image_shape, int(dataset.train_labels.max()) + 1)


def _train(network: SmallClassifier, dataset: Dataset, device: torch.device) -> None:
    assert dataset.train_labels is not None
    network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed_for(SEED, "feature batches"))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(dataset.train_images), generator=order).split(BATCH):  # type: ignore[no-untyped-call]
            logits = network(to_unit_range(dataset.train_images[rows]).to(device))
            optimizer.zero_grad()
            F.cross_entropy(logits, dataset.train_labels[rows].to(device)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def accuracy(network: SmallClassifier, images: Tensor, labels: Tensor) -> float:
    """Return the share of ``images`` (N, C, H, W) that ``network`` gives their ``labels`` (N,)."""
    device, right = next(network.parameters()).device, 0
    network.eval()
    for rows in torch.arange(len(images)).split(500):  # type: ignore[no-untyped-call]
        right += int((network(to_unit_range(images[rows]).to(device)).argmax(1).cpu() == labels[rows]).sum())
    return right / len(images)
