"""What every test runs under, and tiny data sets that many of them use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from reference.rows import bright_rows

from snngan.data import Dataset

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
settings.register_profile("snngan", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("snngan")


@pytest.fixture(autouse=True, scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give fixtures that outlive a test a folder of data sets, too, and train encoders for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNNGAN_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setattr("snngan.objectives.encoder.STEPS", 20)
        yield


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a folder of its own, with a folder of data sets in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNNGAN_DATA", str(tmp_path / "data"))


@pytest.fixture
def dataset() -> Dataset:
    """Return 64 + 16 images of 8x8 in which the brightness follows the row."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 128, (80, 1, 8, 8), generator=generator)
    images = (noise + 16 * torch.arange(8)[:, None]).clamp(max=255).to(torch.uint8)
    return Dataset("random", images[:64], None, images[64:], None)


@pytest.fixture
def colors() -> Dataset:
    """Return 64 + 16 random color images of 16x16."""
    images = torch.randint(0, 256, (80, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Dataset("colors", images[:64], None, images[64:], None)


@pytest.fixture
def points() -> Dataset:
    """Return 64 + 16 random 2-D points."""
    both = torch.rand(80, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Dataset("random-points", both[:64], None, both[64:], None)


@pytest.fixture
def labeled() -> Dataset:
    """Return 96 + 48 images of 8x8 of three classes."""
    return bright_rows(96, 48, noise=128, bright=100)
