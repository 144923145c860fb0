"""The order of the training images: shuffled anew every epoch, seeded, and resumed exactly where it stopped."""

from __future__ import annotations

import copy
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from snngan.data import to_unit_range
from snngan.seeds import seed_for

AHEAD = 4
"""Batches that lie ready where the images do not fit on the device."""


class Batches:
    """Endless shuffled mini-batches of images on one device, as float32 in [-1, 1].

    Every epoch is a fresh permutation; the rest of it that does not fill a batch is dropped. The order comes from a
    CPU generator of its own, so it is the same on every device. The images stay in their stored dtype, on the device
    itself. If they would take more than half of its free memory, they stay where they are, and a thread gathers the
    next batches in pinned memory meanwhile.

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
        fits = _fits(images, device)
        self._images = images.to(device) if fits else images
        self._labels = None if labels is None else labels.to(self._images.device)
        self._helper = None if fits else ThreadPoolExecutor(1, "batches")
        self._batch_size = batch_size
        self._device = device
        self._generator = torch.Generator().manual_seed(seed_for(seed, "order"))
        self._ahead: deque[tuple[dict[str, Tensor | int], Future[tuple[Tensor, Tensor | None]]]] = deque()
        self._start_epoch()

    def of_seed(self, seed: int) -> Batches:
        """Return another stream over the same images, which are kept once."""
        other = copy.copy(self)
        other._generator = torch.Generator().manual_seed(seed_for(seed, "order"))
        other._ahead = deque()
        other._start_epoch()
        return other

    def next(self) -> Tensor:
        """Return the next batch, or this process's part of it, (batch_size, C, H, W) float32 in [-1, 1]."""
        return to_unit_range(self.next_stored())

    def next_stored(self) -> Tensor:
        """Return the next batch, or this process's part of it, (batch_size, C, H, W) as the images are stored."""
        return self._take()[0]

    def next_labeled(self) -> tuple[Tensor, Tensor]:
        """Return the next batch and its labels, (batch_size,) int64."""
        images, labels = self._take()
        assert labels is not None
        return to_unit_range(images), labels

    def _take(self) -> tuple[Tensor, Tensor | None]:
        """Return images and labels of the next batch on the device."""
        if self._helper is None:
            return self._gathered(self._next_rows())
        while len(self._ahead) < AHEAD:
            state = self._state()
            self._ahead.append((state, self._helper.submit(self._gathered, self._next_rows())))
        _, batch = self._ahead.popleft()
        images, labels = batch.result()
        labels = None if labels is None else labels.to(self._device, non_blocking=True)
        return images.to(self._device, non_blocking=True), labels

    def _gathered(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return images and labels of ``rows``, in pinned memory if they have to go to a GPU from there."""
        images, labels = self._images[rows].contiguous(), None if self._labels is None else self._labels[rows]
        if self._helper is None or self._device.type != "cuda":
            return images, labels
        return images.pin_memory(), None if labels is None else labels.pin_memory()

    def _next_rows(self) -> Tensor:
        if self._position + self._batch_size > len(self._images):
            self._start_epoch()
        rows = self._order[self._position : self._position + self._batch_size]
        self._position += self._batch_size
        return rows[self._own]

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what the rest of the stream follows from: the generator at the epoch's start, and the position."""
        return self._ahead[0][0] if self._ahead else self._state()

    def _state(self) -> dict[str, Tensor | int]:
        """Return where the stream stands, what lies ready included."""
        return {
            "epoch_generator": self._epoch_generator.clone(),
            "position": self._position,
        }

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on where the stream that gave ``state`` stood, over the same images.

        Raises:
            ValueError: that stood nowhere in a stream over these images.
        """
        generator, position = state["epoch_generator"], state["position"]
        if not isinstance(generator, Tensor) or not isinstance(position, int) or not 0 <= position <= len(self._images):
            raise ValueError(f"position {position} of {len(self._images)} images")
        self._generator.set_state(generator)
        self._start_epoch()
        self._position = position
        self._ahead = deque()

    def _start_epoch(self) -> None:
        self._epoch_generator = self._generator.get_state()
        place = self._images.device
        order = torch.randperm(len(self._images), generator=self._generator, pin_memory=place.type == "cuda")
        self._order = order.to(place, non_blocking=True)
        self._position = 0


def check_batch_size(batch_size: int, num_images: int) -> None:
    """Raise ``ValueError`` unless batches of ``batch_size`` can be drawn from ``num_images`` training images."""
    if batch_size < 2:
        raise ValueError(f"batch of {batch_size}: entanglement needs neighbors; use --batch-size 2 or more")
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
