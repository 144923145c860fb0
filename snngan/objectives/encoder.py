"""Networks whose features an objective compares images in: a small classifier, trained once and kept in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import Dataset, ImageShape, to_unit_range
from snngan.files import SaveError, load_tensors, save_tensors
from snngan.models import CLASSIFIERS
from snngan.seeds import seed_for

ARCHITECTURE, STEPS, BATCH_SIZE, LEARNING_RATE, SEED = "strided", 1200, 64, 4e-3, 0
GRID = 4
"""The maps of a convolution are summarized in GRID x GRID cells."""


def can_train_encoder(dataset: Dataset) -> bool:
    """Return whether the data are pictures of two classes or more, large enough for the classifier."""
    labels = dataset.train_labels
    return (
        labels is not None
        and not dataset.is_points
        and min(dataset.image_shape[1:]) >= 4
        and 0 <= int(labels.min()) < int(labels.max()) < len(labels)
    )


def build_encoder(image_shape: ImageShape) -> nn.Module:
    """Return an untrained encoder in evaluation mode: the classifier without its logits."""
    return remove_logits(_new_classifier(image_shape, 2))


def remove_logits(network: nn.Module) -> nn.Module:
    """Remove the last layer of a classifier, in place; return it in evaluation mode."""
    del network.logits
    return network.eval().requires_grad_(False)


def load_or_train_encoder(
    dataset: Dataset, folder: Path, device: torch.device, notify: Callable[[str], None]
) -> nn.Module:
    """Return the encoder trained on the training images of ``dataset``, from ``folder`` or kept there from now on.

    Raises:
        ValueError: the data cannot be used for this, or the file in the folder is damaged.
    """
    if not can_train_encoder(dataset):
        raise ValueError(
            f"{dataset.name}: a classifier for features needs pictures with sides of 4 pixels or more and labels of 2 "
            "classes or more, numbered from 0 on: use --set features=pixels"
        )
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", dataset.name.rpartition("/")[2].rpartition(":")[2])[-40:]
    path = folder / f"encoder-{name}-{dataset.labeled_digest()[:12]}.safetensors"
    encoder = build_encoder(dataset.image_shape)
    if path.exists():
        try:
            encoder.load_state_dict(load_tensors(path)[0])
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold an encoder of {dataset.name}: delete it") from error
        return encoder.to(device)
    notify(f"training a small classifier of {dataset.name}, in whose features the generator is trained; kept as {path}")
    encoder = remove_logits(train_encoder(dataset, device, STEPS))
    try:
        save_tensors(path, encoder.state_dict())
    except SaveError as error:
        notify(f"{error}; going on without")
    return encoder


def train_encoder(dataset: Dataset, device: torch.device, steps: int) -> nn.Module:
    """Return a classifier of ``dataset``, trained on randomly shifted images, always from the same seed."""
    images, labels = dataset.train_images, dataset.train_labels
    assert labels is not None
    network = _new_classifier(dataset.image_shape, dataset.num_classes).to(device).train()
    random = torch.Generator().manual_seed(seed_for(SEED, "encoder batches"))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        rows = torch.randint(len(images), (min(BATCH_SIZE, len(images)),), generator=random)
        logits = network(shift(to_unit_range(images[rows]), random).to(device))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[rows].to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network


def shift(images: Tensor, random: torch.Generator) -> Tensor:
    """Return ``images`` (N, C, H, W), each moved by a fourteenth of its size or less, with borders repeated."""
    count, _, height, width = images.shape
    reach = max(1, max(height, width) // 14)
    down, right = torch.randint(2 * reach + 1, (2, count), generator=random)
    windows = F.pad(images, (reach,) * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count), :, down, right]


def summarize_maps(output: Tensor) -> Tensor:
    """Return the features (N, D) of a layer's output.

    They are the output (N, D) itself, or of feature maps (N, C, H, W) their mean and standard deviation and, if they
    are larger, their means in 4x4 cells.
    """
    if output.dim() != 4:
        return output.flatten(1)
    deviation = (output.var((2, 3), unbiased=False) + 1e-6).sqrt()  # whose slope at 0 is finite
    cells = F.adaptive_avg_pool2d(output, GRID) if min(output.shape[2:]) > GRID else output
    return torch.cat([output.mean((2, 3)), deviation, cells.flatten(1)], 1)


def _new_classifier(image_shape: ImageShape, num_classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(SEED, "encoder"))
        return CLASSIFIERS[ARCHITECTURE]().network(image_shape, num_classes)
