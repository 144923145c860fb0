"""What the experiments on latent codes share: autoencoders with and without the loss, trained once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.config import check_options, option
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.experiments import Setting, count
from snngan.losses.entangled import EntangledLoss
from snngan.losses.temperature import parse_temperature
from snngan.models.autoencoder import Autoencoder
from snngan.seeds import seed_for
from snngan.training.checkpoint import checkpoint_paths, load_newest, save_checkpoint
from snngan.training.divergence import DivergedError

CHUNK = 1000
"""Images in each pass over the held-out ones."""
CODE, ENCODER = ("encoder.code",), ("encoder.fc?", "encoder.code")
SIDES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"baseline": (), "SNNL of the code": CODE, "SNNL of half the code": CODE, "SNNL of all encoder layers": ENCODER}
)
"""Which layers' loss is taken; of half the code, that of its first units."""


@dataclass(frozen=True, kw_only=True)
class Autoencoders:
    """The size of an experiment that trains autoencoders."""

    dataset: str
    steps: int = count()
    batch_size: int = count()
    learning_rate: float = option(1e-3, "", low=1e-9, high=1)
    """Of Adam."""
    code: int = option(32, "", low=2)
    """Length of the code."""
    widths: str = "500-500-2000"
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    alpha: float = option(0.1, "", low=1e-9, high=1e6)
    """Weight of the loss beside the mean squared error of pixels in [-1, 1]; above 0, so that it disentangles."""
    temperature: str = "optimal"

    def __post_init__(self) -> None:
        check_options(self)
        parse_temperature(self.temperature)
        if not all(part.isdigit() and int(part) for part in self.widths.split("-")):
            raise ValueError(f"widths takes whole numbers above 0 such as 500-500-2000, not {self.widths!r}")

    def codes(self, side: str, seed: int, dataset: Dataset, setting: Setting) -> tuple[Tensor, float]:
        """Return the codes (N, code) of the held-out images, and the mean squared error of their reconstructions.

        They are left in the setting's folder, and found there the next time.

        Raises:
            ValueError: what lies there is of other settings or data.
            DivergedError: the loss is not finite; nothing is left then.
        """
        folder = setting.folder / "runs" / f"{side.replace(' ', '-')}-{seed}"
        known = {each.name: getattr(self, each.name) for each in dataclasses.fields(Autoencoders)}
        known["data"] = dataset.labeled_digest()
        if not checkpoint_paths(folder):
            setting.notify(f"{folder.name}: {self.steps} steps")
            codes, error = self._trained(side, seed, dataset, setting.device)
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(folder, self.steps, {"step": self.steps, "known": known, "codes": codes, "error": error})
        state: dict[str, Any] = load_newest(folder, setting.notify, holds="codes")
        if state["known"] != known:
            raise ValueError(f"{folder} holds another run than this experiment's: give another --out, or remove it")
        return state["codes"], state["error"]

    def _trained(self, side: str, seed: int, dataset: Dataset, device: torch.device) -> tuple[Tensor, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "weights"))
            network = Autoencoder(dataset.image_shape, self.code, [int(part) for part in self.widths.split("-")])
        network.to(device)
        criterion = EntangledLoss(
            network,
            SIDES[side] or CODE,
            self.alpha if SIDES[side] else 0.0,
            parse_temperature(self.temperature),
            units=self.code // 2 if "half" in side else None,
            task=lambda output, images, labels: F.mse_loss(output, images),
        )
        batches = Batches(
            dataset.train_images, self.batch_size, seed=seed, device=device, labels=dataset.train_labels
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        for step in range(1, self.steps + 1):
            images, labels = batches.next_images_and_labels()
            optimizer.zero_grad()
            loss = criterion(images, labels)
            loss.backward()
            optimizer.step()
            if (step % 50 == 0 or step == self.steps) and not bool(loss.isfinite()):
                raise DivergedError(f"step {step}: the autoencoder's loss is {loss.item()}: lower learning_rate")
        codes, errors = [], []
        with torch.no_grad():
            for chunk in torch.split(dataset.test_images, CHUNK):
                images = to_unit_range(chunk.to(device))
                own = network.encoder(images)
                codes.append(own.cpu())
                errors.append(F.mse_loss(network.decoder(own), images, reduction="none").flatten(1).mean(1).cpu())
        return torch.cat(codes), float(torch.cat(errors).mean())
