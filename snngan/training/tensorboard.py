"""What TensorBoard reads: the event file and the projector's files, on disk as soon as they are logged.

torch's SummaryWriter leaves writing to a background thread that may be two minutes late: a killed run would lack
readings that its checkpoints have, and a full disk would show as that thread's traceback.
"""

from __future__ import annotations

import io
import math
import time
from pathlib import Path

from google.protobuf.text_format import MessageToString  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from snngan.data import to_uint8
from snngan.data.grids import Pixels, draw_grid
from snngan.files import write_atomically

PREFIX = "events.out.tfevents."
"""How the names of event files begin; a time in seconds follows."""


class EventFile:
    """The event file of one start of a run; opened, written and closed at each call.

    Args:
        folder: the run's folder.
        resumed_at: what earlier files hold of later steps is void; None: a new run.
    """

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        # TensorBoard reads in the order of the names, so that the file must come last even if the clock was set back.
        before = max((_time_of(path) for path in folder.glob(f"{PREFIX}*")), default=0.0)
        self.path = folder / f"{PREFIX}{max(time.time(), before + 1e-3):020.9f}"
        self._unwritten = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if resumed_at is not None:
            start = SessionLog(status=SessionLog.START)
            self._unwritten.append(Event(wall_time=time.time(), step=resumed_at + 1, session_log=start))

    def add_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Append one value a tag; raises ``OSError``."""
        self._add(step, [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])

    def add_pictures(self, step: int, pictures: dict[str, Pixels]) -> None:
        """Append one picture a tag; raises ``OSError``."""
        self._add(step, [Summary.Value(tag=tag, image=_image(content)) for tag, content in pictures.items()])

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._unwritten.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        with open(self.path, "ab") as file:
            records = RecordWriter(file)
            for event in self._unwritten:
                records.write(event.SerializeToString())
        self._unwritten.clear()


def _time_of(path: Path) -> float:
    """Return the time in the name of an event file, or 0 where another program named it."""
    try:
        time_in_name = float(path.name.removeprefix(PREFIX))
    except ValueError:
        return 0.0
    return time_in_name if 0 < time_in_name < 1e10 else 0.0


def _image(content: Pixels) -> Summary.Image:
    buffer = io.BytesIO()
    Image.fromarray(content).save(buffer, format="PNG")
    height, width, channels = content.shape
    return Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=buffer.getvalue())


def write_projection(folder: Path, step: int, points: Tensor, images: Tensor, names: list[str]) -> None:
    """Show ``points`` (N, D) with their ``images`` (N, C, H, W) in [-1, 1] and ``names`` in the projector.

    The choice offered is ``latest``, which TensorBoard opens with since it comes first in the alphabet, and every step,
    those of earlier starts of the run among them. Images that are points of the plane are not shown.

    Raises:
        SaveError: a file could not be written.
    """
    place = folder / "projector" / f"step-{step:08d}"
    rows = ["\t".join(f"{value:.7g}" for value in row) for row in points.tolist()]
    write_atomically(place / "tensors.tsv", ("\n".join(rows) + "\n").encode())
    write_atomically(place / "metadata.tsv", ("\n".join(names) + "\n").encode())
    height, width = images.shape[2:]
    if height > 1:
        sheet = draw_grid(to_uint8(images), math.ceil(math.sqrt(len(images))), enlarge=False)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, format="PNG")
        write_atomically(place / "sprite.png", buffer.getvalue())
    shown = {each.name: each.name for each in sorted(place.parent.glob("step-*"))}
    config = ProjectorConfig()
    for name, step_name in {"latest": place.name, **shown}.items():
        here = f"projector/{step_name}"
        entry = config.embeddings.add(
            tensor_name=name, tensor_path=f"{here}/tensors.tsv", metadata_path=f"{here}/metadata.tsv"
        )
        if height > 1:
            entry.sprite.image_path = f"{here}/sprite.png"
            entry.sprite.single_image_dim.extend([width, height])
    write_atomically(folder / "projector_config.pbtxt", MessageToString(config).encode())
