"""A batch spread over processes has the loss and the gradients of the whole batch in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from snngan import soft_nearest_neighbor_loss


@pytest.mark.slow
@pytest.mark.parametrize("counts", ["30,0", "3,17,10"])
def test_ranks_agree_with_one_process(counts: str, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
    errors = tmp_path / "errors"
    with errors.open("w") as sink:
        ranks = [
            subprocess.Popen([*command, str(rank), counts, str(tmp_path / "meeting")], stderr=sink)
            for rank in range(counts.count(",") + 1)
        ]
    try:
        for rank in ranks:
            assert rank.wait(timeout=120) == 0, errors.read_text()
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_without_a_process_group_it_is_refused() -> None:
    with pytest.raises(ValueError, match="requires a process group"):
        soft_nearest_neighbor_loss(torch.zeros(4, 2), torch.arange(4) % 2, across_ranks=True)
