"""Samples: the same seed, the same images, whatever else is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

import snngan
from snngan.data import Dataset
from snngan.training.checkpoint import CheckpointError, load_newest
from snngan.training.gan import train_gan
from snngan.training.players import build_players
from snngan.training.run_folder import GanRun
from snngan.training.sampling import CHUNK, draw, plane, sample_images

CPU = torch.device("cpu")


def test_a_draw_begins_like_a_longer_one() -> None:
    long = draw(20 * CHUNK + 1, 3, seed=1)
    assert long.shape == (20 * CHUNK + 1, 3)
    for count in (1, 64, CHUNK - 1, CHUNK, CHUNK + 1):
        assert torch.equal(draw(count, 3, seed=1), long[:count])
    assert not torch.equal(draw(5, 3, seed=2), long[:5])
    assert_close(long.mean(), torch.tensor(0.0), atol=0.1, rtol=0)
    assert_close(long.std(), torch.tensor(1.0), atol=0.1, rtol=0)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw(5, 3, seed=1), plane(3, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 64])
def test_a_plane_is_of_typical_length_throughout(latent_dim: int) -> None:
    latents = plane(latent_dim, 5, seed=0)
    assert latents.shape == (25, latent_dim)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, plane(latent_dim, 5, seed=0))
    assert not torch.equal(latents, plane(latent_dim, 5, seed=1)) or latent_dim == 1
    if latent_dim >= 3:
        assert_close(latents.norm(dim=1), torch.full((25,), latent_dim**0.5))


def test_neighbors_on_a_plane_are_near_and_its_corners_are_not() -> None:
    grid = plane(64, 9, seed=0).view(9, 9, 64)
    right, down = grid.diff(dim=1).norm(dim=2), grid.diff(dim=0).norm(dim=2)
    across = (grid[0, 0] - grid[8, 8]).norm()
    assert right.max() < across / 4
    assert down.max() < across / 4
    assert right.min() > 0
    assert down.min() > 0


def test_the_average_is_what_is_sampled_from(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    run = run_of("run", objective="gan")
    train_gan(run, dataset, CPU)
    before = torch.get_rng_state()
    generator = snngan.load_generator(run.path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert generator.latent_dim == 8
    players = build_players(run.plan, CPU)
    players.load_state_dict(load_newest(run.checkpoints, lambda line: None)["players"])
    latents = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    expected = players.sample(latents)
    assert torch.equal(generator(latents), expected)
    assert_close(sample_images(generator, latents), expected)
    assert not torch.allclose(players.generator(latents), expected)


def test_the_first_images_do_not_depend_on_how_many_follow(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    run = run_of("run", steps=2)
    train_gan(run, dataset, CPU)
    generator = snngan.load_generator(str(run.path))
    many = sample_images(generator, draw(2 * CHUNK + 50, 8, seed=0))
    assert many.shape == (2 * CHUNK + 50, 1, 8, 8)
    for count in (1, 64, CHUNK, CHUNK + 1):
        assert torch.equal(sample_images(generator, draw(count, 8, seed=0)), many[:count])


def test_a_damaged_checkpoint_is_told(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    run = run_of("run")
    train_gan(run, dataset, CPU)
    newest = run.checkpoints / "step-00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    told: list[str] = []
    snngan.load_generator(run.path, notify=told.append)
    assert len(told) == 1
    assert str(newest) in told[0]


def test_another_run_s_checkpoint_is_refused(run_of: Callable[..., GanRun], dataset: Dataset) -> None:
    narrow, wide = run_of("narrow", steps=2), run_of("wide", "width=24", steps=2)
    train_gan(narrow, dataset, CPU)
    narrow.checkpoints.rename(wide.checkpoints)
    with pytest.raises(CheckpointError, match=r"does not fit the run's config\.json: its averaged is another"):
        snngan.load_generator(wide.path)
    with pytest.raises(CheckpointError, match=r"does not fit the run's config\.json: its generator is another"):
        train_gan(wide, dataset, CPU, start=load_newest(wide.checkpoints))
