"""Objectives that compare images in the feature spaces of frozen networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from snngan.config import TrainConfig, option
from snngan.data import Dataset, to_unit_range
from snngan.data.datasets import data_folder, load_dataset
from snngan.losses.entangled import hidden_layers, layer_hooks
from snngan.memory import available_bytes
from snngan.objectives import Batch, Discriminator, Objective, ObjectiveOptions, paired_classes
from snngan.objectives.encoder import (
    build_encoder,
    find_classifier,
    load_or_train_encoder,
    load_run_encoder,
    summarize_maps,
)
from snngan.registry import import_module

PIXELS, CLASSIFIER = "pixels", "classifier"


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(ObjectiveOptions):
    """Options of an objective without a discriminator that compares images in feature spaces."""

    features: str = option(
        "",
        "feature spaces, with commas: pixels, classifier (a small one of the training images), classifier:NAME (of "
        "that data set), classifier:RUN (folder of a trained one), module:function of your own; empty: "
        "pixels,classifier, or pixels without labels",
    )
    layers: str = option("fc", "layers of the classifiers, names or patterns with commas")
    pixel_weight: float = option(2.0, "weight of pixels, where each other space has 1", low=0, high=1e6)


class FeatureSpaces(Objective):
    """The sum over the spaces of a loss ``compare`` that a subclass defines.

    Without labels to train a classifier on, pixels are the only space.
    """

    Options = FeatureOptions
    options: Any
    discriminator_dim = None
    needs_balanced_classes = True
    recommended = MappingProxyType(
        {
            "arch": "mlp", "smoothing": True, "upsampling": "bilinear", "conditional": True,
            "batch_size": 256, "learning_rate": 4e-3, "steps": 5000,
        }
    )  # fmt: skip

    def __init__(self, options: ObjectiveOptions) -> None:
        super().__init__(options)
        self.spaces, self.layers = self.options.features.split(","), self.options.layers.split(",")
        self.encoders = nn.ModuleDict()
        self.temperatures = nn.ModuleDict()  # rules by space, of a subclass that has any
        self._hidden: dict[str, dict[str, nn.Module]] = {}
        self._functions = {each: import_function(each) for each in self.spaces if is_function(each)}
        for name in self.spaces:
            if not is_classifier(name):
                self.add_space(name)
        self._images: Tensor | None = None
        self._remembered: dict[str, Tensor] | None = None

    def add_space(self, name: str) -> None:
        """Get ready for features of this name."""

    def compare(self, name: str, real: Tensor, fake: Tensor, classes: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the loss () of the features (N, D) and (M, D) of a space, of ``classes`` (N,) and (M,) if any."""
        raise NotImplementedError

    @classmethod
    def make_options(cls, given: Mapping[str, Any]) -> Any:
        options = super().make_options(given)
        spaces = []
        for each in (options.features or PIXELS).split(","):
            if each != PIXELS and not is_classifier(each) and not is_function(each):
                raise ValueError(
                    "features must be pixels, classifier, classifier:NAME, classifier:RUN or module:function, got "
                    f"{each!r}"
                )
            run = find_classifier(each)
            if run is None and is_classifier(each) and "/" in each and each.count(":") == 1:
                raise ValueError(f"features {each}: {each.partition(':')[2]} is not the folder of a classifier's run")
            spaces.append(each if run is None else f"{CLASSIFIER}:{run.absolute()}")
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
                encoder = self.encoders[str(index)] = build_encoder(config.image_shape, find_classifier(each))
                self._hidden[str(index)] = hidden_layers(encoder, self.layers)
                for layer in self._hidden[str(index)]:
                    self.add_space(f"{each}/{layer}")

    def pretrain(
        self, config: TrainConfig, dataset: Dataset, device: torch.device, notify: Callable[[str], None]
    ) -> None:
        folder = data_folder(config.data_dir) / "features"
        for index, encoder in self.encoders.items():
            space = self.spaces[int(index)]
            run, name = find_classifier(space), space.partition(":")[2]
            if run is not None:
                trained = load_run_encoder(run, notify)
            else:
                data = load_dataset(name, data_dir=config.data_dir, keep=False, notify=notify) if name else dataset
                if data.image_shape != config.image_shape:
                    raise ValueError(f"features: the images of {name} are {data.image_shape}, not {config.image_shape}")
                trained = load_or_train_encoder(data, folder, device, notify)
            encoder.load_state_dict(trained.state_dict())

    def remember(self, images: Tensor, *, flips: bool = False) -> None:
        self._images, self._flips, self._remembered = images, flips, None

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
                with layer_hooks(self._hidden[str(index)], outputs.__setitem__):
                    encoder(images)
                found |= {f"{each}/{layer}": summarize_maps(output) for layer, output in outputs.items()}
        return {name: each.float() for name, each in found.items()}

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        classes, real_features = paired_classes(real, fake), self._real_features(real)
        losses = [
            (self.options.pixel_weight if name == PIXELS else 1.0)
            * self.compare(name, real_features[name], found, classes)
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
            count = len(self._images) * (1 + self._flips)
            if 4 * sum(sizes) * count / 2 < free_bytes(real.images.device) / 4:
                chunks = [self.embed(to_unit_range(each).to(real.images)) for each in torch.split(self._images, 500)]
                if self._flips:
                    flipped = (each.flip(3) for each in torch.split(self._images, 500))
                    chunks += [self.embed(to_unit_range(each).to(real.images)) for each in flipped]
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
