"""Shuffled mini-batches of training images: a new seeded order every epoch, resumable at any step."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from snngan.data import to_unit_range
from snngan.data.augment import CROP, FLIP, REACH, shift_images
from snngan.seeds import seed_for

PREFETCHED = 4
"""Batches gathered in advance where the images do not fit on the device."""


class Batches:
    """An endless stream of shuffled mini-batches on one device.

    Every epoch is a new permutation; images left over at its end, fewer than a batch, are dropped. The permutation is
    drawn from the stream's own CPU generator, so it is the same on every device. The images are kept on the device in
    their stored dtype. If they would take more than half of its free memory, they stay where they are, and a thread
    gathers the next batches in pinned memory in advance.

    Args:
        images: (N, C, H, W), uint8, or float32 in [-1, 1].
        batch_size: images per batch, 2 to N; raises ``ValueError`` for others.
        seed: seed of the order.
        device: the device of the batches.
        labels: (N,) int64, or None.
        balanced: whether every batch, and each rank's shard of it, has as many images of each class of ``labels``.
            ``batch_size`` must be a multiple of the number of classes. In an epoch the images of a smaller class are
            used more than once, and some of a larger one are left out.
        augment: random changes, of ``AUGMENTATIONS``, which are drawn with the order.
        shard: (rank, number of ranks) where several processes share each batch: this one gets its rows only.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        labels: Tensor | None = None,
        balanced: bool = False,
        augment: Collection[str] = (),
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        check_batch_size(batch_size, len(images))
        rank, ranks = shard
        assert batch_size % ranks == 0, "shards of different sizes"
        self._rows = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        fits = _fits(images, device)
        self._images = images.to(device) if fits else images
        self._augment = augment
        self.labels = None if labels is None else labels.to(device)
        if self.labels is not None and FLIP in augment:
            self.labels = self.labels.repeat(2)
        self._classes = None
        if balanced:
            assert labels is not None
            self._classes = [torch.nonzero(labels == each).squeeze(1) for each in range(int(labels.max()) + 1)]
            assert batch_size % (len(self._classes) * ranks) == 0, "shards without as many images of each class"
        self._thread = None if fits else ThreadPoolExecutor(1, "batches")
        self._batch_size = batch_size
        self._device = device
        self._start(torch.Generator().manual_seed(seed_for(seed, "order")))

    def with_seed(self, seed: int) -> Batches:
        """Return another stream over the same images, without copying them."""
        other = copy.copy(self)
        other._start(torch.Generator().manual_seed(seed_for(seed, "order")))
        return other

    def next_stored(self) -> tuple[Tensor, Tensor]:
        """Return the next batch, or this rank's shard of it, and where it is in the training images.

        The images (batch_size, C, H, W) are in the dtype of the data set; the rows (batch_size,) index ``labels``, too.
        The mirror image of image i is row N + i.
        """
        if self._thread is None:
            return self._gather(*self._next_rows())
        while len(self._prefetched) < PREFETCHED:
            state = self._state()
            self._prefetched.append((state, self._thread.submit(self._gather, *self._next_rows())))
        images, rows = self._prefetched.popleft()[1].result()
        return images.to(self._device, non_blocking=True), rows.to(self._device, non_blocking=True)

    def next_images_and_labels(self) -> tuple[Tensor, Tensor]:
        """Return the next batch, or this rank's shard of it, as float32 in [-1, 1], and its labels (batch_size,)."""
        images, rows = self.next_stored()
        assert self.labels is not None
        return to_unit_range(images), self.labels[rows]

    def state_dict(self) -> dict[str, Any]:
        """Return what the rest of the stream depends on: the generator at the epoch's start, and the position."""
        return self._prefetched[0][0] if self._prefetched else self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the stream that returned ``state`` stopped; both must have the same images."""
        self._generator.set_state(state["epoch_generator"])
        self._start(self._generator)
        self._position = state["position"]

    def _start(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._prefetched: deque[tuple[dict[str, Any], Future[tuple[Tensor, Tensor]]]] = deque()
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._epoch_generator = self._generator.get_state()
        device = self._images.device
        order = self._draw_order()
        if FLIP in self._augment:
            order = order + len(self._images) * torch.randint(2, order.shape, generator=self._generator)
        self._order = (order.pin_memory() if device.type == "cuda" else order).to(device, non_blocking=True)
        if CROP in self._augment:
            reach = max(1, max(self._images.shape[2:]) // REACH)
            offsets = torch.randint(-reach, reach + 1, (len(order), 2), generator=self._generator)
            self._offsets = offsets.to(device)
        self._position = 0

    def _draw_order(self) -> Tensor:
        """Return the rows of an epoch: a permutation, or with balanced classes one row of each class in turn."""
        if self._classes is None:
            return torch.randperm(len(self._images), generator=self._generator)
        count = len(self._images) // self._batch_size * self._batch_size // len(self._classes)
        order = []
        for rows in self._classes:
            epochs = [torch.randperm(len(rows), generator=self._generator) for _ in range(-(-count // len(rows)))]
            order.append(rows[torch.cat(epochs)[:count]])
        return torch.stack(order, 1).flatten()

    def _state(self) -> dict[str, Any]:
        return {"epoch_generator": self._epoch_generator.clone(), "position": self._position}

    def _next_rows(self) -> tuple[Tensor, ...]:
        """Return the rows (batch_size,) of the next batch, and if it is cropped, by how much (batch_size, 2)."""
        if self._position + self._batch_size > len(self._order):
            self._start_epoch()
        batch = slice(self._position, self._position + self._batch_size)
        self._position += self._batch_size
        drawn = (self._order, self._offsets) if CROP in self._augment else (self._order,)
        return tuple(each[batch][self._rows] for each in drawn)

    def _gather(self, rows: Tensor, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the images of ``rows``, and these, in pinned memory where they are to be copied to a GPU."""
        if FLIP in self._augment:
            images = self._images[rows % len(self._images)]
            images = torch.where((rows >= len(self._images)).view(-1, 1, 1, 1), images.flip(3), images)
        else:
            images = self._images[rows].contiguous()
        images = images if offsets is None else shift_images(images, offsets)
        if self._thread is None or self._device.type != "cuda":
            return images, rows
        return images.pin_memory(), rows.pin_memory()


def check_batch_size(batch_size: int, num_images: int) -> None:
    """Raise ``ValueError`` unless batches of ``batch_size`` can be drawn from ``num_images`` training images."""
    if batch_size < 2:
        raise ValueError(f"--batch-size must be 2 or more, got {batch_size}: entanglement is measured between images")
    if num_images < 2:
        raise ValueError(f"a data set must have 2 training images or more, got {num_images}")
    if batch_size > num_images:
        remedy = f"use --batch-size {num_images} or less"
        raise ValueError(f"batch of {batch_size} is larger than the {num_images} training images; {remedy}")


def _fits(images: Tensor, device: torch.device) -> bool:
    return device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
