"""The run folder: what a run writes besides its checkpoints, and how it is opened again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from snngan.config import Plan
from snngan.data.pictures import picture, save_png
from snngan.training.checkpoint import SaveError, write_atomically
from snngan.training.plan import build_architecture, plan_from_json
from snngan.version import __version__

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def next_run_dir(plan: Plan, parent: Path = Path("runs")) -> Path:
    """Return ``parent``/NNNN-DATASET-OBJECTIVE with the next free number."""
    numbers = [int(path.name[:4]) for path in parent.glob("[0-9][0-9][0-9][0-9]-*")]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", plan.dataset).strip("-.")[-40:]
    return parent / f"{max(numbers, default=0) + 1:04d}-{name}-{plan.objective}"


class RunFolder:
    """One run's folder: ``config.json``, ``metrics.jsonl``, ``samples/``, ``checkpoints/`` and TensorBoard events."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self._writer: SummaryWriter | None = None
        self._resumed_at = 0

    @classmethod
    def create(cls, path: Path, plan: Plan, device: torch.device) -> RunFolder:
        """Make the folder, which must not exist, and write ``config.json`` into it.

        Raises:
            ValueError: it exists, or cannot be made.
        """
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise ValueError(
                f"{path} exists already: choose another --run-dir, or go on with it by: snngan resume {path}"
            ) from error
        except OSError as error:
            raise ValueError(f"the run folder {path} cannot be made: {error.strerror}") from error
        run = cls(path, plan)
        content = {"plan": dataclasses.asdict(plan), "environment": environment(device)}
        write_atomically(path / "config.json", (json.dumps(content, indent=2) + "\n").encode())
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the run in the folder ``path``.

        Raises:
            ValueError: there is no such folder, or its ``config.json`` is missing or not a run's.
        """
        if not path.is_dir():
            raise ValueError(f"no run folder {path}: give the folder that snngan train named, such as runs/0001-...")
        file = path / "config.json"
        try:
            plan = json.loads(file.read_text(encoding="utf-8"))["plan"]
        except FileNotFoundError as error:
            raise ValueError(f"{path} is no run folder: it has no config.json") from error
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ValueError(f"{file} is not a run's configuration: {error}") from error
        return cls(path, plan_from_json(plan))

    @property
    def latent_dim(self) -> int:
        """Length of the generator's input vector."""
        return build_architecture(self.plan).latent_dim

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def rewind(self, step: int) -> None:
        """Forget what was logged after ``step``, so that a resumed run logs it once."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            kept = [line for line in file.read_text().splitlines(keepends=True) if _step_of(line) <= step]
            write_atomically(file, "".join(kept).encode())
        self._resumed_at = step

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Append ``scalars`` to ``metrics.jsonl`` and to TensorBoard."""
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **scalars}) + "\n")
        except OSError as error:
            raise SaveError(f"{self.path / 'metrics.jsonl'} could not be written: {error.strerror}") from error
        for tag, value in scalars.items():
            self._board().add_scalar(tag, value, step)

    def log_samples(self, step: int, fake: Tensor, real: Tensor) -> Path:
        """Write the pictures of ``fake`` and, beside them in TensorBoard, of ``real`` (N, C, H, W) in [-1, 1]."""
        path = self.samples / f"step-{step:08d}.png"
        grid = picture(fake, behind=real)
        try:
            save_png(grid, path)
        except OSError as error:
            raise SaveError(f"{path} could not be written: {error.strerror or error}") from error
        self._board().add_image("samples/fixed_noise", grid, step, dataformats="HWC")
        if step == 0:
            self._board().add_image("samples/real", picture(real), step, dataformats="HWC")
        return path

    def log_projection(self, step: int, points: Tensor, images: Tensor, names: list[str]) -> None:
        """Show ``points`` (N, D) with their ``images`` (N, C, H, W) in [-1, 1] and ``names`` in the projector."""
        is_picture = images.shape[-1] == images.shape[-2] > 1
        pictures = (images + 1) / 2 if is_picture else None
        self._board().add_embedding(points, names, pictures, step, tag="projection")

    def close(self) -> None:
        """Flush and close the TensorBoard events."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _board(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = self._resumed_at + 1 if self._resumed_at else None
            self._writer = SummaryWriter(str(self.path), purge_step=purge)
        return self._writer


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # the half-written last line of a killed run


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, commit and device, as they stand in ``config.json``."""
    import platform

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "snngan": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout this package runs from, or None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", os.fspath(root), "rev-parse", "HEAD"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
