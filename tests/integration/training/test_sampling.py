"""Samples: the same seed gives the same images, however many are drawn."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from reference.runs import gan_config, new_run, state_of, train_run
from torch.testing import assert_close

import snngan
from snngan.api import make_trainer
from snngan.checkpoint import CheckpointError
from snngan.data import Dataset
from snngan.files import save_tensors
from snngan.training.sampling import (
    CHUNK,
    PRETRAINED_FOLDER,
    draw_latents,
    latent_plane,
    sample_images,
    save_generator,
    truncate,
)


def test_a_draw_begins_like_a_longer_one() -> None:
    before = torch.get_rng_state()
    long = draw_latents(20 * CHUNK + 1, 3, seed=1)
    assert long.shape == (20 * CHUNK + 1, 3)
    for count in (1, 64, CHUNK - 1, CHUNK, CHUNK + 1):
        assert torch.equal(draw_latents(count, 3, seed=1), long[:count])
    assert not torch.equal(draw_latents(5, 3, seed=2), long[:5])
    assert_close(long.mean(), torch.tensor(0.0), atol=0.1, rtol=0)
    assert_close(long.std(), torch.tensor(1.0), atol=0.1, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 64])
def test_latents_on_a_plane_have_the_typical_length(latent_dim: int) -> None:
    before = torch.get_rng_state()
    latents = latent_plane(latent_dim, 5, seed=0)
    assert (latents.shape, latents.dtype) == ((25, latent_dim), torch.float32)
    assert torch.equal(latents, latent_plane(latent_dim, 5, seed=0))
    assert not torch.equal(latents, latent_plane(latent_dim, 5, seed=1)) or latent_dim == 1
    if latent_dim >= 3:
        assert_close(latents.norm(dim=1), torch.full((25,), latent_dim**0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbors_on_a_plane_are_near_and_its_corners_are_not() -> None:
    grid = latent_plane(64, 9, seed=0).view(9, 9, 64)
    steps = torch.cat([grid.diff(dim=dim).norm(dim=2).flatten() for dim in (0, 1)])
    assert 0 < steps.min() <= steps.max() < (grid[0, 0] - grid[8, 8]).norm() / 4


def test_the_averaged_generator_is_loaded(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset, objective="gan"))
    train_run(run, dataset)
    before = torch.get_rng_state()
    generator = snngan.load_generator(run.path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert (generator.latent_dim, generator.step) == (8, 6)
    trainer = make_trainer(run.config, dataset, torch.device("cpu"), state_of(run))
    latents = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    expected = trainer.sample(latents)
    assert torch.equal(generator(latents), expected)
    assert_close(sample_images(generator, latents), expected)
    assert not torch.allclose(trainer.generator(latents), expected)


def test_the_first_images_do_not_depend_on_how_many_follow(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset, steps=2))
    train_run(run, dataset)
    generator = snngan.load_generator(str(run.path))
    many = sample_images(generator, draw_latents(2 * CHUNK + 50, 8, seed=0))
    assert many.shape == (2 * CHUNK + 50, 1, 8, 8)
    for count in (1, 64, CHUNK, CHUNK + 1):
        assert torch.equal(sample_images(generator, draw_latents(count, 8, seed=0)), many[:count])


def test_a_damaged_checkpoint_is_reported(dataset: Dataset) -> None:
    run = new_run("run", gan_config(dataset))
    train_run(run, dataset)
    newest = run.checkpoints / "step-00000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    lines: list[str] = []
    assert snngan.load_generator(run.path, notify=lines.append).step == 4
    assert [str(newest) in line for line in lines] == [True]


def test_the_checkpoint_of_another_run_is_refused(dataset: Dataset) -> None:
    narrow, wide = (new_run(f"run-{width}", gan_config(dataset, f"width={width}", steps=2)) for width in (16, 24))
    train_run(narrow, dataset)
    narrow.checkpoints.rename(wide.checkpoints)
    with pytest.raises(CheckpointError, match=r"does not fit the run's config\.json: its ema_generator differs"):
        snngan.load_generator(wide.path)
    with pytest.raises(CheckpointError, match=r"does not fit the run's config\.json: its generator differs"):
        train_run(wide, dataset, state_of(wide))


@pytest.mark.parametrize("arch", ["mlp", "dcgan", "sngan"])
@pytest.mark.parametrize("conditional", [False, True])
def test_an_exported_generator_is_that_of_the_run(labeled: Dataset, arch: str, conditional: bool) -> None:
    settings = ("width=4", "latent_dim=8", *(("conditional=true",) if conditional else ()))
    run = new_run("run", gan_config(labeled, objective="gan", arch=arch, set=settings))
    train_run(run, labeled)
    step = save_generator(run, Path("a.safetensors"))
    expected: Any = snngan.load_generator(run.path)
    shutil.rmtree(run.path)
    generator: Any = snngan.load_generator("a.safetensors")
    for name in ("latent_dim", "num_classes", "step"):
        assert getattr(generator, name) == getattr(expected, name)
    assert step == generator.step and not generator.training
    labels = torch.arange(12) % 3 if conditional else None
    latents = draw_latents(12, generator.latent_dim, seed=0)
    images = sample_images(generator, latents, labels)
    assert_close(images, sample_images(expected, latents, labels), rtol=0, atol=0)
    assert str(Path.cwd()) not in Path("a.safetensors").read_bytes()[:5000].decode(errors="ignore")


def test_truncated_latents_are_normal_within_the_limit() -> None:
    latents = truncate(draw_latents(20000, 1, seed=0), 1.5).flatten()
    assert latents.abs().max() <= 1.5
    assert scipy.stats.kstest(latents, scipy.stats.truncnorm(-1.5, 1.5).cdf).pvalue > 0.01
    assert_close(truncate(latents[:, None], 8.0).flatten(), latents, rtol=0, atol=1e-5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "other.safetensors", {"a": torch.ones(2)}, {"kind": "other"})
    with pytest.raises(ValueError, match=r"other\.safetensors does not hold an exported generator"):
        snngan.load_generator(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="text is damaged, or not written by snngan"):
        snngan.load_generator(tmp_path / "text")


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_pretrained_generators_have_ten_classes(name: str) -> None:
    generator: Any = snngan.load_generator(f"pretrained:{name}")
    latents = draw_latents(10, generator.latent_dim, seed=0)
    images = sample_images(generator, latents, torch.arange(10))
    assert images.shape == (10, 1, 28, 28) and images.dtype == torch.float32
    assert images.std(0).mean() > 0.2


def test_unknown_pretrained_generators_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'digit'; did you mean 'digits'\? \(known: digits, fashion\)"):
        snngan.load_generator("pretrained:digit")
    assert sum(path.stat().st_size for path in PRETRAINED_FOLDER.iterdir()) < 2e6
