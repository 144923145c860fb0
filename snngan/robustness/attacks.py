"""Adversarial examples for any classifier, from the gradient of its cross-entropy: FGSM, BIM and PGD.

Every attack keeps each image within ``epsilon`` of the original and within the range of pixel values. A model is any
function from images (N, ...) to logits (N, K) that treats each image independently, such as a network in evaluation
mode. To transfer an attack, make the images on one model and classify them by another.

The functions measure ``epsilon`` and ``step_size`` in pixel values, which lie in [-1, 1] by default. :class:`Attack`
and :func:`parse_attack` measure them for pixels in [0, 1], as the literature does: 0.3 there is 0.6 here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.labels import integer_labels
from snngan.registry import Registry

Model = Callable[[Tensor], Tensor]
Norm = Literal["linf", "l2"]
Generators = torch.Generator | Sequence[torch.Generator] | None

ATTACKS: Registry[Callable[..., Tensor]] = Registry("attack")
"""Functions of model, images, labels and epsilon with the keyword ``targeted``.

``steps``, ``step_size`` and ``generator`` are passed to those that have such a keyword.
"""


@ATTACKS.register("fgsm")
def fgsm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    targeted: bool = False,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return images (N, ...) moved by ``epsilon`` along the sign of the gradient: x + epsilon * sign(grad L(x, y)).

    Args:
        model: maps images to logits (N, K).
        images: (N, ...), floating point, within ``bounds``.
        labels: (N,) integers: the true classes or, if ``targeted``, the classes to be predicted instead.
        epsilon: largest change of a pixel, 0 or above.
        targeted: lower the loss of ``labels`` instead of raising it.
        bounds: lowest and highest pixel value; pass (0, 1) for images in [0, 1].

    Raises:
        ValueError: an argument is out of its range.

    Source: Goodfellow et al. 2015, section 4.
    """
    return bim(model, images, labels, epsilon, step_size=epsilon, steps=1, targeted=targeted, bounds=bounds)


@ATTACKS.register("bim")
def bim(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    step_size: float | None = None,
    steps: int = 10,
    targeted: bool = False,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return images (N, ...) after ``steps`` steps of FGSM, each projected back to within ``epsilon`` of the originals.

    Arguments are those of :func:`fgsm` and ``step_size``, by default ``epsilon / steps``.

    Source: Kurakin et al. 2017, eq. 2.
    """
    step_size = epsilon / max(1, steps) if step_size is None else step_size
    return pgd(
        model,
        images,
        labels,
        epsilon,
        step_size=step_size,
        steps=steps,
        random_start=False,
        targeted=targeted,
        bounds=bounds,
    )


@ATTACKS.register("pgd")
def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    step_size: float | None = None,
    steps: int = 40,
    restarts: int = 1,
    random_start: bool = True,
    norm: Norm = "linf",
    targeted: bool = False,
    bounds: tuple[float, float] = (-1.0, 1.0),
    generator: Generators = None,
) -> Tensor:
    """Return the best images (N, ...) of ``restarts`` gradient ascents, each from a random point of the epsilon ball.

    For each image, the best is the result with the highest loss after the last step (the lowest if ``targeted``).

    Arguments are those of :func:`fgsm` and:
        step_size: size of each step, by default ``2.5 * epsilon / steps``.
        random_start: False starts from the images themselves.
        norm: norm of the ball and of each step. "linf" steps along the signs of the gradient, "l2" along the gradient
            scaled to length ``step_size``.
        generator: source of the random starts, by default the global one; several generators each serve an equal share
            of the images.

    Source: Madry et al. 2018, section 2.1.
    """
    images, labels = _check_arguments(images, labels, epsilon, step_size, steps, bounds)
    if restarts < 1:
        raise ValueError(f"restarts must be 1 or above, got {restarts}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    best, highest = images, torch.full(images.shape[:1], -torch.inf, device=images.device)
    for _ in range(restarts):
        found = images
        if random_start:
            found = (images + _random_offsets(images, epsilon, norm, generator)).clamp(*bounds)
        for _ in range(steps):
            found = found.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(_objective(model, found, labels, targeted).sum(), found)
            direction = gradient.sign() if norm == "linf" else _unit_vectors(gradient)
            found = _project(found.detach() + step_size * direction, images, epsilon, norm).clamp(*bounds)
        if restarts == 1:
            return found
        with torch.no_grad():
            objective = _objective(model, found, labels, targeted).to(highest)
        # If the objective is NaN, keep the first result, so that the caller sees that the model is broken.
        better = (objective > highest) | ~(highest > -torch.inf)
        best = torch.where(better.view(-1, *[1] * (images.dim() - 1)), found, best)
        highest = torch.where(better, objective, highest)
    return best


@dataclass(frozen=True)
class Attack:
    """An attack with its strength, in units of pixels in [0, 1].

    Args:
        name: one of ``ATTACKS``.
        epsilon: largest change of a pixel, above 0 and at most 1.
        steps: number of steps, from 1 to 10000; default: that of the attack.
        step_size: size of each step, above 0 and at most 1; default: that of the attack.

    Raises:
        ValueError: an unknown name, a number out of its range, or an option that the attack does not have.
    """

    name: str
    epsilon: float
    steps: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        keywords = inspect.signature(ATTACKS[self.name]).parameters
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must be above 0 and at most 1, the range of pixels, got {self.epsilon:g}")
        if self.steps is not None and not 1 <= self.steps <= 10000:
            raise ValueError(f"steps must be from 1 to 10000, got {self.steps}")
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must be above 0 and at most 1, got {self.step_size:g}")
        for option in ("steps", "step_size"):
            if getattr(self, option) is not None and option not in keywords:
                raise ValueError(f"{self.name} has no option {option}: leave it out, or choose another attack")

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, *, targeted: bool = False, generator: Generators = None
    ) -> Tensor:
        """Return adversarial images (N, ...) for images (N, ...) in [-1, 1] and labels (N,).

        Args:
            model: maps images to logits (N, K).
            images: the original images.
            labels: the true classes or, if ``targeted``, the classes to be predicted instead.
            targeted: lower the loss of ``labels`` instead of raising it.
            generator: source of random starts; several generators each serve an equal share of the images.
        """
        attack = ATTACKS[self.name]
        step_size = None if self.step_size is None else 2 * self.step_size
        options = {"steps": self.steps, "step_size": step_size, "generator": generator}
        keywords = inspect.signature(attack).parameters
        options = {name: value for name, value in options.items() if value is not None and name in keywords}
        return attack(model, images, labels, 2 * self.epsilon, targeted=targeted, **options)


def parse_attack(text: str) -> Attack:
    """Return the attack written as ``NAME:EPSILON`` or ``NAME:EPSILON:STEPS``.

    Raises:
        ValueError: the text has another form, or a number is out of its range.

    Example:
        >>> parse_attack("pgd:0.3:40")
        Attack(name='pgd', epsilon=0.3, steps=40, step_size=None)
    """
    name, *numbers = text.split(":")
    try:
        epsilon, steps = float(numbers[0]), [int(number) for number in numbers[1:]]
    except (IndexError, ValueError):
        epsilon, steps = 0.0, [0, 0]
    if len(steps) > 1:
        raise ValueError(f"an attack must be NAME:EPSILON or NAME:EPSILON:STEPS, such as pgd:0.3:40, got {text!r}")
    return Attack(name, epsilon, *steps)


def _objective(model: Model, images: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Return the value (N,) that an attack maximizes: the cross-entropy of ``labels``, or its negative if targeted."""
    loss = F.cross_entropy(model(images).float(), labels, reduction="none")
    return -loss if targeted else loss


def _project(found: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Return the nearest images (N, ...) to ``found`` in the ball of radius ``epsilon`` around ``images``."""
    if norm == "linf":
        return torch.clamp(found, images - epsilon, images + epsilon)
    offsets = found - images
    return images + offsets * (epsilon / _lengths(offsets).clamp_min(epsilon)) if epsilon else images


def _random_offsets(images: Tensor, epsilon: float, norm: Norm, generator: Generators) -> Tensor:
    """Return a uniformly random point (N, ...) of the ball around 0 for each image."""
    if isinstance(generator, Sequence):
        shares = zip(images.tensor_split(len(generator)), generator, strict=True)
        return torch.cat([_random_offsets(share, epsilon, norm, each) for share, each in shares])

    def draw(kind: Callable[..., Tensor], *shape: int) -> Tensor:
        device = generator.device if generator is not None else images.device
        return kind(*shape, generator=generator, device=device, dtype=images.dtype).to(images.device)

    if norm == "linf":
        return (draw(torch.rand, *images.shape) * 2 - 1) * epsilon
    directions = draw(torch.randn, *images.shape)
    volumes = draw(torch.rand, len(images), *[1] * (images.dim() - 1))
    return epsilon * volumes ** (1 / max(1, images[:1].numel())) * _unit_vectors(directions)


def _lengths(vectors: Tensor) -> Tensor:
    """Return the Euclidean lengths (N, 1, ...) of vectors (N, ...)."""
    lengths: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (vectors.dim() - 1))


def _unit_vectors(vectors: Tensor) -> Tensor:
    """Return vectors (N, ...) scaled to length 1; zero vectors stay zero."""
    lengths = _lengths(vectors)
    return vectors / lengths.masked_fill(lengths == 0, 1)


def _check_arguments(
    images: Tensor, labels: Tensor, epsilon: float, step_size: float | None, steps: int, bounds: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return the detached images and the labels as int64, or raise ``ValueError``."""
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point, got {images.dtype}: convert them to the range {bounds}")
    images, labels = images.detach(), integer_labels(labels, len(images))
    for name, value in (("epsilon", epsilon), ("step_size", step_size)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and 0 or above, got {value}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or above, got {steps}")
    low, high = bounds
    if images.numel() and not low <= float(images.min()) <= float(images.max()) <= high:
        raise ValueError(
            f"images must lie within bounds [{low:g}, {high:g}], got values from {float(images.min()):g} to "
            f"{float(images.max()):g}"
        )
    return images, labels
