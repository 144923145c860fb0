"""Feature extractors: what turns images into features, with a name and a hash that are reported beside every metric."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snngan.data import Dataset, error_line, to_unit_range
from snngan.data.datasets import Notify, load_dataset
from snngan.evaluation.feature_classifier import can_train_features, load_or_train_features, refuse_points
from snngan.evaluation.programs import checked_program
from snngan.evaluation.sources import ImagesLike, ImageSource, digest_of, find_run, match_channels
from snngan.files import check_local
from snngan.training.resolve import build_objective
from snngan.training.sampling import load_discriminator

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
FEATURE_SPACES = (
    "classifier:NAME, inception, inception:FILE, pixels, or a file saved by torch.export.save or torch.jit.save"
)
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
        if weights is None and not path.is_file():
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
        refuse_points(images, self.name)
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        resized = F.interpolate(rgb.to(self.device, torch.float32) / 255, (299, 299), mode="bilinear")
        features: Tensor = self.network(2 * resized - 1)
        return features.cpu()


class ExportedNetwork:
    """A user's network, saved by ``torch.export`` (.pt2) or as TorchScript: images in [-1, 1] to features.

    Raises:
        ValueError: the file is not such a network, or holds more than a network: see ``checked_program``.
    """

    resize = "none"

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        if not path.is_file():
            raise ValueError(f"--features must be {FEATURE_SPACES}; cannot find the file {path}")
        self.name, self.digest = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
        self.device = torch.device(device)
        try:
            content = checked_program(path)
            if path.suffix == ".pt2":
                self.network = torch.export.load(content).module().to(self.device)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but still in use
                    self.network = torch.jit.load(content, map_location=self.device).eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # a file of another kind fails in many ways
            raise ValueError(
                f"{path} is not a network saved by torch.export.save (.pt2) or torch.jit.save: "
                f"{error_line(error)[:200]}"
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
            raise ValueError(f"{self.name} must return features ({len(images)}, D), got {form}")
        features = features.flatten(1).float().cpu()
        if not bool(features.isfinite().all()):
            raise ValueError(f"{self.name} must return finite features, got NaN or infinity")
        return features


class DiscriminatorFeatures:
    """The feature space learned by the discriminator of the first of ``images`` that is a run.

    Raises:
        ValueError: none is, or its discriminator learns no feature space.
    """

    resize = "none"

    def __init__(self, images: Iterable[ImagesLike], device: torch.device, notify: Notify) -> None:
        run = next((run for run in map(find_run, images) if run is not None), None)
        if run is None:
            raise ValueError("--space projection needs a run among A and B, whose discriminator learns a feature space")
        if (build_objective(run.config).discriminator_dim or 0) < 2:
            raise ValueError(
                f"{run.path}: the discriminator of {run.config.objective} learns no feature space; use --space features"
            )
        self.discriminator, self.image_shape = load_discriminator(run, device, notify), run.config.image_shape
        self.device, self.name = device, f"learned space of run {run.path.name}"
        self.digest = digest_of(self.discriminator.state_dict().values())

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"the {self.name} takes images {self.image_shape}, got {tuple(images.shape[1:])}")
        with torch.no_grad():
            features: Tensor = self.discriminator(to_unit_range(images).to(self.device))
        return features.cpu()


def choose_extractor(
    features: str,
    folder: Path,
    *,
    also: Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_broken: bool = False,
    download: bool = False,
    device: torch.device,
    notify: Notify,
) -> Extractor:
    """Return the extractor that ``--features`` names, one of ``FEATURE_SPACES``.

    Trained classifiers are kept in ``folder``, and searched for in ``also`` too. ``data_dir``, ``image_size`` and
    ``skip_broken`` say how the data set of ``classifier:NAME`` is read; ``download`` allows to fetch Inception weights.

    Raises:
        ValueError: the feature space is unknown or cannot be used.
    """
    check_local(features)
    kind, colon, place = features.partition(":")
    if colon and not place:
        raise ValueError(f"--features must be {FEATURE_SPACES}, got {features!r}")
    if download and features != "inception":
        raise ValueError(f"--download fetches Inception weights: give --features inception, got {features}")
    if kind == "classifier" and colon:
        reading: dict[str, Any] = {"image_size": image_size, "skip_broken": skip_broken, "notify": notify}
        dataset = load_dataset(place, data_dir=data_dir, keep=False, **reading)
        return load_or_train_features(dataset, folder, device, notify, also=also)
    if features == "pixels":
        return Pixels()
    if kind != "inception":
        return ExportedNetwork(Path(features), device)
    if download and not published_weights().is_file():
        from pytorch_fid.inception import FID_WEIGHTS_URL

        notify(f"fetching {FID_WEIGHTS_URL} as {published_weights()}")
        fetch(FID_WEIGHTS_URL, published_weights())
    return Inception(Path(place).expanduser() if colon else None, device)


def default_extractor(
    fake: ImageSource,
    real: ImageSource,
    dataset: Dataset | None,
    folder: Path,
    *,
    also: Path | None = None,
    device: torch.device,
    notify: Notify,
) -> Extractor:
    """Return a small classifier of ``dataset`` if one can be trained and takes the images, else the pixels."""
    shapes = {side.shape for side in match_channels(fake, real)}
    if dataset is None or shapes != {dataset.image_shape} or not can_train_features(dataset):
        return Pixels()
    return load_or_train_features(dataset, folder, device, notify, also=also)


def published_weights() -> Path:
    """Return where torch's hub keeps pytorch-fid's Inception weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def fetch(url: str, path: Path) -> None:
    """Download ``url`` to the file ``path``, whole or not at all.

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


def _inception_network(path: Path) -> nn.Module:
    """Return pytorch-fid's InceptionV3 up to the last pooling, with the weights in ``path``.

    It is torchvision's network with the blocks that pytorch-fid patches, as its ``fid_inception_v3`` builds it; that
    function downloads the published weights, whatever weights are wanted. The network is built on the meta device, so
    that nothing is initialized or copied before the weights are assigned.
    """
    if not path.is_file():
        raise ValueError(f"cannot find the file {path}; --features inception:FILE takes pytorch-fid's weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind fails in many ways
        raise ValueError(f"{path} does not hold weights that can be read safely: {error_line(error)[:200]}") from error
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

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
        network.load_state_dict(state, assign=True)
    except Exception as error:  # another network, or no state dict
        raise ValueError(f"{path} does not hold the weights of pytorch-fid's InceptionV3") from error
    network.fc = nn.Identity()
    return network.float().eval().requires_grad_(False)
