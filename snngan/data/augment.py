"""Random changes of images: of training images as they are drawn, and of everything that a discriminator sees."""

from __future__ import annotations

import torch
from torch import Tensor

from snngan.distributed import local_shard, rank_and_world_size

FLIP, CROP = "flip", "crop"
AUGMENTATIONS = (FLIP, CROP)
"""Random changes of training images: mirror images, and crops that are moved by up to an eighth of the side."""
DIFF_AUGMENTATIONS = ("color", "translation", "cutout")
"""Random changes of what a discriminator sees."""
REACH = 8
"""Crops and translations move images by up to 1 / REACH of their side."""


def parse_names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in ``text``, with commas between, or none for ``none``; raises ``ValueError`` for others."""
    names = () if text == "none" else tuple(text.split(","))
    if len(set(names)) < len(names) or not set(names) <= set(known):
        choices = known[0] if len(known) == 1 else f"some of {', '.join(known)} with commas between"
        raise ValueError(f"{option} must be none, or {choices}, got {text!r}")
    return names


def shift_images(images: Tensor, offsets: Tensor) -> Tensor:
    """Return ``images`` (N, C, H, W) moved by ``offsets`` (N, 2), pixels up and to the left, with borders repeated."""
    count, _, height, width = images.shape
    device = images.device
    down = (torch.arange(height, device=device) + offsets[:, :1]).clamp(0, height - 1)
    right = (torch.arange(width, device=device) + offsets[:, 1:]).clamp(0, width - 1)
    moved = images[torch.arange(count, device=device)[:, None, None], :, down[:, :, None], right[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def diff_augment(images: Tensor, names: tuple[str, ...]) -> Tensor:
    """Return ``images`` (N, C, H, W) in [-1, 1], each changed at random and differentiably in the ways of ``names``.

    ``color`` changes brightness, saturation and contrast, ``translation`` moves by up to an eighth of the side, and
    ``cutout`` blanks a square of half the side. Draws from torch's default generator.
    Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", section 4 and its code.
    """
    for name in names:
        images = _DIFF_AUGMENT[name](images)
    return images


def _color(images: Tensor) -> Tensor:
    images = images + _draw(images) - 0.5
    mean = images.mean(1, keepdim=True)
    images = mean + (images - mean) * 2 * _draw(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (_draw(images) + 0.5)


def _translate(images: Tensor) -> Tensor:
    inside = []
    for dim, side in zip((2, 3), images.shape[2:], strict=True):
        reach = round(side / REACH)
        offsets = ((2 * reach + 1) * _draw(images)).long() - reach
        source = _positions(images, dim) + offsets
        images = images.gather(dim, source.clamp(0, side - 1).expand(images.shape))
        inside.append((source >= 0) & (source < side))
    return images * (inside[0] & inside[1])


def _cut_out(images: Tensor) -> Tensor:
    blank = []
    for dim, side in zip((2, 3), images.shape[2:], strict=True):
        first = ((side + 1) * _draw(images)).long() - side // 4  # the center may be anywhere
        positions = _positions(images, dim)
        blank.append((positions >= first) & (positions < first + side // 2))
    return images * ~(blank[0] & blank[1])


_DIFF_AUGMENT = dict(zip(DIFF_AUGMENTATIONS, (_color, _translate, _cut_out), strict=True))


def _positions(images: Tensor, dim: int) -> Tensor:
    """Return the pixel numbers of rows (H, 1), for ``dim`` 2, or of columns (W,)."""
    numbers = torch.arange(images.shape[dim], device=images.device)
    return numbers[:, None] if dim == 2 else numbers


def _draw(images: Tensor) -> Tensor:
    """Return a uniform number in [0, 1) for each image, (N, 1, 1, 1); each rank draws all and takes its own."""
    count = len(images) * rank_and_world_size()[1]
    return local_shard(torch.rand(count, 1, 1, 1, device=images.device, dtype=images.dtype))
