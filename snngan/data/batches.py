"""The order of the training images: shuffled anew every epoch, seeded, and resumed exactly where it stopped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from snngan.data import to_unit_range
from snngan.seeds import seed_for


class Batches:
    """Endless shuffled mini-batches of images on one device, as float32 in [-1, 1].

    Every epoch is a fresh permutation; the rest of it that does not fill a batch is dropped. The order comes from a
    CPU generator of its own, so it is the same on every device. The images stay in their stored dtype, on the device
    itself unless they would take more than half of its free memory.

    Args:
        images: (N, C, H, W), uint8, or float32 in [-1, 1].
        batch_size: images a batch, 2 to N.
        seed: of the order.
        device: where the batches are wanted.
        labels: (N,) int64, if they are wanted too.
        part: this process's number among so many that share each batch equally: each is given its own rows.

    Raises:
        ValueError: the batch size is out of range.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        labels: Tensor | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        check_batch_size(batch_size, len(images))
        number, parts = part
        assert batch_size % parts == 0, "parts of unlike size"
        self._own = slice(number * batch_size // parts, (number + 1) * batch_size // parts)
        self._images = images.to(device) if _fits(images, device) else images
        self._labels = None if labels is None else labels.to(self._images.device)
        self._batch_size = batch_size
        self._device = device
        self._generator = torch.Generator().manual_seed(seed_for(seed, "order"))
        self._start_epoch()

    def of_seed(self, seed: int) -> Batches:
        """Return another stream over the same images, which are kept once."""
        other = copy.copy(self)
        other._generator = torch.Generator().manual_seed(seed_for(seed, "order"))
        other._start_epoch()
        return other

    def next(self) -> Tensor:
        """Return the next batch, or this process's part of it, (batch_size, C, H, W) float32 in [-1, 1]."""
        return to_unit_range(self._images[self._next_rows()].to(self._device))

    def next_labelled(self) -> tuple[Tensor, Tensor]:
        """Return the next batch and its labels, (batch_size,) int64."""
        assert self._labels is not None
        rows = self._next_rows()
        return to_unit_range(self._images[rows].to(self._device)), self._labels[rows].to(self._device)

    def _next_rows(self) -> Tensor:
        if self._position + self._batch_size > len(self._images):
            self._start_epoch()
        rows = self._order[self._position : self._position + self._batch_size]
        self._position += self._batch_size
        return rows[self._own]

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what the rest of the stream follows from: the generator at the epoch's start, and the position."""
        return {
            "epoch_generator": self._epoch_generator.clone(),
            "position": self._position,
        }

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on where the stream that gave ``state`` stood, over the same images."""
        generator, position = state["epoch_generator"], state["position"]
        assert isinstance(generator, Tensor)
        assert isinstance(position, int)
        self._generator.set_state(generator)
        self._start_epoch()
        self._position = position

    def _start_epoch(self) -> None:
        self._epoch_generator = self._generator.get_state()
        self._order = torch.randperm(len(self._images), generator=self._generator).to(self._images.device)
        self._position = 0


def check_batch_size(batch_size: int, num_images: int) -> None:
    """Raise ``ValueError`` unless batches of ``batch_size`` can be drawn from ``num_images`` training images."""
    if batch_size < 2:
        raise ValueError(f"batch of {batch_size}: entanglement needs neighbours; use --batch-size 2 or more")
    if num_images < 2:
        raise ValueError(f"there is only {num_images} training image; expected 2 or more")
    if batch_size > num_images:
        raise ValueError(
            f"batch of {batch_size} is larger than the {num_images} training images;"
            f" use --batch-size {num_images} or less"
        )


def _fits(images: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= free_bytes // 2
