"""Seeded batches: the images of an epoch, and that a resumed stream equals an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from snngan.data import to_unit_range
from snngan.data.batches import Batches

CPU = torch.device("cpu")
IMAGES = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2).contiguous()


def rows(batch: torch.Tensor) -> list[int]:
    return [int(row) for row in ((batch[:, 0, 0, 0] + 1) * 127.5).round()]


def test_batches_are_images_in_the_unit_range() -> None:
    batch = Batches(IMAGES, 4, seed=0, device=CPU).next_images()
    assert batch.shape == (4, 3, 2, 2) and batch.dtype == torch.float32
    assert_close(batch, to_unit_range(IMAGES[rows(batch)]), rtol=0, atol=0)


def test_epochs_are_different_permutations() -> None:
    batches = Batches(IMAGES, 5, seed=0, device=CPU)
    epochs = [rows(batches.next_images()) + rows(batches.next_images()) for _ in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("count", [7, 8, 9, 10])
def test_an_incomplete_batch_is_dropped(count: int) -> None:
    batches = Batches(IMAGES[:count], 4, seed=0, device=CPU)
    for _ in range(5):
        epoch = [row for _ in range(count // 4) for row in rows(batches.next_images())]
        assert len(epoch) == len(set(epoch)) == count // 4 * 4


def test_the_seed_alone_decides_the_order() -> None:
    streams = [Batches(IMAGES, 4, seed=seed, device=CPU) for seed in (3, 3, 4)]
    torch.manual_seed(1)
    first, second, other = ([batches.next_images() for _ in range(6)] for batches in streams)
    assert_close(first, second, rtol=0, atol=0)
    assert [rows(batch) for batch in first] != [rows(batch) for batch in other]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("steps", range(7))
def test_a_resumed_stream_equals_an_uninterrupted_one(steps: int, batch_size: int, tmp_path: Path) -> None:
    uninterrupted = Batches(IMAGES, batch_size, seed=7, device=CPU)
    for _ in range(steps):
        uninterrupted.next_images()
    torch.save(uninterrupted.state_dict(), tmp_path / "state.pt")
    resumed = Batches(IMAGES, batch_size, seed=8, device=CPU)
    resumed.next_images()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(15):
        assert_close(resumed.next_images(), uninterrupted.next_images(), rtol=0, atol=0)


def test_a_saved_state_does_not_change() -> None:
    batches = Batches(IMAGES, 4, seed=0, device=CPU)
    state = batches.state_dict()
    first = [batches.next_images() for _ in range(6)]
    batches.load_state_dict(state)
    assert_close([batches.next_images() for _ in range(6)], first, rtol=0, atol=0)


def test_changing_a_batch_leaves_the_data_set_unchanged() -> None:
    points = torch.rand(6, 1, 1, 2)
    before = points.clone()
    batch = Batches(points, 6, seed=0, device=CPU).next_images()
    batch.zero_()
    assert_close(points, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (11, "batch of 11 is larger than the 10 training images; use --batch-size 10 or less"),
        (1, "--batch-size must be 2 or more, got 1"),
    ],
)
def test_batch_size_out_of_range(batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(IMAGES, batch_size, seed=0, device=CPU)


@pytest.fixture
def prefetching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gather batches in a thread, as if the images did not fit on the device."""
    monkeypatch.setattr("snngan.data.batches._fits", lambda images, device: False)


@pytest.mark.parametrize("seed", [0, 1])
def test_prefetched_batches_are_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(len(IMAGES))
    plain = Batches(IMAGES, 4, seed=seed, device=CPU, labels=labels)
    monkeypatch.setattr("snngan.data.batches._fits", lambda images, device: False)
    prefetched = Batches(IMAGES, 4, seed=0, device=CPU, labels=labels)
    prefetched.next_images()
    prefetched = prefetched.with_seed(seed)
    for _ in range(9):
        assert_close(prefetched.next_images_and_labels(), plain.next_images_and_labels(), rtol=0, atol=0)


def test_shards_are_the_rows_of_the_whole_batch() -> None:
    whole = Batches(IMAGES, 4, seed=0, device=CPU)
    shards = [Batches(IMAGES, 4, seed=0, device=CPU, shard=(rank, 2)) for rank in range(2)]
    for _ in range(5):
        assert torch.equal(torch.cat([shard.next_stored_images() for shard in shards]), whole.next_stored_images())


@pytest.mark.usefixtures("prefetching")
@pytest.mark.parametrize("taken", range(7))
def test_a_prefetched_stream_is_resumed_where_it_was_read_to(taken: int) -> None:
    uninterrupted = Batches(IMAGES, 4, seed=0, device=CPU)
    for _ in range(taken):
        uninterrupted.next_images()
    resumed = Batches(IMAGES, 4, seed=5, device=CPU)
    resumed.next_images()
    resumed.load_state_dict(uninterrupted.state_dict())
    for _ in range(7):
        assert_close(resumed.next_images(), uninterrupted.next_images(), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fits", [True, False])
def test_the_order_is_the_same_on_cuda(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snngan.data.batches._fits", lambda images, device: fits)
    on_cpu = Batches(IMAGES, 4, seed=0, device=CPU)
    on_cuda = Batches(IMAGES, 4, seed=0, device=torch.device("cuda"))
    for _ in range(6):
        batch = on_cuda.next_images()
        assert batch.is_cuda
        assert_close(batch.cpu(), on_cpu.next_images(), rtol=0, atol=0)
