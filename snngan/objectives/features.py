"""Generators trained by the soft nearest neighbor loss in the feature spaces of frozen networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import TrainConfig, option, with_default
from snngan.data import Dataset, to_unit_range
from snngan.data.datasets import data_folder, load_dataset
from snngan.losses.entangled import hidden_layers, layer_hooks
from snngan.losses.temperature import parse_temperature
from snngan.memory import available_bytes
from snngan.objectives import OBJECTIVES, Batch, Discriminator, paired_classes
from snngan.objectives.encoder import build_encoder, load_or_train_encoder, summarize_maps
from snngan.objectives.snnl import EntanglementOptions, PixelEntanglement
from snngan.registry import import_module

PIXELS, CLASSIFIER = "pixels", "classifier"


@OBJECTIVES.register("snnl-features")
class FeatureEntanglement(PixelEntanglement):
    """No discriminator: the generator raises the entanglement of real and fake images in several feature spaces.

    The loss is the sum over the spaces, each with temperatures relative to the mean distance of the real images
    there. Without labels to train a classifier on, pixels are the only space, and it is that of ``snnl-pixel``.

    Source: the loss is that of ``snnl-pixel``; one-step generators trained in the features of frozen networks are those
    of Deng et al. 2026, "Generative Modeling via Drifting", section 4.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(EntanglementOptions):
        form: str = with_default(EntanglementOptions, "form", "chance-capped")
        features: str = option(
            "",
            "feature spaces, with commas: pixels, classifier (a small one of the training images), classifier:NAME (of "
            "that data set), module:function of your own; empty: pixels,classifier, or pixels without labels",
        )
        layers: str = option("fc", "layers of the classifiers, names or patterns with commas")
        pixel_weight: float = option(2.0, "weight of pixels, where each other space has 1", low=0, high=1e6)

    options: Options
    recommended = MappingProxyType(
        {
            "arch": "mlp", "smoothing": True, "upsampling": "bilinear", "conditional": True,
            "batch_size": 256, "learning_rate": 4e-3, "steps": 5000,
        }
    )  # fmt: skip

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        del self.temperature  # each space has its own
        self.spaces, self.layers = options.features.split(","), options.layers.split(",")
        self.encoders, self.temperatures = nn.ModuleDict(), nn.ModuleDict()
        self._functions = {each: import_function(each) for each in self.spaces if is_function(each)}
        for name in self.spaces:
            if not is_classifier(name):
                self._add_temperature(name)
        self._images: Tensor | None = None
        self._remembered: dict[str, Tensor] | None = None

    def _add_temperature(self, space: str) -> None:
        """Give a space its own rule: a learned or annealed temperature has a state."""
        self.temperatures[space.replace(".", "-")] = parse_temperature(self.options.temperature)

    @classmethod
    def make_options(cls, given: Mapping[str, Any]) -> Any:
        options = super().make_options(given)
        spaces = (options.features or PIXELS).split(",")
        for each in spaces:
            if each != PIXELS and not is_classifier(each) and not is_function(each):
                raise ValueError(
                    f"features must be pixels, classifier, classifier:NAME or module:function, got {each!r}"
                )
        if len(set(spaces)) < len(spaces):
            raise ValueError(f"features must differ, got {options.features}")
        return replace(options, features=",".join(spaces))

    @classmethod
    def recommend_options(cls, dataset: Dataset) -> Mapping[str, Any]:
        return {"features": f"{PIXELS},{CLASSIFIER}" if dataset.suits_classifier else PIXELS}

    def set_up(self, config: TrainConfig) -> None:
        super().set_up(config)
        for index, each in enumerate(self.spaces):
            if is_classifier(each):
                encoder = self.encoders[str(index)] = build_encoder(config.image_shape)
                for layer in hidden_layers(encoder, self.layers):
                    self._add_temperature(f"{each}/{layer}")

    def pretrain(
        self, config: TrainConfig, dataset: Dataset, device: torch.device, notify: Callable[[str], None]
    ) -> None:
        for index, encoder in self.encoders.items():
            _, _, name = self.spaces[int(index)].partition(":")
            data = load_dataset(name, data_dir=config.data_dir, keep=False, notify=notify) if name else dataset
            if data.image_shape != config.image_shape:
                raise ValueError(f"features: the images of {name} are {data.image_shape}, not {config.image_shape}")
            trained = load_or_train_encoder(data, data_folder(config.data_dir) / "features", device, notify)
            encoder.load_state_dict(trained.state_dict())

    def remember(self, images: Tensor) -> None:
        self._images, self._remembered = images, None

    @torch.no_grad()
    def embed(self, images: Tensor) -> dict[str, Tensor]:
        return {name: found for name, found in self.features(images).items() if name != PIXELS}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features (N, D) of images (N, C, H, W) in [-1, 1] by the name of their space."""
        found: dict[str, Tensor] = {}
        for index, each in enumerate(self.spaces):
            if each == PIXELS:
                found[each] = images.flatten(1)
            elif is_function(each):
                found[each] = self._functions[each](images)
            else:
                encoder, outputs = self.encoders[str(index)], dict[str, Tensor]()
                with layer_hooks(hidden_layers(encoder, self.layers), outputs.__setitem__):
                    encoder(images)
                found |= {f"{each}/{layer}": summarize_maps(output) for layer, output in outputs.items()}
        return {name: each.float() for name, each in found.items()}

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        classes, real_features = paired_classes(real, fake), self._real_features(real)
        losses = [
            (self.options.pixel_weight if name == PIXELS else 1.0)
            * self.entangle(real_features[name], found, classes, self.temperatures[name.replace(".", "-")])
            for name, found in self.features(fake.images).items()
        ]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _real_features(self, real: Batch) -> dict[str, Tensor]:
        """Return the features of real images: those of all training images are computed once if they fit in memory."""
        if self._images is None or real.rows is None:
            return self.features(real.images)
        if self._remembered is None:
            sizes = [found.numel() for found in self.embed(to_unit_range(self._images[:2]).to(real.images)).values()]
            self._remembered = {}
            if 4 * sum(sizes) * len(self._images) / 2 < free_bytes(real.images.device) / 4:
                chunks = [self.embed(to_unit_range(each).to(real.images)) for each in torch.split(self._images, 500)]
                self._remembered = {name: torch.cat([each[name] for each in chunks]) for name in chunks[0]}
        if not self._remembered:
            return self.features(real.images)
        return {PIXELS: real.images.flatten(1), **{name: all[real.rows] for name, all in self._remembered.items()}}


def is_classifier(space: str) -> bool:
    """Return whether the features are those of a classifier: of the training images, or ``classifier:NAME``."""
    return space == CLASSIFIER or (space.startswith(f"{CLASSIFIER}:") and space != f"{CLASSIFIER}:")


def is_function(space: str) -> bool:
    """Return whether the features are those of a function of the user's, ``module:function``."""
    return not is_classifier(space) and all(space.rpartition(":"))


def import_function(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function ``module:function`` of the user's: images (N, C, H, W) in [-1, 1] to features (N, D)."""
    module, _, function = name.rpartition(":")
    found: Any = getattr(import_module(module, option="features"), function, None)
    if not callable(found):
        raise ValueError(f"features {name}: the module {module} has no function {function}")
    return found  # type: ignore[no-any-return]


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
