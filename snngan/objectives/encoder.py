"""Networks whose features an objective compares images in: a small classifier, trained once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.checkpoint import explain_mismatch, load_newest
from snngan.config import ClassifyConfig, make_config
from snngan.data import Dataset, ImageShape, to_unit_range
from snngan.data.augment import shift_images
from snngan.files import SaveError, load_tensors, read_json, save_tensors
from snngan.models import CLASSIFIERS
from snngan.models.batch_norm import convert_batch_norm
from snngan.seeds import seed_for

ARCHITECTURE, STEPS, BATCH_SIZE, LEARNING_RATE, SEED = "strided", 3600, 64, 4e-3, 0
GRID = 4
"""The maps of a convolution are summarized in GRID x GRID cells."""


def find_classifier(space: str) -> Path | None:
    """Return the folder of the classifier's run that ``classifier:RUN`` names, or None for a data set and others."""
    folder = Path(space.partition(":")[2]).expanduser()
    return folder if space.startswith("classifier:") and (folder / "config.json").is_file() else None


def build_encoder(image_shape: ImageShape, run: Path | None = None) -> nn.Module:
    """Return an untrained encoder in evaluation mode: a classifier without its logits, that of ``run`` if any.

    Raises:
        ValueError: there is no classifier in the folder ``run``, or it is one of other images; or images are too small.
    """
    if run is not None:
        config = read_run_config(run)
        check_run_shape(run, config.image_shape, image_shape)
        return remove_logits(_build_classifier(config))
    if min(image_shape[1:]) < 4:
        raise ValueError("a classifier for features needs sides of 4 pixels or more: use --set features=pixels")
    return remove_logits(_new_classifier(image_shape, 2))


def remove_logits(network: nn.Module) -> nn.Module:
    """Replace the last linear layer of a classifier by the identity, in place; return it in evaluation mode."""
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    network.set_submodule(last, nn.Identity())
    return network.eval().requires_grad_(False)


def load_run_encoder(run: Path, notify: Callable[[str], None]) -> nn.Module:
    """Return the encoder made of the classifier, that of the first seed, in the newest checkpoint of ``run``.

    Raises:
        ValueError: there is no sound checkpoint of a classifier.
    """
    config, networks = read_run_config(run), load_newest(run / "checkpoints", notify)["networks"]
    network = _build_classifier(config)
    with explain_mismatch("network"):
        network.load_state_dict(networks[str(config.seed_list[0])])
    return remove_logits(network)


def check_run_shape(run: Path, expected: ImageShape, image_shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless images (C, H, W) have the shape that the classifier of ``run`` takes."""
    if expected != image_shape:
        raise ValueError(f"features: the classifier of {run} takes images {expected}, got {image_shape}")


def read_run_config(run: Path) -> ClassifyConfig:
    """Return the config of a classifier's run; raises ``ValueError`` if the folder is another one."""
    content = read_json(run / "config.json")
    if not isinstance(content, dict) or content.get("kind") != ClassifyConfig.kind:
        raise ValueError(f"features: {run} must be the folder of a classifier's run, from snngan classify train")
    return ClassifyConfig.from_json(content["config"])


def _build_classifier(config: ClassifyConfig) -> nn.Module:
    network = make_config(CLASSIFIERS[config.arch], config.arch_options).network(config.image_shape, config.num_classes)
    return convert_batch_norm(network)


def load_or_train_encoder(
    dataset: Dataset, folder: Path, device: torch.device, notify: Callable[[str], None]
) -> nn.Module:
    """Return the encoder trained on the training images of ``dataset``, from ``folder`` or kept there from now on.

    Raises:
        ValueError: the data cannot be used for this, or the file in the folder is damaged.
    """
    if not dataset.suits_classifier:
        raise ValueError(
            f"{dataset.name}: a classifier for features needs pictures with sides of 4 pixels or more and labels of 2 "
            "classes or more, numbered from 0 on: use --set features=pixels"
        )
    path = folder / f"encoder-{dataset.file_stem()}.safetensors"
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
    reach = max(1, max(dataset.image_shape[1:]) // 14)
    for _ in range(steps):
        rows = torch.randint(len(images), (min(BATCH_SIZE, len(images)),), generator=random)
        offsets = torch.randint(-reach, reach + 1, (2, len(rows)), generator=random).T
        logits = network(to_unit_range(shift_images(images[rows], offsets)).to(device))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[rows].to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network


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
