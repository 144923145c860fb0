"""Random changes of images: shifts, mirror images, and DiffAugment."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from snngan.data import to_unit_range
from snngan.data.augment import DIFF_AUGMENTATIONS, diff_augment, parse_names, shift_images
from snngan.data.batches import Batches

CPU = torch.device("cpu")
IMAGES = torch.arange(6 * 3 * 16 * 12, dtype=torch.int64).remainder(251).to(torch.uint8).view(6, 3, 16, 12)


def test_shifted_images_are_moved_with_borders_repeated() -> None:
    offsets = torch.tensor([[0, 0], [2, -1], [-3, 0], [0, 20], [1, 1], [-20, -20]])
    moved = shift_images(IMAGES, offsets)
    assert moved.dtype == torch.uint8
    for number, (down, right) in enumerate(offsets.tolist()):
        for row in range(16):
            for column in range(12):
                source = min(max(row + down, 0), 15), min(max(column + right, 0), 11)
                assert torch.equal(moved[number, :, row, column], IMAGES[number, :, source[0], source[1]])


def test_flipped_batches_name_mirror_images() -> None:
    labels = torch.arange(6)
    batches = Batches(IMAGES, 3, seed=0, device=CPU, labels=labels, augment=("flip",))
    both = torch.cat([IMAGES, IMAGES.flip(3)])
    seen = set()
    for _ in range(40):
        images, rows = batches.next_stored()
        assert torch.equal(images, both[rows])
        assert batches.labels is not None
        assert torch.equal(batches.labels[rows], rows % 6)
        seen |= set(rows.tolist())
    assert seen == set(range(12))


def test_cropped_batches_are_moved_by_an_eighth_at_most() -> None:
    batches = Batches(IMAGES, 6, seed=0, device=CPU, augment=("crop",))
    choices = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    found = set()
    for _ in range(20):
        for image, row in zip(*batches.next_stored(), strict=True):
            matches = [
                tuple(each.tolist())
                for each in choices
                if torch.equal(shift_images(IMAGES[row : row + 1], each[None])[0], image)
            ]
            assert matches
            found |= set(matches)
    assert len(found) > 20


def test_augmented_batches_resume() -> None:
    def stream() -> Batches:
        return Batches(IMAGES, 2, seed=3, device=CPU, augment=("flip", "crop"))

    whole, resumed = stream(), stream()
    for _ in range(4):
        whole.next_stored()
    resumed.load_state_dict(whole.state_dict())
    for _ in range(10):
        assert_close(resumed.next_stored(), whole.next_stored(), rtol=0, atol=0)


def test_translation_moves_by_an_eighth_at_most_and_fills_with_zeros() -> None:
    images = to_unit_range(IMAGES).repeat(20, 1, 1, 1)
    torch.manual_seed(0)
    found = set()
    for image, moved in zip(images, diff_augment(images, ("translation",)), strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        matches = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if torch.equal(padded[:, down : down + 16, right : right + 12], moved)
        ]
        assert matches
        found |= set(matches)
    assert len(found) > 15


def test_cutout_blanks_a_square_of_half_the_side() -> None:
    images = torch.ones(50, 1, 16, 12)
    torch.manual_seed(0)
    changed = diff_augment(images, ("cutout",))
    for image in changed[:, 0]:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert torch.equal(image == 0, rows[:, None] & columns)  # a rectangle
        assert 4 <= rows.sum() <= 8 and 3 <= columns.sum() <= 6
    assert (changed == 0).sum((1, 2, 3)).max() == 48


def test_color_keeps_gray_pixels_gray_and_changes_brightness() -> None:
    images = to_unit_range(IMAGES[:, :1]).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    changed = diff_augment(images, ("color",))
    assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1))
    shifts = changed.mean((1, 2, 3)) - images.mean((1, 2, 3))
    assert shifts.abs().max() <= 0.5 and shifts.std() > 0.1
    contrast = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert contrast.min() >= 0.499 and contrast.max() <= 1.501 and contrast.std() > 0.1


@pytest.mark.parametrize("names", [DIFF_AUGMENTATIONS, *((name,) for name in DIFF_AUGMENTATIONS)])
def test_changes_are_differentiable(names: tuple[str, ...]) -> None:
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def change(images: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return diff_augment(images, names)

    assert torch.autograd.gradcheck(change, images)


def test_names() -> None:
    assert parse_names("--augment", "none", ("flip", "crop")) == ()
    assert parse_names("--augment", "crop,flip", ("flip", "crop")) == ("crop", "flip")
    for wrong in ("", "flip,flip", "mirror", "none,flip"):
        with pytest.raises(ValueError, match="--augment must be none, or some of flip, crop with commas between, got"):
            parse_names("--augment", wrong, ("flip", "crop"))
    with pytest.raises(ValueError, match="--augment must be none, or flip, got 'crop'"):
        parse_names("--augment", "crop", ("flip",))
