"""Feature extractors: what turns images into points, with a name and a hash that go beside every figure."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Protocol
from unittest import mock

import torch
from torch import Tensor, nn

from snngan.data import error_line, to_unit_range
from snngan.evaluation.programs import checked_program

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
SPELLINGS = "classifier:NAME, inception, inception:FILE, pixels, or a file saved by torch.export.save or torch.jit.save"
"""What ``--features`` takes."""


class Extractor(Protocol):
    """Maps images to points of a feature space."""

    name: str
    """As it is given to ``--features``."""
    digest: str
    """Equal for extractors that give equal features."""
    resize: str
    """What is done to the images first, in words."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, D) float32, on the CPU, of images (n, C, H, W) as they are kept in a data set."""


def features_of(extractor: Extractor, images: Tensor) -> Tensor:
    """Return the features (N, D) of images (N, C, H, W), taken a few hundred at a time."""
    return torch.cat([extractor(chunk) for chunk in torch.split(images, 500)])


class Pixels:
    """The images themselves, in [-1, 1]."""

    name, digest, resize = "pixels", "pixels", "none"

    def __call__(self, images: Tensor) -> Tensor:
        return to_unit_range(images).flatten(1)


class Inception:
    """The InceptionV3 of pytorch-fid, pool3: 2048 features, the ones that FID means.

    Gray images are repeated over three channels, and the network resizes to 299x299 bilinearly, as pytorch-fid does.
    """

    resize = "RGB, bilinear to 299x299"

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        path = weights or published_weights()
        if weights is None and not path.is_file():
            raise ValueError(
                f"there are no Inception weights at {path}: fetch them with --download, or name a file with --features "
                "inception:FILE; without them, use --features classifier:NAME"
            )
        state = _inception_weights(path)
        self.name = "inception" if weights is None else f"inception:{weights}"
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.device = torch.device(device)
        from pytorch_fid import inception

        # The constructor fetches the published weights, wherever others are; everything else of it is wanted.
        with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
            self.network = inception.InceptionV3().eval().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        _refuse_points(images, self.name)
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        features: Tensor = self.network(rgb.to(self.device, torch.float32) / 255)[0]
        return features.flatten(1).cpu()


class Program:
    """A network of the user's, saved by ``torch.export`` (.pt2) or as TorchScript: images in [-1, 1] to features.

    Raises:
        ValueError: the file is none, or holds more than a network: see ``checked_program``.
    """

    resize = "none"

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        if not path.is_file():
            raise ValueError(f"--features must be {SPELLINGS}; there is no file {path}")
        self.name, self.digest = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
        self.device = torch.device(device)
        try:
            content = checked_program(path)
            if path.suffix == ".pt2":
                self.network = torch.export.load(content).module().to(self.device)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # torch deprecates TorchScript, and yet it is in use
                    self.network = torch.jit.load(content, map_location=self.device).eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # a file of another kind fails in many ways
            raise ValueError(
                f"{path} is no network saved by torch.export.save (.pt2) or torch.jit.save: {error_line(error)[:200]}"
            ) from error

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        try:
            features = self.network(to_unit_range(images).to(self.device))
        except Exception as error:
            raise ValueError(
                f"{self.name} does not take images {tuple(images.shape)}: {error_line(error)[:200]}"
            ) from error
        if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != len(images):
            form = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"{self.name} must return features ({len(images)}, D), not {form}")
        features = features.flatten(1).float().cpu()
        if not bool(features.isfinite().all()):
            raise ValueError(f"{self.name} returns features that are not finite")
        return features


class SmallClassifier(nn.Module):
    """Two convolutions and two linear layers; the features are the 128 units before the logits.

    Args:
        shape: (C, H, W) of the images, 4 pixels a side or more.
        num_classes: how many logits.
    """

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


class SmallFeatures:
    """The features of a :class:`SmallClassifier` trained on one data set."""

    resize = "none"

    def __init__(self, name: str, network: SmallClassifier, shape: tuple[int, int, int], digest: str) -> None:
        self.name, self.network, self.shape, self.digest = f"classifier:{name}", network.eval(), shape, digest
        self.device = next(network.parameters()).device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        _refuse_points(images, self.name)
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"{self.name} takes images {self.shape}, got {tuple(images.shape[1:])}: use --features inception or "
                "pixels, or classifier:NAME of a data set of this shape"
            )
        features: Tensor = self.network.features(to_unit_range(images).to(self.device))
        return features.cpu()


def published_weights() -> Path:
    """Return where torch's hub keeps pytorch-fid's Inception weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def fetch(url: str, path: Path) -> None:
    """Fetch ``url`` as the file ``path``, whole or not at all.

    Raises:
        ValueError: it cannot be fetched or written, or its SHA-256 does not start with the digits in its name.
    """
    digest = re.search(r"-([0-9a-f]{8,})\.", url)
    assert digest, "torch's hub puts a digest into the name of each file"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest[1], progress=False)
    except Exception as error:  # network, disk and digest: each has its own kind of error
        raise ValueError(
            f"{url} could not be fetched as {path} ({error_line(error)[:200]}): check network and disk, or put the "
            "file there yourself"
        ) from error


def _inception_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; --features inception:FILE takes pytorch-fid's Inception weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind fails in many ways
        raise ValueError(f"{path} holds no weights that can be read safely: {error_line(error)[:200]}") from error
    if not isinstance(state, dict) or "Conv2d_1a_3x3.conv.weight" not in state:
        raise ValueError(f"{path} holds no weights of pytorch-fid's InceptionV3")
    return state


def _refuse_points(images: Tensor, name: str) -> None:
    if images.is_floating_point():
        raise ValueError(f"{name} takes pictures; these are points of the plane: use --features pixels")
