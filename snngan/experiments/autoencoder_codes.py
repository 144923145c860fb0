"""Latent codes of autoencoders that are trained with and without the loss, once for each experiment folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.config import option
from snngan.data import Dataset, to_unit_range
from snngan.data.batches import Batches
from snngan.experiments import Experiment, ExperimentContext
from snngan.experiments.cache import compute_once
from snngan.experiments.runs import DivergedError
from snngan.losses.entangled import EntangledLoss
from snngan.losses.temperature import parse_temperature
from snngan.models.autoencoder import Autoencoder
from snngan.seeds import seed_for

CHUNK = 1000
"""Held-out images encoded at a time."""
CODE, ENCODER = ("encoder.code",), ("encoder.fc?", "encoder.code")
VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"baseline": (), "SNNL of the code": CODE, "SNNL of half the code": CODE, "SNNL of all encoder layers": ENCODER}
)
"""Layers whose loss is added; for half the code, the loss of its first units."""
MNIST = MappingProxyType(
    {
        "dataset": "mnist",
        "seeds": 4,
        "batch_size": 256,
        "code_size": 32,
        "widths": "500-500-2000",
    }
)
"""What the presets of several experiments have in common."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderExperiment(Experiment):
    """An experiment that trains autoencoders."""

    dataset: str = option("digits", "data set that the autoencoders are trained on")
    steps: int = option(4, "number of optimizer steps", low=1)
    batch_size: int = option(32, "images per step", low=1)
    learning_rate: float = option(1e-3, "learning rate of Adam", low=1e-9, high=1)
    code_size: int = option(4, "length of the code", low=2)
    widths: str = option("16-16-32", "units of the encoder's hidden layers; the decoder has them in reverse order")
    alpha: float = option(0.1, "weight of the loss beside the mean squared error of pixels", low=1e-9, high=1e6)
    temperature: str = option("optimal", "temperature rule of the loss")

    def check(self) -> None:
        parse_temperature(self.temperature)
        if not all(part.isdigit() and int(part) for part in self.widths.split("-")):
            raise ValueError(f"widths must be positive integers such as 500-500-2000, got {self.widths!r}")

    def codes(self, variant: str, seed: int, data: Dataset, context: ExperimentContext) -> tuple[Tensor, float]:
        """Return the codes (N, code_size) of the held-out images, and the mean squared error of reconstructions.

        Raises:
            ValueError: the context's folder holds codes of other options or data.
            DivergedError: the loss is not finite.
        """

        def compute() -> dict[str, Tensor]:
            context.notify(f"{path.stem}: {self.steps} steps")
            return self._train(variant, seed, data, context.device)

        path = context.folder / "codes" / f"{variant.replace(' ', '-')}-{seed}.npz"
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(AutoencoderExperiment)}
        found = compute_once(path, {**settings, "data": data.labeled_digest()}, compute)
        return found["codes"], float(found["errors"].mean())

    def _train(self, variant: str, seed: int, data: Dataset, device: torch.device) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "weights"))
            network = Autoencoder(data.image_shape, self.code_size, [int(part) for part in self.widths.split("-")])
        network.to(device)
        criterion = EntangledLoss(
            network,
            VARIANTS[variant] or CODE,
            self.alpha if VARIANTS[variant] else 0.0,
            parse_temperature(self.temperature),
            units=self.code_size // 2 if "half" in variant else None,
            task=lambda output, images, labels: F.mse_loss(output, images),
        )
        batches = Batches(data.train_images, self.batch_size, seed=seed, device=device, labels=data.train_labels)
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
            for chunk in torch.split(data.test_images, CHUNK):
                images = to_unit_range(chunk.to(device))
                code = network.encoder(images)
                codes.append(code.cpu())
                errors.append(F.mse_loss(network.decoder(code), images, reduction="none").flatten(1).mean(1).cpu())
        return {"codes": torch.cat(codes), "errors": torch.cat(errors)}
