"""What generator and discriminator minimize: one class per objective, given the networks and not their outputs.

To add an objective, write one more class, here or in a module of your own (see ``--import``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snngan.config import TrainConfig, check_options, make_config, option
from snngan.data import Dataset
from snngan.lazy import public_names
from snngan.losses.penalty import zero_centered_penalty
from snngan.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Options of an objective, each declared by :func:`snngan.config.option`; set by ``--set NAME=VALUE``."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions(ObjectiveOptions):
    """Options of an objective with a discriminator."""

    r1: float = option(0.0, "weight of the zero-centered gradient penalty at real images", low=0, high=1e6)
    r2: float = option(0.0, "weight of the zero-centered gradient penalty at synthetic images", low=0, high=1e6)


def has_penalties(options: ObjectiveOptions) -> bool:
    """Return whether the discriminator's slope is penalized, so that its gradient is differentiated."""
    return isinstance(options, AdversarialOptions) and options.r1 + options.r2 > 0


@dataclass(frozen=True)
class Batch:
    """Images that an objective gets, real or synthetic.

    Attributes:
        images: (N, C, H, W) in [-1, 1].
        labels: (N,) int64, the class of each image; None unless the generator is class-conditional.
        rows: (N,) int64, where real images are in the training set; None for others.
    """

    images: Tensor
    labels: Tensor | None = None
    rows: Tensor | None = None


Discriminator = Callable[[Batch], Tensor]
"""Maps a batch to the discriminator's outputs (N, discriminator_dim)."""


def paired_classes(real: Batch, fake: Batch) -> tuple[Tensor, Tensor] | None:
    """Return the labels of both batches, or None where they have none."""
    return None if real.labels is None or fake.labels is None else (real.labels, fake.labels)


class Objective(nn.Module):
    """The losses of generator and discriminator; its own state belongs in buffers, which are saved.

    Both return a scalar () for batches ``real`` and ``fake``, of which in ``generator_loss`` the fake images carry
    gradient to the generator.

    Example:
        >>> class Logistic(Objective):
        ...     def discriminator_loss(self, discriminator, real, fake):
        ...         return nn.functional.softplus(discriminator(fake) - discriminator(real)).mean()
        ...
        ...     def generator_loss(self, discriminator, real, fake):
        ...         return nn.functional.softplus(-discriminator(fake)).mean()
        >>> loss = Logistic(Logistic.Options())
    """

    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions
    recommended: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Recommended defaults of training and architecture options; those that an architecture lacks are ignored."""
    differentiates_twice: ClassVar[bool] = False
    """Whether a loss contains a gradient of the discriminator."""
    needs_balanced_classes: ClassVar[bool] = False
    """Whether class-conditional batches must have as many images of each class."""

    options: Any
    discriminator_dim: int | None = 1
    """Outputs of the discriminator, which an option of this name overrides; None: without a discriminator."""
    num_classes: int = 0
    """Classes of a class-conditional generator, else 0."""

    def __init__(self, options: ObjectiveOptions) -> None:
        super().__init__()
        self.options = options
        self.discriminator_dim = getattr(options, "discriminator_dim", type(self).discriminator_dim)

    @classmethod
    def make_options(cls, given: Mapping[str, Any]) -> Any:
        """Return all options from those ``given``; raises ``ValueError`` for unknown or wrong ones."""
        return make_config(cls.Options, given)

    @classmethod
    def recommend_options(cls, dataset: Dataset) -> Mapping[str, Any]:
        """Return recommended options that depend on the data."""
        return {}

    def set_up(self, config: TrainConfig) -> None:
        """Get ready for runs of a resolved ``config``: build what depends on it, such as a network of the objective."""
        self.num_classes = config.num_classes

    def pretrain(
        self, config: TrainConfig, dataset: Dataset, device: torch.device, notify: Callable[[str], None]
    ) -> None:
        """Train what the objective needs before the first step of a new run; it is saved as part of its state."""

    def remember(self, images: Tensor, *, flips: bool = False) -> None:
        """Take note of the stored training images (N, C, H, W), to which ``rows`` of real batches point.

        With ``flips`` their mirror images follow as rows N to 2N.
        """

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """Return features (N, D) of images (N, C, H, W) in [-1, 1] by name, in which entanglement is tracked."""
        return {}

    def discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        """Return what the discriminator minimizes."""
        raise NotImplementedError

    def generator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        """Return what the generator minimizes."""
        raise NotImplementedError

    def penalized_discriminator_loss(self, discriminator: Discriminator, real: Batch, fake: Batch) -> Tensor:
        """Return ``discriminator_loss`` and the penalties r1 / 2 |gradient|^2 at real, r2 / 2 at synthetic images.

        Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", eq. 9 and 10.
        """
        if not has_penalties(self.options):
            return self.discriminator_loss(discriminator, real, fake)
        real, fake = (replace(batch, images=batch.images.detach().requires_grad_()) for batch in (real, fake))
        outputs: dict[str, Tensor] = {}

        def discriminate(batch: Batch) -> Tensor:
            """Return the outputs, of real and fake images each time those of one pass."""
            if batch is not real and batch is not fake:
                return discriminator(batch)
            side = "real" if batch is real else "fake"
            if side not in outputs:
                outputs[side] = discriminator(batch)
            return outputs[side]

        loss = self.discriminator_loss(discriminate, real, fake)
        for weight, batch in ((self.options.r1, real), (self.options.r2, fake)):
            if weight:
                loss = loss + weight / 2 * zero_centered_penalty(discriminate(batch), batch.images)
        return loss

    def constrain(self, discriminator: nn.Module) -> None:
        """Change the discriminator's weights after each of its updates, in place; WGAN clips them."""

    def reads_values(self, batch_size: int, image_shape: tuple[int, ...], device: torch.device) -> bool:
        """Return whether computing the losses synchronizes host and GPU."""
        return False


OBJECTIVES: Registry[type[Objective]] = Registry("objective", "snngan.objectives")


__getattr__, __dir__ = public_names(
    __name__,
    {
        "": "OBJECTIVES AdversarialOptions Batch Objective ObjectiveOptions",
        "features": "FeatureEntanglement",
        "adversarial": (
            "Hinge LeastSquares Minimax NonSaturating RelativisticPairing Wasserstein WassersteinGradientPenalty"
        ),
        "drifting": "Drifting",
        "mmd": "KernelTwoSample",
        "snnl": "PixelEntanglement ProjectedEntanglement",
    },
)
