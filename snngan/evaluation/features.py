"""Feature extractors: what turns images into features, with a name and a hash that are reported beside every metric."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import error_line, to_unit_range
from snngan.evaluation.feature_classifier import prepare_features
from snngan.evaluation.sources import ImagesLike, Reader, digest_of, find_run
from snngan.files import check_local
from snngan.objectives.encoder import check_run_shape, find_classifier, load_run_encoder, read_run_config
from snngan.registry import import_module
from snngan.training.resolve import build_objective
from snngan.training.sampling import load_discriminator

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
FEATURE_SPACES = "classifier:NAME, classifier:RUN, inception, inception:FILE, pixels, or module:function"
"""What ``--features`` takes."""


class Extractor(Protocol):
    """Maps images to vectors of a feature space."""

    name: str
    """As it is given to ``--features``."""
    digest: str
    """Equal for extractors that give equal features."""
    resize: str
    """What is done to the images first, in words."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, D) float32, on the CPU, of images (n, C, H, W) as they are kept in a data set."""


def extract_features(extractor: Extractor, images: Tensor) -> Tensor:
    """Return the features (N, D) of images (N, C, H, W), computed in chunks of 500."""
    return torch.cat([extractor(chunk) for chunk in torch.split(images, 500)])


class Pixels:
    """The images themselves, in [-1, 1]."""

    name, digest, resize = "pixels", "pixels", "none"

    def __call__(self, images: Tensor) -> Tensor:
        return to_unit_range(images).flatten(1)


class Inception:
    """The InceptionV3 of pytorch-fid, pool3: the 2048 features that FID is defined in.

    Gray images are repeated over three channels, and all are resized to 299x299 bilinearly, as pytorch-fid does.
    """

    resize = "RGB, bilinear to 299x299"

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        path = weights or published_weights()
        if weights and not path.is_file():
            raise ValueError(f"cannot find the file {path}; --features inception:FILE takes pytorch-fid's weights")
        if not path.is_file():
            raise ValueError(
                f"cannot find Inception weights at {path}: fetch them with --download, or name a file with --features "
                "inception:FILE; without them, use --features classifier:NAME"
            )
        self.network = _inception_network(path).to(device)
        self.name = "inception" if weights is None else f"inception:{weights}"
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            raise ValueError(f"{self.name} takes images, got 2-D points: use --features pixels")
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        resized = F.interpolate(rgb.to(self.device, torch.float32) / 255, (299, 299), mode="bilinear")
        features: Tensor = self.network(2 * resized - 1)
        return features.cpu()


class RunFeatures:
    """The features before the logits of a trained classifier, that of the first seed of ``run``.

    Raises:
        ValueError: the folder is not a classifier's run, or holds no sound checkpoint.
    """

    resize = "none"

    def __init__(self, run: Path, reader: Reader) -> None:
        self.network = load_run_encoder(run, reader.notify).to(reader.device)
        self.name, self.run, self.device = f"classifier:{run}", run, torch.device(reader.device)
        self.digest = digest_of(self.network.state_dict().values())
        self.shape = read_run_config(run).image_shape

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        check_run_shape(self.run, self.shape, tuple(images.shape[1:]))
        features: Tensor = self.network(to_unit_range(images).to(self.device))
        return features.flatten(1).float().cpu()


class FunctionFeatures:
    """A function of the user's, ``module:function``: images (N, C, H, W) float in [-1, 1] to features (N, D).

    The module is imported as by ``--import``. The images are on ``device``. The digest is that of the features of two
    fixed images, computed when the function is called first.

    Raises:
        ValueError: there is no such function, or it fails or returns something else.
    """

    resize = "none"

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        module, _, function = name.rpartition(":")
        self.name, self.device, self.digest = name, device, ""
        found = getattr(import_module(module, option="--features"), function, None)
        if not callable(found):
            raise ValueError(f"--features {name}: the module {module} has no function {function}")
        self.function = found

    def __call__(self, images: Tensor) -> Tensor:
        if not self.digest:
            fixed = torch.rand(2, *images.shape[1:], generator=torch.Generator().manual_seed(0))
            self.digest = digest_of([self._compute(2 * fixed - 1)])
        return self._compute(to_unit_range(images))

    @torch.no_grad()
    def _compute(self, images: Tensor) -> Tensor:
        try:
            features = self.function(images.to(self.device))
        except Exception as error:
            raise ValueError(f"{self.name} fails on images {tuple(images.shape)}: {error_line(error)}") from error
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
            form = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"{self.name} must return features ({len(images)}, D), got {form}")
        if not features.isfinite().all():
            raise ValueError(f"{self.name} must return finite features, got NaN or infinity")
        return features.float().cpu()


class DiscriminatorFeatures:
    """The feature space learned by the discriminator of the first of ``images`` that is a run.

    Raises:
        ValueError: none is, or its discriminator learns no feature space.
    """

    resize = "none"

    def __init__(self, images: Iterable[ImagesLike], reader: Reader) -> None:
        run = next((run for run in map(find_run, images) if run is not None), None)
        if run is None:
            raise ValueError("--space projection needs a run among A and B, whose discriminator learns a feature space")
        if (build_objective(run.config).discriminator_dim or 0) < 2:
            raise ValueError(
                f"{run.path}: the discriminator of {run.config.objective} learns no feature space; use --space features"
            )
        self.device, self.image_shape = torch.device(reader.device), run.config.image_shape
        self.discriminator = load_discriminator(run, self.device, reader.notify)
        self.name = f"learned space of run {run.path.name}"
        self.digest = digest_of(self.discriminator.state_dict().values())

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"the {self.name} takes images {self.image_shape}, got {tuple(images.shape[1:])}")
        features: Tensor = self.discriminator(to_unit_range(images).to(self.device))
        return features.cpu()


def choose_extractor(features: str, reader: Reader, image_size: int | None = None, download: bool = False) -> Extractor:
    """Return the extractor of ``FEATURE_SPACES`` that ``--features`` names; raises ``ValueError`` if there is none.

    The data set of ``classifier:NAME`` is read at ``image_size``. ``download`` fetches missing Inception weights.
    """
    check_local(features)
    kind, colon, place = features.partition(":")
    if download and features != "inception":
        raise ValueError(f"--download fetches Inception weights: give --features inception, got {features}")
    if features == "pixels":
        return Pixels()
    run = find_classifier(features)
    if run is not None:
        return RunFeatures(run, reader)
    if kind == "classifier" and place:
        dataset = reader.load(place, image_size)
        return prepare_features(dataset, reader)
    if features == "inception" and download and not published_weights().is_file():
        from pytorch_fid.inception import FID_WEIGHTS_URL

        reader.notify(f"fetching {FID_WEIGHTS_URL} as {published_weights()}")
        fetch(FID_WEIGHTS_URL, published_weights())
    if features == "inception" or (kind == "inception" and place):
        return Inception(Path(os.path.expanduser(place)) if colon else None, reader.device)
    if not place:
        raise ValueError(f"--features must be {FEATURE_SPACES}, got {features!r}")
    try:
        return FunctionFeatures(features, reader.device)
    except ValueError as error:
        raise ValueError(f"{error}; --features must be {FEATURE_SPACES}") from error


def published_weights() -> Path:
    """Return where torch's hub keeps pytorch-fid's Inception weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def fetch(url: str, path: Path) -> None:
    """Download ``url`` to the file ``path``, whole or not at all.

    Raises:
        ValueError: it cannot be fetched or written, or its SHA-256 does not start with the digits in its name.
    """
    digest = url.rpartition("-")[2].partition(".")[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except Exception as error:  # network, disk and digest: each has its own kind of error
        raise ValueError(
            f"{url} could not be fetched as {path} ({error_line(error)}): check network and disk, or put the file "
            "there yourself"
        ) from error


def _inception_network(path: Path) -> nn.Module:
    """Return pytorch-fid's InceptionV3 up to the last pooling, with the weights in ``path``."""
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

    # As pytorch-fid's fid_inception_v3, which would download the published weights, whatever weights are wanted. On
    # the meta device nothing is initialized or copied before the weights are assigned.
    with torch.device("meta"):
        network: nn.Module = inception_v3(weights=None, init_weights=False, aux_logits=False, num_classes=1008)
        network.Mixed_5b = FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = FIDInceptionE_1(1280)
        network.Mixed_7c = FIDInceptionE_2(2048)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except Exception as error:  # another network, or a file of another kind
        raise ValueError(
            f"{path} does not hold the weights of pytorch-fid's InceptionV3: {error_line(error)[:200]}"
        ) from error
    network.fc = nn.Identity()
    return network.float().eval().requires_grad_(False)
