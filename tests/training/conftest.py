"""Tiny games on random images: a run takes a tenth of a second, in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from snngan.config import Plan, TrainConfig
from snngan.data import Dataset
from snngan.training.plan import make_plan
from snngan.training.run_folder import GanRun

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNNGAN_DATA", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def dataset() -> Dataset:
    """Return 64 + 16 images of 8x8 in which the brightness follows the row."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 128, (80, 1, 8, 8), generator=generator)
    images = (noise + 16 * torch.arange(8)[:, None]).clamp(max=255).to(torch.uint8)
    return Dataset("random", images[:64], None, images[64:], None)


@pytest.fixture
def points() -> Dataset:
    """Return 64 + 16 points of the plane."""
    generator = torch.Generator().manual_seed(0)
    both = torch.rand(80, 1, 1, 2, generator=generator) * 2 - 1
    return Dataset("random-points", both[:64], None, both[64:], None)


@pytest.fixture
def plan_of(dataset: Dataset) -> Callable[..., Plan]:
    """Return a function that makes a plan of a tiny game; ``set`` options are added to those that keep it tiny."""

    def make(*settings: str, data: Dataset = dataset, **options: Any) -> Plan:
        tiny: dict[str, Any] = {
            "arch": "mlp",
            "steps": 6,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "checkpoint_every": 2,
            "sample_every": 3,
            "log_every": 1,
        }
        settings = ("width=16", "latent_dim=8", "hidden_layers=2", *settings)
        return make_plan(TrainConfig(**tiny | {"dataset": data.name, "set": settings} | options), data)

    return make


@pytest.fixture
def run_of(tmp_path: Path, plan_of: Callable[..., Plan]) -> Callable[..., GanRun]:
    """Return a function that makes a new run folder ``name`` for a plan of a tiny game."""

    def make(name: str, *settings: str, **options: Any) -> GanRun:
        return GanRun.create(tmp_path / name, plan_of(*settings, **options), CPU)

    return make
