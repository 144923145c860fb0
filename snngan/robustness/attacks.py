"""Adversarial examples for any classifier, from the gradient of its cross-entropy: FGSM, BIM and PGD.

Functions measure ``epsilon`` and ``step_size`` in pixel values, in [-1, 1] by default; :class:`Attack` and
:func:`parse_attack` measure them for pixels in [0, 1], as the literature does: 0.3 there is 0.6 for a function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.labels import integer_labels
from snngan.registry import Registry

Model = Callable[[Tensor], Tensor]
"""Maps images (N, ...) to logits (N, K), each image independently, such as a network in evaluation mode."""
Norm = Literal["linf", "l2"]
Generators = torch.Generator | Sequence[torch.Generator] | None

ATTACKS: Registry[Callable[..., Tensor]] = Registry("attack")
"""Functions of model, images, labels and epsilon with the keyword ``targeted``, and any of ``steps``, ``step_size``
and ``generator``; the images stay within ``epsilon`` of the original and within the range of pixels."""


@ATTACKS.register("fgsm")
def fgsm(model: Model, images: Tensor, labels: Tensor, epsilon: float, **options: Any) -> Tensor:
    """Return images (N, ...) moved by ``epsilon`` along the sign of the gradient: x + epsilon * sign(grad L(x, y)).

    Arguments, and the ``options`` ``targeted`` and ``bounds``, are those of :func:`pgd`.

    Source: Goodfellow et al. 2015, section 4.
    """
    return bim(model, images, labels, epsilon, step_size=epsilon, steps=1, **options)


@ATTACKS.register("bim")
def bim(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    step_size: float | None = None,
    steps: int = 10,
    **options: Any,
) -> Tensor:
    """Return images (N, ...) after ``steps`` steps of FGSM, each projected back to within ``epsilon`` of the originals.

    The step size is ``epsilon / steps`` by default. Arguments and ``options`` are those of :func:`pgd`.

    Source: Kurakin et al. 2017, eq. 2.
    """
    size = epsilon / max(1, steps) if step_size is None else step_size
    return pgd(model, images, labels, epsilon, step_size=size, steps=steps, random_start=False, **options)


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

    Args:
        model: maps images to logits (N, K).
        images: (N, ...), floating point, within ``bounds``.
        labels: (N,) integers: the true classes or, if ``targeted``, the classes to be predicted instead.
        epsilon: radius of the ball, 0 or above: with the norm "linf" the largest change of a pixel.
        step_size: size of each step, by default ``2.5 * epsilon / steps``.
        steps: number of steps, 1 or above.
        restarts: number of ascents, 1 or above.
        random_start: False starts each ascent from the images themselves.
        norm: norm of the ball and of each step. "linf" steps along the signs of the gradient, "l2" along the gradient
            scaled to length ``step_size``.
        targeted: lower the loss of ``labels`` instead of raising it.
        bounds: lowest and highest pixel value; pass (0, 1) for images in [0, 1].
        generator: source of the random starts, by default the global one; several generators each serve an equal share
            of the images.

    Raises:
        ValueError: an argument is out of its range.

    Source: Madry et al. 2018, section 2.1.
    """
    for name, number in (("epsilon", epsilon), ("step_size", step_size)):
        if number is not None and not 0 <= number < float("inf"):
            raise ValueError(f"{name} must be finite and 0 or above, got {number}")
    for name, number in (("steps", steps), ("restarts", restarts)):
        if number < 1:
            raise ValueError(f"{name} must be 1 or above, got {number}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point, got {images.dtype}: convert them to the range {bounds}")
    images, labels = images.detach(), integer_labels(labels, len(images))
    low, high = map(float, images.aminmax()) if images.numel() else bounds
    if not bounds[0] <= low <= high <= bounds[1]:
        raise ValueError(f"images must lie within bounds {bounds}, got values from {low:g} to {high:g}")

    def objective(found: Tensor) -> Tensor:
        loss = F.cross_entropy(model(found).float(), labels, reduction="none")
        return -loss if targeted else loss

    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    best, highest = images, torch.empty(0)
    for restart in range(restarts):
        found = images
        if random_start:
            found = (images + _random_offsets(images, epsilon, norm, generator)).clamp(*bounds)
        for _ in range(steps):
            found = found.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(objective(found).sum(), found)
            direction = gradient.sign() if norm == "linf" else _unit_vectors(gradient)
            found = _project(found.detach() + step_size * direction, images, epsilon, norm).clamp(*bounds)
        if restarts == 1:
            return found
        with torch.no_grad():
            reached = objective(found)
        if restart:
            better = reached > highest
            found = torch.where(better.view(-1, *[1] * (images.dim() - 1)), found, best)
            reached = torch.where(better, reached, highest)
        best, highest = found, reached
    return best


@dataclass(frozen=True)
class Attack:
    """One of ``ATTACKS`` with its strength, in units of pixels in [0, 1], and steps if not those of the attack.

    Raises:
        ValueError: an unknown name, a number out of its range, or an option that the attack does not have.
    """

    name: str
    epsilon: float
    steps: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        keywords = inspect.signature(ATTACKS[self.name]).parameters
        for option, size in (("epsilon", self.epsilon), ("step_size", self.step_size)):
            if size is not None and not 0 < size <= 1:
                raise ValueError(f"{option} must be above 0 and at most 1, the range of pixels, got {size:g}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be 1 or above, got {self.steps}")
        for option in ("steps", "step_size"):
            if getattr(self, option) is not None and option not in keywords:
                raise ValueError(f"{self.name} has no option {option}: leave it out, or choose another attack")

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, *, targeted: bool = False, generator: Generators = None
    ) -> Tensor:
        """Return adversarial images (N, ...) for images (N, ...) in [-1, 1]; arguments are those of :func:`pgd`."""
        attack = ATTACKS[self.name]
        step_size = None if self.step_size is None else 2 * self.step_size
        options = {"steps": self.steps, "step_size": step_size, "generator": generator}
        keywords = inspect.signature(attack).parameters
        options = {name: value for name, value in options.items() if value is not None and name in keywords}
        return attack(model, images, labels, 2 * self.epsilon, targeted=targeted, **options)


def parse_attack(text: str) -> Attack:
    """Return the attack written as ``NAME:EPSILON`` or ``NAME:EPSILON:STEPS``; raises ``ValueError`` for other texts.

    Example:
        >>> parse_attack("pgd:0.3:40")
        Attack(name='pgd', epsilon=0.3, steps=40, step_size=None)
    """
    name, _, numbers = text.partition(":")
    number, _, count = numbers.partition(":")
    try:
        epsilon, steps = float(number), int(count) if count else None
    except ValueError:
        form = "NAME:EPSILON or NAME:EPSILON:STEPS, such as pgd:0.3:40"
        raise ValueError(f"an attack must be {form}, got {text!r}") from None
    return Attack(name, epsilon, steps)


def _project(found: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Return the nearest images (N, ...) to ``found`` in the ball of radius ``epsilon`` around ``images``."""
    if norm == "linf":
        return torch.clamp(found, images - epsilon, images + epsilon)
    offsets = (found - images).flatten(1)
    lengths = torch.linalg.vector_norm(offsets, dim=1, keepdim=True)
    return images + (offsets * (epsilon / lengths.clamp_min(epsilon))).view_as(images) if epsilon else images


def _random_offsets(images: Tensor, epsilon: float, norm: Norm, generator: Generators) -> Tensor:
    """Return a uniformly random point (N, ...) of the ball around 0 for each image."""
    if isinstance(generator, Sequence):
        shares = zip(images.tensor_split(len(generator)), generator, strict=True)
        return torch.cat([_random_offsets(share, epsilon, norm, each) for share, each in shares])
    device = generator.device if generator is not None else images.device
    options: dict[str, Any] = {"generator": generator, "device": device, "dtype": images.dtype}
    if norm == "linf":
        return (torch.rand(images.shape, **options).to(images.device) * 2 - 1) * epsilon
    directions = torch.randn(images.shape, **options).to(images.device)
    volumes = torch.rand(len(images), *[1] * (images.dim() - 1), **options).to(images.device)
    return epsilon * volumes ** (1 / max(1, images[:1].numel())) * _unit_vectors(directions)


def _unit_vectors(vectors: Tensor) -> Tensor:
    """Return vectors (N, ...) scaled to length 1; zero vectors stay zero."""
    lengths = torch.linalg.vector_norm(vectors.flatten(1), dim=1).view(-1, *[1] * (vectors.dim() - 1))
    directions: Tensor = vectors / lengths.masked_fill(lengths == 0, 1)
    return directions
