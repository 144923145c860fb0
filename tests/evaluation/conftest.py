"""Small sets of images for the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from snngan.data import Dataset
from snngan.data.datasets import load_dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of 12 small pictures in two subfolders, half of them gray."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(12):
        shape = (10, 12) if number % 2 else (10, 12, 3)
        path = tmp_path / "pictures" / str(number % 3 == 0) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of random weights of pytorch-fid's network."""
    from unittest import mock

    from pytorch_fid import inception

    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value=state),
        mock.patch.object(torch.nn.Module, "load_state_dict", lambda self, given: given.update(self.state_dict())),
    ):
        inception.fid_inception_v3()
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of 4 steps on the 8x8 digits."""
    from snngan.cli import main

    path = tmp_path_factory.mktemp("runs") / "run"
    options = "--arch mlp --set width=16 --batch-size 16 --device cpu --log-every 2 --sample-every 2 --steps 4"
    with pytest.raises(SystemExit) as left:
        main([*f"train --dataset digits --objective snnl-projected {options}".split(), "--run-dir", str(path)])
    assert left.value.code == 0
    return path
