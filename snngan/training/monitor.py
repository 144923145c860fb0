"""What is logged of the same held-out images and latents throughout a run: entanglement, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from snngan.data import Dataset, to_unit_range
from snngan.losses.snnl import entanglement
from snngan.objectives import Batch

NUM_MONITORED = 256
"""Held-out images, and as many synthetic ones, whose entanglement is logged."""
NUM_MONITORED_SMALL = 128
"""The same for images of fewer than 100 values, whose steps are so short that more would cost over 3 % of the time."""
NUM_PROJECTED = 128
"""Monitored images that the discriminator embeds, too."""
GRID_IMAGES = 100
"""Images in a sample grid."""
GRID_COLUMNS = 10
"""Images of each class in the sample grid of a class-conditional generator."""
MAX_CLASSES = 20
"""The most classes that have a row in sample grids and an entanglement of their own; others follow from samples."""
MIN_PER_CLASS = 8
"""Monitored images that a class must have for its own entanglement."""


def measure_entanglement(
    real: Batch,
    fake: Batch,
    embed: Callable[[Batch], Tensor | None],
    spaces: Callable[[Tensor], Mapping[str, Tensor]],
    class_names: Sequence[str],
) -> dict[str, float]:
    """Return the entanglement of real and synthetic images by TensorBoard tag.

    Args:
        real: held-out images.
        fake: as many synthetic ones, of the same classes if they are labeled.
        embed: returns the embeddings of a batch in the space that the discriminator learns, or None.
        spaces: returns the features of images in each space that the objective trains in, by name.
        class_names: names of the classes, if the images are labeled.
    """
    found = entanglement(real.images, fake.images)
    values = {
        "entanglement/input": found.value,
        "entanglement/input_score": found.score,
        "entanglement/real_anchors": found.real_anchors,
        "entanglement/fake_anchors": found.fake_anchors,
        "entanglement/temperature": found.temperature,
    }
    embedded = [embed(take(batch, slice(NUM_PROJECTED))) for batch in (real, fake)]
    if embedded[0] is not None and embedded[1] is not None:
        values["entanglement/projection"] = entanglement(embedded[0], embedded[1]).value
    features = spaces(fake.images)
    for name, of_real in spaces(real.images).items():
        values[f"entanglement/space/{name.replace('/', '.')}"] = entanglement(of_real, features[name]).score
    for label, name in enumerate(class_names[:MAX_CLASSES]):
        rows = torch.as_tensor(real.labels) == label
        if int(rows.sum()) >= MIN_PER_CLASS:
            values[f"entanglement/class/{name}"] = entanglement(real.images[rows], fake.images[rows]).score
    return values


def take(batch: Batch, rows: slice) -> Batch:
    """Return some of the images of a batch."""
    return Batch(batch.images[rows], None if batch.labels is None else batch.labels[rows])


def held_out_rows(dataset: Dataset, labels: Tensor) -> Tensor:
    """Return held-out images (N, C, H, W) of the classes ``labels`` (N,), blank where a class has too few."""
    images = torch.full((len(labels), *dataset.image_shape), -1.0)
    for label in labels.unique():  # type: ignore[no-untyped-call]
        places = torch.nonzero(labels == label).squeeze(1)
        found = torch.nonzero(torch.as_tensor(dataset.test_labels) == label).squeeze(1)[: len(places)]
        images[places[: len(found)]] = to_unit_range(dataset.test_images[found])
    return images
