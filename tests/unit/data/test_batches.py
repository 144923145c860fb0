"""Seeded batches: the images of an epoch, and that a resumed stream equals an uninterrupted one."""

from __future__ import annotations

import io

import pytest
import torch
from torch.testing import assert_close

from snngan.data import to_unit_range
from snngan.data.batches import Batches

CPU = torch.device("cpu")
IMAGES = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2).contiguous()


def rows(batches: Batches, count: int = 1) -> list[int]:
    """Return the rows of the next ``count`` batches."""
    return [int(row) for _ in range(count) for row in batches.next_stored()[0][:, 0, 0, 0]]


@pytest.fixture(params=[False, True], ids=["on the device", "prefetched"])
def prefetched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Gather batches in a thread, as if the images did not fit on the device, or not."""
    monkeypatch.setattr("snngan.data.batches._fits", lambda images, device: not request.param)
    return bool(request.param)


def test_images_and_labels_belong_together() -> None:
    images, labels = Batches(IMAGES, 4, seed=0, device=CPU, labels=torch.arange(10)).next_images_and_labels()
    assert images.shape == (4, 3, 2, 2) and images.dtype == torch.float32
    assert_close(images, to_unit_range(IMAGES[labels]), rtol=0, atol=0)


def test_epochs_are_different_permutations() -> None:
    batches = Batches(IMAGES, 5, seed=0, device=CPU)
    epochs = [rows(batches, 2) for _ in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("count", [7, 8, 9, 10])
def test_an_incomplete_batch_is_dropped(count: int) -> None:
    batches = Batches(IMAGES[:count], 4, seed=0, device=CPU)
    for _ in range(5):
        epoch = rows(batches, count // 4)
        assert len(epoch) == len(set(epoch)) == count // 4 * 4


def test_the_seed_alone_decides_the_order(prefetched: bool) -> None:
    streams = [Batches(IMAGES, 4, seed=seed, device=CPU) for seed in (3, 3, 4)]
    torch.manual_seed(1)
    first, second, other = (rows(batches, 6) for batches in streams)
    assert first == second == rows(streams[2].with_seed(3), 6)
    assert first != other


def test_prefetched_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Batches(IMAGES, 4, seed=0, device=CPU, labels=torch.arange(10))
    monkeypatch.setattr("snngan.data.batches._fits", lambda images, device: False)
    prefetched = Batches(IMAGES, 4, seed=0, device=CPU, labels=torch.arange(10))
    for _ in range(9):
        assert_close(prefetched.next_images_and_labels(), plain.next_images_and_labels(), rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [2, 3, 5, 10])
@pytest.mark.parametrize("steps", range(7))
def test_a_resumed_stream_equals_an_uninterrupted_one(steps: int, batch_size: int, prefetched: bool) -> None:
    uninterrupted = Batches(IMAGES, batch_size, seed=7, device=CPU)
    rows(uninterrupted, steps)
    file = io.BytesIO()
    torch.save(uninterrupted.state_dict(), file)
    file.seek(0)
    resumed = Batches(IMAGES, batch_size, seed=8, device=CPU)
    rows(resumed)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert rows(resumed, 15) == rows(uninterrupted, 15)


def test_a_saved_state_does_not_change() -> None:
    batches = Batches(IMAGES, 4, seed=0, device=CPU)
    state = batches.state_dict()
    first = rows(batches, 6)
    batches.load_state_dict(state)
    assert rows(batches, 6) == first


def test_changing_a_batch_leaves_the_data_set_unchanged() -> None:
    points = torch.rand(6, 1, 1, 2)
    before = points.clone()
    Batches(points, 6, seed=0, device=CPU).next_stored()[0].zero_()
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


def test_shards_are_the_rows_of_the_whole_batch() -> None:
    whole, *shards = (Batches(IMAGES, 4, seed=0, device=CPU, shard=each) for each in ((0, 1), (0, 2), (1, 2)))
    for _ in range(5):
        assert rows(shards[0]) + rows(shards[1]) == rows(whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_order_is_the_same_on_cuda(prefetched: bool) -> None:
    on_cpu = Batches(IMAGES, 4, seed=0, device=CPU)
    on_cuda = Batches(IMAGES, 4, seed=0, device=torch.device("cuda"))
    for _ in range(6):
        batch = on_cuda.next_stored()[0]
        assert batch.is_cuda
        assert_close(batch.cpu(), on_cpu.next_stored()[0], rtol=0, atol=0)


CLASSES = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])


def test_balanced_batches_have_as_many_images_of_each_class(prefetched: bool) -> None:
    batches = Batches(IMAGES, 6, seed=0, device=CPU, labels=CLASSES, balanced=True)
    drawn: list[int] = []
    for _ in range(12):
        images, rows_ = batches.next_stored()
        assert torch.equal(images, IMAGES[rows_])
        assert CLASSES[rows_].bincount().tolist() == [2, 2, 2]
        drawn += rows_.tolist()
    assert set(drawn) == set(range(10))
    assert {drawn.count(row) for row in range(6, 10)} == {12}  # every epoch uses the small classes whole


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_shards_of_a_balanced_batch_are_balanced(ranks: int) -> None:
    size = 3 * ranks
    whole = Batches(IMAGES, size, seed=0, device=CPU, labels=CLASSES, balanced=True)
    shards = [
        Batches(IMAGES, size, seed=0, device=CPU, labels=CLASSES, balanced=True, shard=(rank, ranks))
        for rank in range(ranks)
    ]
    for _ in range(5):
        parts = [batches.next_images_and_labels()[1] for batches in shards]
        assert all(sorted(part.tolist()) == [0, 1, 2] for part in parts)
        assert torch.equal(torch.cat(parts), whole.next_images_and_labels()[1])


def test_a_balanced_stream_resumes(prefetched: bool) -> None:
    batches, other = (Batches(IMAGES, 6, seed=0, device=CPU, labels=CLASSES, balanced=True) for _ in range(2))
    rows(batches, 3)
    state = batches.state_dict()
    expected = rows(batches, 4)
    other.load_state_dict(state)
    assert rows(other, 4) == expected
