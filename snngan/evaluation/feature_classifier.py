"""Features of a small classifier of a data set, which is trained once and kept in a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import Dataset, error_line, to_unit_range
from snngan.data.datasets import Notify, data_folder
from snngan.evaluation.sources import Reader, digest_of
from snngan.files import SaveError, load_tensors, save_tensors
from snngan.seeds import seed_for

EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED = 3, 128, 1e-3, 0


class SmallClassifier(nn.Module):
    """Two convolutions and two linear layers for images (C, H, W); the features are the 128 units before the logits."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU()),
        )
        self.logits = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.features(images))
        return logits


class ClassifierFeatures:
    """The feature extractor made of a :class:`SmallClassifier` trained on ``dataset``."""

    resize = "none"

    def __init__(self, dataset: Dataset, network: SmallClassifier) -> None:
        self.name, self.network, self.shape = f"classifier:{dataset.name}", network.eval(), dataset.image_shape
        self.digest = digest_of(network.state_dict().values())

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"{self.name} takes images {self.shape}, got {tuple(images.shape[1:])}: use --features inception or "
                "pixels, or classifier:NAME of a data set of this shape"
            )
        features: Tensor = self.network.features(to_unit_range(images).to(next(self.network.parameters()).device))
        return features.cpu()


def load_or_train_features(
    dataset: Dataset,
    folder: Path,
    device: torch.device | str = "cpu",
    notify: Notify = lambda line: None,
    *,
    also: Path | None = None,
) -> ClassifierFeatures:
    """Return the features of a small classifier of ``dataset``, loaded from ``folder``, or trained and saved there.

    The folder ``also`` is searched, too. Training takes 3 epochs of Adam over the training split with seed 0, and so
    gives the same features each time on one machine.

    Raises:
        ValueError: the data set has no labels, only one class, or too small images; or the file in the folder is
            damaged.
    """
    if dataset.train_labels is None:
        raise ValueError(f"{dataset.missing_labels}, and a classifier needs them: use --features inception or pixels")
    if not dataset.suits_classifier:
        raise ValueError(
            f"{dataset.name}: features are trained on pictures with sides of 4 pixels or more and with labels that "
            "number the classes from 0 on, of 2 classes or more; use --features inception or pixels"
        )
    features = load_features(dataset, folder, device) or (load_features(dataset, also, device) if also else None)
    if features is None:
        notify(f"training a small classifier of {dataset.name} for its features, about a minute; kept in {folder}")
        network = _new_classifier(dataset)
        _train(network, dataset, torch.device(device))
        try:
            save_tensors(features_path(dataset, folder), network.state_dict())
        except SaveError as error:
            notify(f"{error}; going on without")
        features = ClassifierFeatures(dataset, network)
    if dataset.test_labels is not None:
        accuracy = _accuracy(features.network, dataset.test_images, dataset.test_labels)
        notify(f"accuracy of this classifier on held-out images: {accuracy:.1%}")
    return features


def prepare_features(dataset: Dataset, reader: Reader) -> ClassifierFeatures:
    """Return the features of ``dataset``, kept in the reader's folder, or beside the data of a run that it reads."""
    also = data_folder(reader.data_dir) / "features"
    return load_or_train_features(dataset, reader.feature_folder, reader.device, reader.notify, also=also)


def load_features(dataset: Dataset, folder: Path, device: torch.device | str = "cpu") -> ClassifierFeatures | None:
    """Return the features that :func:`load_or_train_features` saved in ``folder``, or None if it has not."""
    if not dataset.suits_classifier or not (path := features_path(dataset, folder)).exists():
        return None
    network = _new_classifier(dataset)
    try:
        network.load_state_dict(load_tensors(path)[0])
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold such a classifier ({error_line(error)[:200]}); delete it") from error
    return ClassifierFeatures(dataset, network.to(device))


def features_path(dataset: Dataset, folder: Path) -> Path:
    """Return the file in ``folder`` that the classifier of ``dataset`` is kept in."""
    return folder / f"{dataset.file_stem()}.safetensors"


def _new_classifier(dataset: Dataset) -> SmallClassifier:
    """Return the classifier of ``dataset`` before training, always with the same weights."""
    assert dataset.train_labels is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(SEED, "features"))
        return SmallClassifier(dataset.image_shape, int(dataset.train_labels.max()) + 1)


def _train(network: SmallClassifier, dataset: Dataset, device: torch.device) -> None:
    assert dataset.train_labels is not None
    network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(seed_for(SEED, "feature batches"))
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(dataset.train_images), generator=order), BATCH_SIZE):
            logits = network(to_unit_range(dataset.train_images[rows]).to(device))
            optimizer.zero_grad()
            F.cross_entropy(logits, dataset.train_labels[rows].to(device)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def _accuracy(network: SmallClassifier, images: Tensor, labels: Tensor) -> float:
    device = next(network.parameters()).device
    network.eval()
    guesses = [network(to_unit_range(chunk).to(device)).argmax(1).cpu() for chunk in torch.split(images, 500)]
    return int((torch.cat(guesses) == labels).sum()) / len(images)
