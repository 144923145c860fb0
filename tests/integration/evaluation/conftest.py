"""Small sets of images, a run and Inception weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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
def pytorch_fid_network() -> nn.Module:
    """Return pytorch-fid's InceptionV3, with random weights and statistics in place of the published ones."""
    from unittest import mock

    from pytorch_fid import inception

    torch.manual_seed(0)
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict"),
    ):
        inner = inception.fid_inception_v3()
        for module in inner.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        with mock.patch.object(inception, "fid_inception_v3", return_value=inner):
            network: nn.Module = inception.InceptionV3()
    network.inner_state = inner.state_dict()
    return network.eval()


@pytest.fixture(scope="session")
def inception_weights(pytorch_fid_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the weights of :func:`pytorch_fid_network`."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(pytorch_fid_network.inner_state, path)
    return path


def run_command(command: str, *words: str | Path) -> None:
    """Run a command that must succeed."""
    from snngan.cli import main

    with pytest.raises(SystemExit) as left:
        main([*command.split(), *map(str, words)])
    assert left.value.code == 0


TINY = "--dataset digits --batch-size 16 --device cpu --log-every 2 --steps 4"


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of 4 steps on the 8x8 digits."""
    path = tmp_path_factory.mktemp("runs") / "run"
    options = "--objective snnl-projected --arch mlp --set width=16 --sample-every 2"
    run_command(f"train {TINY} {options} --run-dir", path)
    return path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two small classifiers, of 4 steps on the 8x8 digits."""
    path = tmp_path_factory.mktemp("runs") / "classifier"
    run_command(f"classify train {TINY} --arch feedforward --set widths=8 --seeds 0:2 --run-dir", path)
    return path
