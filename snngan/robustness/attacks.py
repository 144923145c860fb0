"""Adversarial examples of any classifier, by the gradient of its cross-entropy: FGSM, BIM and PGD.

All stay within ``epsilon`` of the images and within the range of pixels. They ask no more of a model than that it maps
images (N, ...) to logits (N, K), one image by itself: put it into evaluation mode before. An attack is transferred by
making it on one model and showing it to another. ``epsilon`` and ``step_size`` are in units of the pixels, whose range
is [-1, 1] here: 0.3 of [0, 1] is 0.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from snngan.labels import integer_labels

Model = Callable[[Tensor], Tensor]
Norm = Literal["linf", "l2"]
Generators = torch.Generator | Sequence[torch.Generator] | None


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
        labels: (N,) integers, the true classes or, ``targeted``, of the classes to be taken for.
        epsilon: how far each pixel may move, 0 or above.
        targeted: lower the loss of ``labels`` instead of raising it.
        bounds: the range of pixels, by default [-1, 1]; of images in [0, 1] it must be given.

    Raises:
        ValueError: an argument is out of its range.

    Source: Goodfellow et al. 2015, section 4.
    """
    return bim(model, images, labels, epsilon, step_size=epsilon, steps=1, targeted=targeted, bounds=bounds)


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
    """Return images (N, ...) after ``steps`` of FGSM, each cut back to ``epsilon`` around the images.

    Args as for :func:`fgsm`; ``step_size`` is by default ``epsilon / steps``.

    Source: Kurakin et al. 2017, eq. 2.
    """
    images, labels = _checked(images, labels, epsilon, step_size, steps, bounds)
    step_size = epsilon / steps if step_size is None else step_size
    return _ascended(model, images, images, labels, epsilon, step_size, steps, targeted, bounds, "linf")


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    step_size: float | None = None,
    steps: int = 40,
    restarts: int = 1,
    norm: Norm = "linf",
    targeted: bool = False,
    bounds: tuple[float, float] = (-1.0, 1.0),
    generator: Generators = None,
) -> Tensor:
    """Return the strongest images (N, ...) of ``restarts`` ascents, each from a random point of the ball.

    Strongest is, image by image, what has the highest loss (targeted: the lowest) at the last step.

    Args as for :func:`fgsm`, and:
        step_size: by default ``2.5 * epsilon / steps``.
        norm: of the ball and of each step: "linf" moves by signs, "l2" along the gradient scaled to ``step_size``.
        generator: what random points are drawn from; default: torch's own. Of several, each for an equal share of the
            images.

    Source: Madry et al. 2018, section 2.1.
    """
    images, labels = _checked(images, labels, epsilon, step_size, steps, bounds)
    if restarts < 1:
        raise ValueError(f"restarts must be 1 or above, not {restarts}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', not {norm!r}")
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    best, strongest = images, torch.full(images.shape[:1], -torch.inf, device=images.device)
    for _ in range(restarts):
        start = (images + _in_ball(images, epsilon, norm, generator)).clamp(*bounds)
        found = _ascended(model, start, images, labels, epsilon, step_size, steps, targeted, bounds, norm)
        with torch.no_grad():
            strength = _strength(model, found, labels, targeted).to(strongest)
        # The first is kept where strength is not a number, so that a broken model shows.
        better = (strength > strongest) | ~(strongest > -torch.inf)
        best = torch.where(better.view(-1, *[1] * (images.dim() - 1)), found, best)
        strongest = torch.where(better, strength, strongest)
    return best


def _ascended(
    model: Model, start: Tensor, images: Tensor, labels: Tensor, epsilon: float, step_size: float, steps: int,
    targeted: bool, bounds: tuple[float, float], norm: Norm,
) -> Tensor:  # fmt: skip
    """Return ``start`` after the steps of an ascent of each image's strength within the ball around ``images``."""
    found = start.detach()
    for _ in range(steps):
        found = found.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(_strength(model, found, labels, targeted).sum(), found)
        found = found.detach()
        if norm == "linf":
            found = found + step_size * slope.sign()
            found = torch.clamp(found, images - epsilon, images + epsilon)
        else:
            found = found + step_size * _scaled(slope)
            offset = found - images
            length = _length(offset)
            found = images + offset * (epsilon / length.clamp_min(epsilon)) if epsilon else images
        found = found.clamp(*bounds)
    return found.detach()


def _strength(model: Model, images: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Return what each image (N,) of an attack raises."""
    loss = F.cross_entropy(model(images).float(), labels, reduction="none")
    return -loss if targeted else loss


def _in_ball(images: Tensor, epsilon: float, norm: Norm, generator: Generators) -> Tensor:
    """Return a point (N, ...) of the ball around 0 for each image, uniformly drawn."""
    if isinstance(generator, Sequence):
        parts = zip(images.tensor_split(len(generator)), generator, strict=True)
        return torch.cat([_in_ball(part, epsilon, norm, each) for part, each in parts])

    def drawn(kind: Callable[..., Tensor], *shape: int) -> Tensor:
        device = generator.device if generator is not None else images.device
        return kind(*shape, generator=generator, device=device, dtype=images.dtype).to(images.device)

    if norm == "linf":
        return (drawn(torch.rand, *images.shape) * 2 - 1) * epsilon
    direction = drawn(torch.randn, *images.shape)
    share = drawn(torch.rand, len(images), *[1] * (images.dim() - 1))
    return epsilon * share ** (1 / max(1, images[:1].numel())) * _scaled(direction)


def _length(points: Tensor) -> Tensor:
    """Return the Euclidean length (N, 1, ...) of each of the points (N, ...)."""
    length: Tensor = torch.linalg.vector_norm(points.flatten(1), dim=1)
    return length.view(-1, *[1] * (points.dim() - 1))


def _scaled(points: Tensor) -> Tensor:
    """Return points (N, ...) scaled to length 1; those of length 0 stay."""
    length = _length(points)
    return points / length.masked_fill(length == 0, 1)


def _checked(
    images: Tensor, labels: Tensor, epsilon: float, step_size: float | None, steps: int,
    bounds: tuple[float, float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the images without their graph and the labels as int64; raise ``ValueError`` for what no attack takes."""
    if not images.is_floating_point():
        raise ValueError(f"images must be of a floating-point type, not {images.dtype}")
    images, labels = images.detach(), integer_labels(labels, len(images))
    for name, value in (("epsilon", epsilon), ("step_size", step_size)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be 0 or above, and finite, not {value}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or above, not {steps}")
    low, high = bounds
    if images.numel() and not low <= float(images.min()) <= float(images.max()) <= high:
        raise ValueError(
            f"images lie in [{float(images.min()):g}, {float(images.max()):g}], beyond the bounds [{low:g}, {high:g}]"
        )
    return images, labels
