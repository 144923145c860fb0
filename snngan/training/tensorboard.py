"""What TensorBoard reads: the event file and the projector's files, on disk as soon as they are logged.

torch's SummaryWriter leaves writing to a background thread, whose traceback a full disk would print.
"""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.text_format import MessageToString  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_SCALAR, Summary
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from snngan.data import to_uint8
from snngan.data.grids import Pixels, draw_grid
from snngan.files import write_atomically
from snngan.training.tags import describe_tag

PREFIX = "events.out.tfevents."
"""How the names of event files begin; a time in seconds follows."""
NAME = re.compile(rf"{re.escape(PREFIX)}\d{{10}}\.\d{{9}}")
"""Names of event files written here; other programs may add files with other names."""


class EventFile:
    """The event file of one start of a run; opened, written and closed at each call.

    Args:
        folder: the run's folder.
        resumed_at: what earlier files hold of later steps is void; None: a new run.
    """

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        # TensorBoard reads in the order of the names, so that this one must be last even if the clock was set back.
        times = [
            float(path.name[len(PREFIX) :]) for path in folder.glob(f"{PREFIX}[0-9]*") if NAME.fullmatch(path.name)
        ]
        self.path = folder / f"{PREFIX}{max([time.time(), *(before + 1e-3 for before in times)]):020.9f}"
        self._unwritten = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        self._described: set[str] = set()
        if resumed_at is not None:
            start = SessionLog(status=SessionLog.START)
            self._unwritten.append(Event(wall_time=time.time(), step=resumed_at + 1, session_log=start))

    def add_config(self, values: Mapping[str, Any]) -> None:
        """Append the options of a run by name, as text and as hyperparameters; raises ``OSError``."""
        table = "\n".join(f"| {name} | {value} |" for name, value in values.items())
        plain = {
            name: value
            for name, value in values.items()
            if isinstance(value, str | int | float) and name not in ("data_dir", "data_digest")
        }
        _, hyperparameters, _ = summary.hparams(plain, {})  # type: ignore[no-untyped-call]
        text = summary.text("config", f"| option | value |\n|---|---|\n{table}")  # type: ignore[no-untyped-call]
        self._add(0, [*text.value, *hyperparameters.value])

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one value a tag; raises ``OSError``."""
        self._add(step, [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])

    def add_pictures(self, step: int, pictures: Mapping[str, Pixels]) -> None:
        """Append one picture a tag; raises ``OSError``."""
        self._add(step, [Summary.Value(tag=tag, image=_image(content)) for tag, content in pictures.items()])

    def _add(self, step: int, values: Sequence[Summary.Value]) -> None:
        for value in values:
            if value.tag not in self._described:  # the first value of a tag says what it is
                self._described.add(value.tag)
                kinds = {"simple_value": ("scalars", DATA_CLASS_SCALAR), "image": ("images", DATA_CLASS_BLOB_SEQUENCE)}
                if plugin := kinds.get(value.WhichOneof("value")):  # or else the data server drops the description
                    value.metadata.plugin_data.plugin_name, value.metadata.data_class = plugin
                    value.metadata.summary_description = describe_tag(value.tag)
        self._unwritten.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        with open(self.path, "ab") as file:
            records = RecordWriter(file)
            for event in self._unwritten:
                records.write(event.SerializeToString())
        self._unwritten.clear()


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
